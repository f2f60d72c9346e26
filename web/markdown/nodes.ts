// Descriptions as nodes of the document, and the least change from one description to the next. Nodes are made, HTML is
// never read: a text can not become an element that is not described.

import type { Content, Description } from "./reading.js";

export function nodeOf(description: Description | string): Node {
  if (typeof description === "string") return document.createTextNode(description);
  const element = document.createElement(description.tag);
  if (description.class !== undefined) element.className = description.class;
  for (const [name, value] of Object.entries(description.attributes ?? {})) element.setAttribute(name, value);
  element.append(...description.content.map(nodeOf));
  return element;
}

/**
 * Make the children of a node from the one at `from` on, which stand as `before` says, stand as `after` says. What is
 * the same stays the same node, with what the reader has selected or scrolled in it.
 */
export function patch(parent: Node, from: number, before: Content, after: Content): void {
  after.forEach((wanted, index) => {
    const had = before[index];
    const node = parent.childNodes[from + index];
    if (had === undefined || node === undefined) parent.appendChild(nodeOf(wanted));
    else if (had !== wanted) change(node, had, wanted);
  });
  for (let index = after.length; index < before.length; index += 1) parent.childNodes[from + after.length]?.remove();
}

function change(node: ChildNode, had: Description | string, wanted: Description | string): void {
  if (typeof had === "string" && typeof wanted === "string" && node.nodeType === 3) {
    const text = node as Text;
    // Only what is new is written, so that what is selected before it stays selected.
    if (wanted.startsWith(had)) text.appendData(wanted.slice(had.length));
    else text.data = wanted;
    return;
  }
  if (typeof had === "string" || typeof wanted === "string" || had.tag !== wanted.tag) {
    node.replaceWith(nodeOf(wanted));
    return;
  }
  const element = node as HTMLElement;
  if (wanted.class === undefined) element.removeAttribute("class");
  else if (had.class !== wanted.class) element.className = wanted.class;
  const names = new Set([...Object.keys(had.attributes ?? {}), ...Object.keys(wanted.attributes ?? {})]);
  for (const name of names) {
    const value = wanted.attributes?.[name];
    if (value === had.attributes?.[name]) continue;
    if (value === undefined) element.removeAttribute(name);
    else element.setAttribute(name, value);
  }
  patch(element, 0, had.content, wanted.content);
}
