// The panel of a chat in a shadow root: header, connection status, messages and composer.

import { type AssistantMessage, type Client, type Conversation, connect } from "../client/client.js";
import { lite } from "../markdown/lite.js";
import type { Markdown, markdown as renderMarkdown } from "../markdown/markdown.js";
import { announce } from "./announcer.js";
import { loadHighlighter, loadMarkdown } from "./chunks.js";
import { Composer } from "./composer.js";
import { button, make, style } from "./elements.js";
import { Frames } from "./frames.js";
import type { ViewContext } from "./message_views.js";
import type { Settings } from "./settings.js";
import { type Ending, Speech } from "./speech.js";
import { connectionStatus } from "./status.js";
import { PANEL_STYLES } from "./styles.js";
import { filled, TEXTS, type Texts } from "./texts.js";
import { TranscriptView } from "./transcript_view.js";

/** Callbacks of the element that contains the panel. */
export interface PanelHost {
  /** The number of unread answers changed. */
  unread?(count: number): void;
  /** The user pressed the close button or Escape. If absent, the panel has no close button. */
  close?(): void;
  /** `conversation`: the shown one; `message`: each settled message; `state`: the connection's; `error`: a refusal. */
  event?(name: "conversation" | "message" | "state" | "error", detail: unknown): void;
}

/** Duration of a disconnect before it is announced. */
const ANNOUNCE_LOSS_MS = 1500;

const NARROW = "(max-width: 30rem)";

/** A chat on the page. */
export class Panel implements ViewContext {
  readonly texts: Texts;
  readonly debug: boolean;
  live = false;
  sentAt: number | null = null;

  readonly #root: ShadowRoot;
  readonly #settings: Settings;
  readonly #host: PanelHost;
  readonly #client: Client;
  readonly #frames = new Frames(() => this.#draw());
  readonly #ending = new AbortController();
  readonly #panel: HTMLElement;
  readonly #dot = make("span", { class: "dot" });
  readonly #connection = make("p", { class: "connection", part: "connection line", hidden: true });
  readonly #connectionText = make("span");
  readonly #tryNow: HTMLButtonElement;
  readonly #toEnd: HTMLButtonElement;
  readonly #composer: Composer;
  #transcript: TranscriptView;
  #conversation!: Conversation;
  #unsubscribe: () => void = () => undefined;
  #markdown: typeof renderMarkdown | null = null;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #visible: boolean;
  #unread = 0;
  /** Read answers, including those from before this page load. Null until the content is known. */
  #seen: Set<string> | null = null;
  #reported: Set<string> | null = null;
  #speech: { response: string; speech: Speech; revision: number } | null = null;
  #lostAt: number | null = null;
  #lossAnnounced = false;
  #state = "";

  /** @param floating whether the panel is a dialog over the page, which opens and closes */
  constructor(root: ShadowRoot, settings: Settings, host: PanelHost, floating: boolean) {
    this.#root = root;
    this.#settings = settings;
    this.#host = host;
    this.#visible = !floating;
    this.texts = { ...TEXTS, ...settings.texts, ...(settings.title && { title: settings.title }) };
    this.debug = settings.debug ?? false;
    const { texts } = this;
    style(root, PANEL_STYLES);

    const { client, url = location.origin, token, getToken, view = false } = settings;
    this.#client = client ?? connect({ url, token, getToken, program: "widget" });
    this.#tryNow = button(texts.tryNow, null, { class: "pill" }, () => this.#client.reconnect());
    this.#connection.append(this.#connectionText, this.#tryNow);
    this.#toEnd = button(texts.toEnd, "down", { class: "to-end", part: "to-end", hidden: true }, () =>
      this.#transcript.toEnd(),
    );
    this.#composer = new Composer(texts, { send: (text) => this.send(text), stop: () => this.#conversation.stop() });
    this.#transcript = this.#newTranscript();

