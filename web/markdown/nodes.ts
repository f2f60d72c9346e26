// Creates DOM nodes from element descriptions, and updates them with minimal changes. It never parses HTML, so text cannot
// create elements.

import type { Content, Description } from "./parse.js";

export function nodeOf(description: Description | string): Node {
  if (typeof description === "string") return document.createTextNode(description);
  const element = document.createElement(description.tag);
  if (description.class !== undefined) element.className = description.class;
  for (const [name, value] of Object.entries(description.attributes ?? {})) element.setAttribute(name, value);
  element.append(...description.content.map(nodeOf));
  return element;
}

/**
 * Update the children of a node from index `from` on, which match `before`, to match `after`. Unchanged children keep their
 * nodes, and with them selection and scroll position.
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
    // Appending preserves a selection in the existing text.
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
