// The element `<tokenwire-chat>` for a page that bundles it: the same panel, with all that it loads later beside it.

import { type Panel, mount } from "./panel.js";
import { type Settings, fromAttributes } from "./settings.js";

export type { Settings };

/** A chat as a part of the page. `settings` and `data-` attributes say the same; what is in both is taken from `settings`. */
export class TokenwireChat extends HTMLElement {
  settings: Settings = {};
  #panel: Panel | undefined;

  connectedCallback(): void {
    const settings = { ...fromAttributes(this.dataset), ...this.settings };
    this.dataset["theme"] = settings.theme ?? "auto";
    const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
    const event = (name: string, detail: unknown) => this.dispatchEvent(new CustomEvent(`tokenwire-${name}`, { detail }));
    this.#panel ??= mount(root, settings, { event }, false);
  }

  disconnectedCallback(): void {
    this.#panel?.remove();
    this.#panel = undefined;
  }

  get panel(): Panel | undefined {
    return this.#panel;
  }
}

if (!customElements.get("tokenwire-chat")) customElements.define("tokenwire-chat", TokenwireChat);
