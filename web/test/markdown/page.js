// A document for the tests, and what is in it as text.

import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, {
  document: window.document,
  Element: window.Element,
  HTMLElement: window.HTMLElement,
  Text: window.Text,
});

export const { markdown } = await import("../../.build/markdown/markdown.js");
export const { lite } = await import("../../.build/markdown/lite.js");

/** An element, its attributes in order, and all that is in it. */
export function shape(node) {
  if (node.nodeType === 3) return node.data;
  const attributes = [...node.attributes].sort((a, b) => (a.name < b.name ? -1 : 1));
  const inside = [...node.childNodes].map(shape).join("");
  return `<${node.localName}${attributes.map(({ name, value }) => ` ${name}=${JSON.stringify(value)}`).join("")}>${inside}</${node.localName}>`;
}

/** An element in which a text is shown, as far as it has come. */
export function begun(renderer = markdown, options = {}) {
  const parent = document.createElement("div");
  return { parent, view: renderer(parent, options) };
}

/** The element in which a text is shown that came at once. */
export function whole(text, renderer = markdown, options = {}) {
  const { parent, view } = begun(renderer, options);
  view.write(text);
  view.end();
  return parent;
}

/** What a reader sees, without what is in elements of these kinds. */
export function seen(node, ...without) {
  if (node.nodeType === 3) return node.data;
  if (without.some((each) => node.matches(each))) return "";
  return [...node.childNodes].map((each) => seen(each, ...without)).join("");
}

/** All that is in an element, the outer ones first. */
export function elements(parent) {
  return [...parent.children].flatMap((each) => [each, ...elements(each)]);
}
