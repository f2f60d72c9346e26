// widget.js: the floating button, the element and the global `Tokenwire`. The panel is loaded when the chat is opened,
// or when the pointer or the focus reaches the button.

import type { Conversation } from "../client/client.js";
import type { mount, Panel } from "./panel.js";
import { fromAttributes, type Settings } from "./settings.js";
import { LAUNCHER_STYLES } from "./styles.js";
import { type Chunk, load } from "./verified.js";

/** Defined by build.js. */
declare const PANEL: Chunk;

/** Events that a page can subscribe to with `on`. */
export type EventName = "ready" | "open" | "close" | "conversation" | "message" | "unread" | "state" | "error";

type Listener = (detail: unknown) => void;

/** A floating chat of the page. */
export interface Chat {
  open(): void;
  close(): void;
  toggle(): void;
  /** Send a message as the user, and show it. */
  send(text: string): void;
  /** Call `listener` for each event. Returns a function that unsubscribes. */
  on(name: EventName, listener: Listener): () => void;
  /** The conversation; undefined until the panel is loaded. */
  readonly conversation: Conversation | undefined;
  /** Remove the chat from the page. */
  remove(): void;
}

// Of the prototype: on the document itself, an element named `currentScript` in the text of a user hides the property,
// and its `src` would get the token. It is read while the file runs; later it is null.
const running: unknown = Reflect.get(Document.prototype, "currentScript", document);
const script = running instanceof HTMLScriptElement ? running : undefined;
const folder = new URL("widget/", script?.src ?? location.href).href;
const gateway = new URL(".", script?.src ?? location.href).href.replace(/\/$/, "");
const nonce = script?.nonce;

let loading: Promise<{ mount: typeof mount }> | undefined;

function loadPanel(): Promise<{ mount: typeof mount }> {
  loading ??= load<{ mount: typeof mount }>(PANEL, folder, nonce).catch((error: unknown) => {
    // The next click tries again.
    loading = undefined;
    throw error;
  });
  return loading;
}

function withDefaults(settings: Settings): Settings {
  return { url: gateway, ...(nonce && { nonce }), ...settings };
}

/** Storage names: the chat was used in this browser, and is open in this tab. */
const USED = `tokenwire used ${gateway}`;
const OPEN = `tokenwire open ${gateway}`;

/** Return whether a flag is set, after setting or removing it. Without storage every flag is unset. */
function flag(storage: "localStorage" | "sessionStorage", name: string, set?: boolean): boolean {
  try {
    if (set) window[storage].setItem(name, "1");
    else if (set === false) window[storage].removeItem(name);
    return window[storage].getItem(name) !== null;
  } catch {
    return false;
  }
}

class FloatingChat implements Chat {
  readonly #host = document.createElement("tokenwire-widget");
  readonly #button = document.createElement("button");
  readonly #badge = document.createElement("span");
  readonly #settings: Settings;
  readonly #listeners = new Map<EventName, Set<Listener>>();
  readonly #name: string;
  #panel: Panel | undefined;
  #mounting: Promise<Panel> | undefined;
  #open = false;

