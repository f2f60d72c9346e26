// `import "tokenwire/chat"`: the element `<tokenwire-chat>` for a page that is bundled. The same panel as in widget.js,
// with the client of the package and with what it loads later beside it.

import type { Conversation } from "../client/client.js";
import { mount, type Panel } from "./panel.js";
import { fromAttributes, type Settings } from "./settings.js";

export type { Settings };

/** On a server there are no elements; the module may be imported there all the same. */
const HtmlElement = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

/**
 * A chat as a part of the page. Dispatches `tokenwire-conversation`, `tokenwire-message`, `tokenwire-state` and
 * `tokenwire-error`, with what it is about as `detail`.
 */
export class TokenwireChat extends HtmlElement {
  /** What `data-` attributes say as well, as far as they can. Read when the element is put on the page. */
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

  /** The conversation that is shown; undefined while the element is not on the page. */
  get conversation(): Conversation | undefined {
    return this.#panel?.conversation;
  }

  /** Send a message as the person, and show it. */
  send(text: string): void {
    this.#panel?.send(text);
  }

  override focus(): void {
    this.#panel?.focus();
  }
}

if (globalThis.customElements && !customElements.get("tokenwire-chat"))
  customElements.define("tokenwire-chat", TokenwireChat);
