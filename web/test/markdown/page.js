// A DOM for the tests, and helpers that read it.

import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, {
  document: window.document,
  Element: window.Element,
  HTMLElement: window.HTMLElement,
  Text: window.Text,
});

export const { markdown } = await import("#src/markdown/markdown.js");
export const { lite } = await import("#src/markdown/lite.js");

/** Return an element with sorted attributes and content as text. */
export function shape(node) {
  if (node.nodeType === 3) return node.data;
  const attributes = [...node.attributes].sort((a, b) => (a.name < b.name ? -1 : 1));
  const inside = [...node.childNodes].map(shape).join("");
  return `<${node.localName}${attributes.map(({ name, value }) => ` ${name}=${JSON.stringify(value)}`).join("")}>${inside}</${node.localName}>`;
}

/** Return an element and a renderer for it. @returns {{parent: any, view: import("#src/markdown/markdown.js").Markdown}} */
export function render(renderer = markdown, options = {}) {
  const parent = document.createElement("div");
  return { parent, view: renderer(parent, options) };
}

/** Return an element with a complete text. */
export function renderAll(text, renderer = markdown, options = {}) {
  const { parent, view } = render(renderer, options);
  view.write(text);
  view.end();
  return parent;
}

/** Return the visible text, without elements that match one of the selectors. */
export function visibleText(node, ...without) {
  if (node.nodeType === 3) return node.data;
  if (without.some((each) => node.matches(each))) return "";
  return [...node.childNodes].map((each) => visibleText(each, ...without)).join("");
}

/** Return all descendants, parents first. */
export function elements(parent) {
  return [...parent.children].flatMap((each) => [each, ...elements(each)]);
}
