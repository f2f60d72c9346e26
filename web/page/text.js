// The text of an answer on the page: its blocks as nodes, of which those that are finished stay as they are.
// A shell: what a text means is decided in blocks.js. It becomes nodes and never HTML, so that it cannot do anything.

import { describe, read } from "./blocks.js";

/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./blocks.js").Description} Description */

/** A text that grows: what is drawn stays, but for the last block. */
export class GrowingText {
  /** @type {{block: Block, node: HTMLElement}[]} */
  #drawn = [];
  /** @type {import("./blocks.js").Reading | undefined} */
  #reading;

  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.parent = parent;
  }

  /**
   * Show a text: more of the one that is shown, or another.
   *
   * @param {string} text all of it
   * @param {boolean} open whether its end may be missing
   */
  show(text, open) {
    this.#reading = read(text, open, this.#reading);
    const { blocks } = this.#reading;
    blocks.forEach((block, index) => {
      const before = this.#drawn[index];
      if (before === undefined) {
        const node = nodeOf(describe(block));
        this.parent.append(node);
        this.#drawn.push({ block, node });
        return;
      }
      if (before.block.source !== block.source || before.block.open !== block.open) {
        if (before.block.kind === "code" && block.kind === "code") {
          // The same node, so that a reader who scrolled it sideways stays there.
          const code = /** @type {Node} */ (before.node.firstChild);
          const inside = block.lines.join("\n");
          // To write what is there already would lose what the reader selected.
          if (code.textContent !== inside) code.textContent = inside;
        } else {
          const node = nodeOf(describe(block));
          before.node.replaceWith(node);
          before.node = node;
        }
      }
      before.block = block;
    });
    for (const { node } of this.#drawn.splice(blocks.length)) node.remove();
  }
}

/** @param {Description} description */
function nodeOf({ tag, content, kind, href, start }) {
  const node = document.createElement(tag);
  if (kind !== undefined) node.className = kind;
  if (node instanceof HTMLOListElement && start !== undefined) node.start = start;
  if (node instanceof HTMLAnchorElement && href !== undefined) {
    node.href = href;
    node.target = "_blank";
    node.rel = "noopener noreferrer nofollow";
  }
  for (const each of content) node.append(typeof each === "string" ? each : nodeOf(each));
  return node;
}
