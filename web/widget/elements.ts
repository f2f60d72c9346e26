// Creates elements and icons without parsing HTML.

type Child = Node | string | null;

interface ElementOptions {
  class?: string;
  /** Name for `::part()`, so that a page can style it. */
  part?: string;
  text?: string;
  hidden?: boolean;
  /** Other fields become attributes. */
  [attribute: string]: string | boolean | undefined;
}

export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  options: ElementOptions = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  const { class: names, text, hidden, ...attributes } = options;
  if (names) element.className = names;
  if (text !== undefined) element.textContent = text;
  if (hidden) element.hidden = true;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (typeof value === "string") element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Create a button with an accessible name, and an icon or a text. */
export function button(
  label: string,
  icon: Icon | null,
  options: ElementOptions,
  onClick: () => void,
): HTMLButtonElement {
  const element = make(
    "button",
    { type: "button", ...(icon && { "aria-label": label, title: label }), ...options },
    icon ? iconOf(icon) : label,
  );
  element.addEventListener("click", onClick);
  return element;
}

const ICONS = {
  chat: "M4.5 18.5 4 21l3.2-1.2A9 9 0 1 0 4.5 18.5M8.5 12h.01M12 12h.01M15.5 12h.01",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7.5 7.5h9v9h-9z",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  again: "M19.5 12a7.5 7.5 0 1 1-2.3-5.4L20 9.3M20 4v5.300h-5.300",
  on: "M7 5l11 7-11 7z",
  plus: "M12 5v14M5 12h14",
  down: "M12 5v14M6 13l6 6 6-6",
};

export type Icon = keyof typeof ICONS;

export function iconOf(icon: Icon): SVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${icon}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", ICONS[icon]);
  svg.append(path);
  return svg;
}

/** Add a style sheet to a root. A strict policy would block a style element. */
export function style(root: ShadowRoot, css: string): void {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
}