  constructor(settings: Settings) {
    this.#settings = withDefaults(settings);
    const { theme = "auto", position = "end", dir, conversation = "" } = settings;
    this.#name = ` ${conversation}`;
    Object.assign(this.#host.dataset, { theme, position });
    if (dir) this.#host.dir = dir;
    const root = this.#host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(LAUNCHER_STYLES);
    root.adoptedStyleSheets = [sheet];
    const button = this.#button;
    button.type = "button";
    button.className = "launcher";
    button.part.add("launcher");
    button.setAttribute("aria-haspopup", "dialog");
    this.#badge.className = "badge";
    this.#badge.part.add("badge");
    this.#badge.hidden = true;
    this.#draw();
    button.onclick = () => this.toggle();
    // The panel is loaded before the click.
    button.onpointerenter = button.onfocus = () => void loadPanel().catch(() => undefined);
    root.append(button);
    document.body.append(this.#host);

    if (settings.open || flag("sessionStorage", OPEN + this.#name)) this.open();
    // A returning user sees the number of unread answers.
    else if (flag("localStorage", USED)) (window.requestIdleCallback ?? setTimeout)(() => void this.#mount());
  }

  get conversation(): Conversation | undefined {
    return this.#panel?.conversation;
  }

  open(): void {
    if (this.#open) return;
    this.#open = true;
    this.#draw();
    flag("localStorage", USED, true);
    flag("sessionStorage", OPEN + this.#name, true);
    void this.#mount().then((panel) => {
      if (!this.#open) return;
      panel?.open();
      this.#emit("open");
    });
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#draw();
    flag("sessionStorage", OPEN + this.#name, false);
    this.#panel?.close();
    this.#button.focus();
    this.#emit("close");
  }

  toggle(): void {
    if (this.#open) this.close();
    else this.open();
  }

  send(text: string): void {
    void this.#mount().then((panel) => panel?.send(text));
  }

  on(name: EventName, listener: Listener): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  remove(): void {
    this.#panel?.remove();
    this.#host.remove();
  }

  async #mount(): Promise<Panel | undefined> {
    try {
      this.#mounting ??= loadPanel().then(({ mount }) => {
        const host = {
          close: () => this.close(),
          unread: (count: number) => this.#unread(count),
          event: (name: EventName, detail: unknown) => this.#emit(name, detail),
        };
        this.#panel = mount(this.#host.shadowRoot as ShadowRoot, this.#settings, host, true);
        this.#emit("ready");
        return this.#panel;
      });
      return await this.#mounting;
    } catch (error) {
      this.#mounting = undefined;
      this.#open = false;
      this.#draw();
      console.error("Tokenwire: the chat could not be loaded.", error);
      this.#emit("error", error);
      return undefined;
    }
  }

  #unread(count: number): void {
    this.#badge.hidden = count === 0;
    this.#badge.textContent = count > 99 ? "99+" : String(count);
    this.#draw();
    this.#emit("unread", count);
  }

  #draw(): void {
    const { open = "Open the chat", close = "Close the chat", unread = "{count} unread" } = this.#settings.texts ?? {};
    const count = this.#badge.hidden ? "" : `, ${unread.replace("{count}", this.#badge.textContent ?? "")}`;
    this.#button.ariaLabel = this.#open ? close : open + count;
    this.#button.ariaExpanded = String(this.#open);
    this.#button.replaceChildren(
      icon(this.#open ? "M7 10l5 5 5-5" : "M4.5 18.5 4 21l3.2-1.2A9 9 0 1 0 4.5 18.5M8.5 12h.01M12 12h.01M15.5 12h.01"),
      this.#badge,
    );
  }

  #emit(name: EventName, detail?: unknown): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) listener(detail);
  }
}

function icon(path: string): SVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.appendChild(document.createElementNS(namespace, "path")).setAttribute("d", path);
  return svg;
}

/** `<tokenwire-chat>`: a chat inside the page, with the attributes of the script tag. */
class InlineChat extends HTMLElement {
  #panel: Panel | undefined;

  connectedCallback(): void {
    const settings = withDefaults({ ...fromAttributes(this.dataset), ...(this as { settings?: Settings }).settings });
    this.dataset["theme"] = settings.theme ?? "auto";
    void loadPanel().then(
      ({ mount }) => {
        if (!this.isConnected || this.#panel) return;
        const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
        const emit = (name: EventName, detail?: unknown) =>
          this.dispatchEvent(new CustomEvent(`tokenwire-${name}`, { detail }));
        this.#panel = mount(root, settings, { event: emit }, false);
        emit("ready");
      },
      (error: unknown) => console.error("Tokenwire: the chat could not be loaded.", error),
    );
  }

  disconnectedCallback(): void {
    this.#panel?.remove();
    this.#panel = undefined;
  }
}

type Call = [name: "init" | "open" | "close" | "toggle" | "send" | "on", ...values: unknown[]];

/** The global `Tokenwire`. It controls the first floating chat; `init` creates and returns another. */
const api = {
  init(settings: Settings = {}): Chat {
    const chat = new FloatingChat(settings);
    chats.push(chat);
    return chat;
  },
  open: () => chats[0]?.open(),
  close: () => chats[0]?.close(),
  toggle: () => chats[0]?.toggle(),
  send: (text: string) => chats[0]?.send(text),
  on: (name: EventName, listener: Listener) => chats[0]?.on(name, listener),
  /** Calls from before the script was loaded: `(window.Tokenwire ||= []).push(["open"])`. */
  push([name, ...values]: Call): void {
    (api[name] as (...values: unknown[]) => unknown)(...values);
  },
};

const chats: Chat[] = [];

function start(): void {
  const page = window as unknown as { Tokenwire?: typeof api | Call[] };
  const before = page.Tokenwire;
  // A second script tag uses the API of the first, and creates a second chat. An element with the id `Tokenwire` has the
  // same name, but no function `init`.
  const target = (before as typeof api | undefined)?.init?.call ? (before as typeof api) : api;
  page.Tokenwire = target;
  if (target === api && !customElements.get("tokenwire-chat")) customElements.define("tokenwire-chat", InlineChat);
  const data = script?.dataset ?? {};
  // The tag creates a floating chat, unless the page has an element or `data-manual`.
  if (data["manual"] === undefined && !document.querySelector("tokenwire-chat")) {
    const settings = fromAttributes(data);
    target.init(target === api ? settings : { url: gateway, ...settings });
  }
  if (Array.isArray(before)) for (const call of before) api.push(call);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