    const heading = make("h2", { text: texts.title, part: "title" });
    const mark = make(
      "span",
      { class: "mark", part: "mark", "aria-hidden": "true" },
      make("span", { class: "signal" }),
      this.#dot,
    );
    const newChat = button(
      texts.newChat,
      "plus",
      { class: "tool", part: "new-chat", hidden: settings.conversation !== undefined },
      () => this.newChat(),
    );
    const close = button(texts.close, "close", { class: "tool", part: "close", hidden: host.close === undefined }, () =>
      host.close?.(),
    );
    this.#panel = make(
      "section",
      {
        class: `panel${floating ? " floating" : ""}${view ? " view" : ""}`,
        part: "panel",
        "aria-label": texts.title,
        tabindex: "-1",
        ...(floating && { role: "dialog" }),
        ...(settings.lang && { lang: settings.lang }),
        ...(settings.dir && { dir: settings.dir }),
        hidden: floating,
      },
      make("header", { part: "header", hidden: view }, mark, heading, newChat, close),
      this.#connection,
      this.#transcript.node,
      make("footer", { part: "footer", hidden: view }, this.#toEnd, this.#composer.node),
    );
    this.#panel.addEventListener("keydown", (event) => this.#key(event));
    // Before the launcher, so that Tab moves from the composer to the button that closes the panel.
    root.prepend(this.#panel);
    if (floating) this.#followViewport();
    this.#show(this.#client.conversation(settings.conversation));
    if (this.#visible) this.#load();
  }

  get conversation(): Conversation {
    return this.#conversation;
  }

  /** Show the panel and focus the composer. */
  open(): void {
    if (this.#visible) return;
    this.#visible = true;
    this.#panel.hidden = false;
    this.#panel.setAttribute("aria-modal", String(matchMedia(NARROW).matches));
    this.#load();
    this.#count();
    this.#frames.now();
    this.#transcript.toEnd();
    this.focus();
  }

  close(): void {
    this.#visible = false;
    this.#panel.hidden = true;
  }

  /** Focus the composer; on a touch screen only the panel, because the keyboard would cover the messages. */
  focus(): void {
    if (matchMedia("(pointer: coarse)").matches) this.#panel.focus({ preventScroll: true });
    else this.#composer.focus();
  }

  send(text: string): void {
    this.sentAt = performance.now();
    const { model, instructions } = this.#settings;
    const sent = this.#conversation.send(text, { ...(model && { model }), ...(instructions && { instructions }) });
    sent.catch((error: unknown) => this.#host.event?.("error", error));
    this.#transcript.toEnd();
  }

  /** Start another conversation. Open answers of this one continue. */
  newChat(): void {
    this.#show(this.#client.newConversation());
    this.focus();
  }

  retry(response: string, mode: "restart" | "continue"): void {
    this.sentAt = performance.now();
    this.#transcript.toEnd();
    this.#conversation.retry(response, mode).catch((error: unknown) => this.#host.event?.("error", error));
    // The pressed button is removed together with its answer.
    this.focus();
  }

  resend(key: string): void {
    this.#conversation.resend(key);
  }

  edit(key: string): void {
    const text = this.#conversation.withdraw(key);
    if (text !== undefined) this.#composer.edit(text);
  }

  async copy(text: string): Promise<boolean> {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      return false;
    }
    announce(this.texts.copied);
    return true;
  }

  readonly render = (parent: HTMLElement): Markdown => {
    if (this.#markdown === null) return lite(parent);
    const { images } = this.#settings;
    const highlighter = () => loadHighlighter(this.#settings.nonce);
    const copied = () => announce(this.texts.copied);
    const { copy, code, table, showImage, done, todo: open } = this.texts;
    return this.#markdown(parent, {
      texts: { copy, code, table, showImage, done, open },
      highlighter,
      copied,
      ...(images && { images }),
    });
  };

  /** Remove the panel from the page. */
  remove(): void {
    this.#unsubscribe();
    this.#ending.abort();
    this.#frames.end();
    this.#transcript.end();
    clearInterval(this.#ticker);
    this.#panel.remove();
  }

  #newTranscript(): TranscriptView {
    const { texts } = this;
    const prompts = (this.#settings.prompts ?? []).map((prompt) => {
      return button(prompt, null, { class: "prompt", part: "prompt" }, () => {
        this.send(prompt);
        this.focus();
      });
    });
    const empty = make(
      "div",
      { class: "empty", part: "empty", hidden: true },
      make("h3", { text: texts.greeting }),
      make("p", { text: texts.promise }),
      prompts.length > 0
        ? make("div", { class: "prompts", role: "group", "aria-label": texts.suggestions }, ...prompts)
        : null,
    );
    const changed = () => {
      this.#toEnd.hidden = this.#transcript.atEnd;
      this.#toEnd.classList.toggle("has-new", this.#transcript.hasNew);
    };
    return new TranscriptView(this, empty, changed, () => this.#conversation.older());
  }

  #show(conversation: Conversation): void {
    this.#unsubscribe();
    this.#conversation = conversation;
    this.#seen = this.#reported = this.#speech = null;
    const { node } = this.#transcript;
    if (node.isConnected) {
      this.#transcript.end();
      this.#transcript = this.#newTranscript();
      node.replaceWith(this.#transcript.node);
    }
    this.#unsubscribe = conversation.subscribe(() => this.#changed());
    this.#host.event?.("conversation", conversation);
    this.#changed();
  }

  /** Load the markdown renderer. Until then, texts are shown unformatted. */
  #load(): void {
    if (this.#markdown !== null) return;
    loadMarkdown(this.#settings.nonce).then(
      (markdown) => {
        this.#markdown = markdown;
        this.#transcript.rerender();
      },
      (error: unknown) => this.#host.event?.("error", error),
    );
  }

  /** Handle a change of the conversation. Events are emitted for a hidden panel too. */
  #changed(): void {
    const { known, messages, state } = this.#conversation;
    if (known) {
      const settled = messages.filter((message) =>
        message.role === "user" ? message.state === "sent" : message.state === "ended",
      );
      const reported = this.#reported;
      this.#reported = new Set(settled.map(({ role, id }) => role + id));
      if (reported !== null)
        for (const message of settled)
          if (!reported.has(message.role + message.id)) this.#host.event?.("message", message);
      this.#count();
    }
    if (state.name !== this.#state) this.#host.event?.("state", state);
    this.#state = state.name;
    this.#frames.request();
  }

  /** Count the ended answers that were not visible yet. */
  #count(): void {
    const ended = this.#conversation.messages
      .filter((message) => message.role === "assistant" && message.state === "ended")
      .map(({ id }) => id);
    if (this.#visible || this.#seen === null) this.#seen = new Set(ended);
    const seen = this.#seen;
    const unread = ended.filter((id) => !seen.has(id)).length;
    if (unread === this.#unread) return;
    if (unread > this.#unread) this.#announce(filled(this.texts.unread, { count: unread }));
    this.#unread = unread;
    this.#host.unread?.(unread);
  }

  #draw(): void {
    const { state, fault, messages, known, more, answering } = this.#conversation;
    this.live = ["live", "behind", "resumed"].includes(state.name);
    this.#announceConnection();
    this.#tick(messages.some((message) => message.role === "assistant" && message.state === "waiting"));
    if (!this.#visible) return;

    const status = connectionStatus(state, fault, Date.now(), this.texts);
    this.#connection.hidden = status === null;
    this.#connectionText.textContent = status?.text ?? "";
    this.#connection.dataset["tone"] = status?.tone ?? "calm";
    this.#connection.classList.toggle("busy", status?.busy ?? false);
    this.#connection.classList.toggle("soon", state.name === "connecting" || state.name === "behind");
    this.#tryNow.hidden = !["reconnecting", "offline", "closed"].includes(state.name);
    this.#dot.dataset["tone"] = status === null || this.live ? "good" : status.tone;
    this.#panel.classList.toggle("busy", answering !== undefined);

    this.#transcript.show(messages, known, more, answering !== undefined);
    this.#composer.show(answering !== undefined, answering?.stopping ?? false, this.#client.limits.text);
    this.#announceAnswer(messages.findLast((message) => message.role === "assistant"));
  }

  /** Draw regularly during a countdown. */
  #tick(waiting: boolean): void {
    const counting = waiting || ["reconnecting", "offline"].includes(this.#conversation.state.name);
    if (counting && this.#ticker === undefined) this.#ticker = setInterval(() => this.#frames.request(), 500);
    if (counting) return;
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  #announce(text: string): void {
    if (!this.#settings.view) announce(text);
  }

  #announceConnection(): void {
    const { name } = this.#conversation.state;
    if (name === "reconnecting" || name === "offline") {
      this.#lostAt ??= Date.now();
      if (!this.#lossAnnounced && Date.now() - this.#lostAt >= ANNOUNCE_LOSS_MS) {
        this.#lossAnnounced = true;
        this.#announce(this.texts.saidLost);
      }
    } else if (this.live) {
      if (this.#lossAnnounced) this.#announce(this.texts.saidBack);
      this.#lostAt = null;
      this.#lossAnnounced = false;
    }
  }

  #announceAnswer(message: AssistantMessage | undefined): void {
    if (message === undefined) return;
    const now = performance.now();
    if (this.#speech?.response !== message.id) {
      // An answer that ended before this page load is not announced.
      if (message.state === "ended") return;
      this.#speech = { response: message.id, speech: new Speech(this.texts, now), revision: message.revision };
      this.#announce(this.#speech.speech.start());
    }
    const { speech } = this.#speech;
    if (this.#speech.revision !== message.revision) speech.restart();
    this.#speech.revision = message.revision;
    const ending: Ending =
      message.reason === "failed"
        ? "failed"
        : message.reason === "stopped" || message.reason === "guarded"
          ? "stopped"
          : "complete";
    const sentences = message.state === "ended" ? speech.end(message.text, ending) : speech.more(message.text, now);
    if (sentences !== null) this.#announce(sentences);
  }

  #key(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Escape" && this.#host.close !== undefined) {
      event.stopPropagation();
      this.#host.close();
    } else if (event.key === "Tab" && this.#panel.getAttribute("aria-modal") === "true") this.#keepFocus(event);
  }

  /** Keep Tab inside the panel while it covers the whole page. */
  #keepFocus(event: KeyboardEvent): void {
    const all = [...this.#panel.querySelectorAll<HTMLElement>("button, a[href], textarea, summary, [tabindex='0']")];
    const reachable = all.filter((element) => !element.matches(":disabled") && element.checkVisibility());
    const first = reachable[0];
    const last = reachable.at(-1);
    const from = this.#root.activeElement;
    if (event.shiftKey ? from !== first : from !== last) return;
    event.preventDefault();
    (event.shiftKey ? last : first)?.focus();
  }

  /** Fit the panel into the visual viewport, which an on-screen keyboard shrinks. */
  #followViewport(): void {
    const viewport = window.visualViewport;
    if (!viewport) return;
    const fit = () => {
      const { style } = this.#root.host as HTMLElement;
      style.setProperty("--viewport-height", `${viewport.height}px`);
      style.setProperty("--viewport-top", `${viewport.offsetTop}px`);
    };
    const { signal } = this.#ending;
    viewport.addEventListener("resize", fit, { signal });
    viewport.addEventListener("scroll", fit, { signal });
    fit();
  }
}

/** Create a panel in a shadow root. */
export function mount(root: ShadowRoot, settings: Settings, host: PanelHost, floating: boolean): Panel {
  return new Panel(root, settings, host, floating);
}
