// Elements and icons, made without HTML.

type Child = Node | string | null;

interface Traits {
  class?: string;
  /** The name by which a page styles it from outside. */
  part?: string;
  text?: string;
  hidden?: boolean;
  /** Everything else, as attributes. */
  [attribute: string]: string | boolean | undefined;
}

export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  traits: Traits = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  const { class: names, text, hidden, ...attributes } = traits;
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

/** A real button: with a name that is read, and an icon or a text that is seen. */
export function button(label: string, icon: Icon | null, traits: Traits, act: () => void): HTMLButtonElement {
  const element = make(
    "button",
    { type: "button", ...(icon && { "aria-label": label, title: label }), ...traits },
    icon ? drawn(icon) : label,
  );
  element.addEventListener("click", act);
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

export function drawn(icon: Icon): SVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${icon}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[icon]);
  svg.append(path);
  return svg;
}

/** Style a root without a style element, which a strict policy would refuse. */
export function style(root: ShadowRoot, css: string): void {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
}
