// widget.js: the button that floats, the element, and `Tokenwire` for the page. The chat itself is loaded when it is
// opened, or about to be.

import type { Conversation } from "../client/client.js";
import type { mount, Panel } from "./panel.js";
import { fromAttributes, type Settings } from "./settings.js";
import { LAUNCHER_STYLES } from "./styles.js";
import { type Chunk, load } from "./verified.js";

/** Put in when it is built. */
declare const PANEL: Chunk;

/** What a page can listen to, with `on`. */
export type EventName = "ready" | "open" | "close" | "conversation" | "message" | "unread" | "state" | "error";

type Listener = (detail: unknown) => void;

/** One chat of the page. */
export interface Chat {
  open(): void;
  close(): void;
  toggle(): void;
  /** Send a message as the person, and show it. */
  send(text: string): void;
  /** Be told of something. Returns what ends it. */
  on(name: EventName, listener: Listener): () => void;
  /** The conversation, once the chat is loaded. */
  readonly conversation: Conversation | undefined;
  /** Take it off the page. */
  remove(): void;
}

const script = document.currentScript as HTMLScriptElement | null;
const folder = new URL("widget/", script?.src ?? location.href).href;
const gateway = new URL(".", script?.src ?? location.href).href.replace(/\/$/, "");
const nonce = script?.nonce;

let loading: Promise<{ mount: typeof mount }> | undefined;

function loadPanel(): Promise<{ mount: typeof mount }> {
  loading ??= load<{ mount: typeof mount }>(PANEL, folder, nonce).catch((error: unknown) => {
    // The network may be back at the next click.
    loading = undefined;
    throw error;
  });
  return loading;
}

function withDefaults(settings: Settings): Settings {
  return { url: gateway, ...(nonce && { nonce }), ...settings };
}

/** The names under which this browser remembers that the chat was used, and this tab that it is open. */
const USED = `tokenwire used ${gateway}`;
const OPEN = `tokenwire open ${gateway}`;

/** Whether a name is kept; or keep it, or no longer. A browser that keeps nothing opens the chat closed. */
function kept(storage: "localStorage" | "sessionStorage", name: string, keep?: boolean): boolean {
  try {
    if (keep) window[storage].setItem(name, "1");
    else if (keep === false) window[storage].removeItem(name);
    return window[storage].getItem(name) !== null;
  } catch {
    return false;
  }
}

class Floating implements Chat {
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
    // By the time that it is pressed it is there.
    button.onpointerenter = button.onfocus = () => void loadPanel().catch(() => undefined);
    root.append(button);
    document.body.append(this.#host);

    if (settings.open || kept("sessionStorage", OPEN + this.#name)) this.open();
    // Who has used it before is told of answers that came meanwhile.
    else if (kept("localStorage", USED)) (window.requestIdleCallback ?? setTimeout)(() => void this.#mount());
  }

  get conversation(): Conversation | undefined {
    return this.#panel?.conversation;
  }

  open(): void {
    if (this.#open) return;
    this.#open = true;
    this.#draw();
    kept("localStorage", USED, true);
    kept("sessionStorage", OPEN + this.#name, true);
    void this.#mount().then((panel) => {
      if (!this.#open) return;
      panel?.open();
      this.#tell("open");
    });
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#draw();
    kept("sessionStorage", OPEN + this.#name, false);
    this.#panel?.close();
    this.#button.focus();
    this.#tell("close");
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
        const holder = {
          close: () => this.close(),
          unread: (count: number) => this.#unread(count),
          event: (name: EventName, detail: unknown) => this.#tell(name, detail),
        };
        this.#panel = mount(this.#host.shadowRoot as ShadowRoot, this.#settings, holder, true);
        this.#tell("ready");
        return this.#panel;
      });
      return await this.#mounting;
    } catch (error) {
      this.#mounting = undefined;
      this.#open = false;
      this.#draw();
      console.error("Tokenwire: the chat could not be loaded.", error);
      this.#tell("error", error);
      return undefined;
    }
  }

  #unread(count: number): void {
    this.#badge.hidden = count === 0;
    this.#badge.textContent = count > 99 ? "99+" : String(count);
    this.#draw();
    this.#tell("unread", count);
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

  #tell(name: EventName, detail?: unknown): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) listener(detail);
  }
}

function icon(path: string): SVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.appendChild(document.createElementNS(space, "path")).setAttribute("d", path);
  return svg;
}

/** `<tokenwire-chat>`: the chat as a part of the page. Its attributes are those of the script tag. */
class Inline extends HTMLElement {
  #panel: Panel | undefined;

  connectedCallback(): void {
    const settings = withDefaults({ ...fromAttributes(this.dataset), ...(this as { settings?: Settings }).settings });
    this.dataset["theme"] = settings.theme ?? "auto";
    void loadPanel().then(
      ({ mount }) => {
        if (!this.isConnected || this.#panel) return;
        const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
        const tell = (name: EventName, detail?: unknown) =>
          this.dispatchEvent(new CustomEvent(`tokenwire-${name}`, { detail }));
        this.#panel = mount(root, settings, { event: tell }, false);
        tell("ready");
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

/** What a page calls. It speaks to the first chat that floats; `init` makes another one and returns it. */
const api = {
  init(settings: Settings = {}): Chat {
    const chat = new Floating(settings);
    chats.push(chat);
    return chat;
  },
  open: () => chats[0]?.open(),
  close: () => chats[0]?.close(),
  toggle: () => chats[0]?.toggle(),
  send: (text: string) => chats[0]?.send(text),
  on: (name: EventName, listener: Listener) => chats[0]?.on(name, listener),
  /** What a page has called before this was loaded: `(window.Tokenwire ||= []).push(["open"])`. */
  push([name, ...values]: Call): void {
    (api[name] as (...values: unknown[]) => unknown)(...values);
  },
};

const chats: Chat[] = [];

function begin(): void {
  const page = window as unknown as { Tokenwire?: typeof api | Call[] };
  const before = page.Tokenwire;
  // A second script tag makes a second chat, with the code that is there.
  const there = before !== undefined && !Array.isArray(before) ? before : api;
  page.Tokenwire = there;
  if (there === api && !customElements.get("tokenwire-chat")) customElements.define("tokenwire-chat", Inline);
  const data = script?.dataset ?? {};
  // The tag makes a chat that floats, unless the page makes its own.
  if (data["manual"] === undefined && !document.querySelector("tokenwire-chat")) {
    const settings = fromAttributes(data);
    there.init(there === api ? settings : { url: gateway, ...settings });
  }
  if (Array.isArray(before)) for (const call of before) api.push(call);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
else begin();
