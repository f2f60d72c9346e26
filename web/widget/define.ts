// Entry `tokenwire/chat`: the element `<tokenwire-chat>` for bundled pages. It has the same panel as widget.js, and uses
// the client and the lazy chunks of the package.

import type { Conversation } from "../client/client.js";
import { mount, type Panel } from "./panel.js";
import { fromAttributes, type Settings } from "./settings.js";

export type { Settings };

/** A substitute on a server, where the module can be imported although there are no elements. */
const HtmlElement = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

/**
 * A chat inside the page. Dispatches `tokenwire-conversation`, `tokenwire-message`, `tokenwire-state` and
 * `tokenwire-error`, with the object as `detail`.
 */
export class TokenwireChat extends HtmlElement {
  /** Settings, which override the `data-` attributes. Read when the element is connected. */
  settings: Settings = {};
  #panel: Panel | undefined;

  connectedCallback(): void {
    const settings = { ...fromAttributes(this.dataset), ...this.settings };
    this.dataset["theme"] = settings.theme ?? "auto";
    const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
    const event = (name: string, detail: unknown) =>
      this.dispatchEvent(new CustomEvent(`tokenwire-${name}`, { detail }));
    this.#panel ??= mount(root, settings, { event }, false);
  }

  disconnectedCallback(): void {
    this.#panel?.remove();
    this.#panel = undefined;
  }

  /** The shown conversation; undefined while the element is not connected. */
  get conversation(): Conversation | undefined {
    return this.#panel?.conversation;
  }

  /** Send a message as the user, and show it. */
  send(text: string): void {
    this.#panel?.send(text);
  }

  override focus(): void {
    this.#panel?.focus();
  }
}

if (globalThis.customElements && !customElements.get("tokenwire-chat"))
  customElements.define("tokenwire-chat", TokenwireChat);
