// The chat in a shadow root: head, line, messages, composer. It draws what a conversation is, and does what is pressed.

import { type AssistantMessage, type Client, type Conversation, connect } from "../client/client.js";
import { lite } from "../markdown/lite.js";
import type { markdown as full, Markdown } from "../markdown/markdown.js";
import { say } from "./announcer.js";
import { loadColours, loadMarkdown } from "./chunks.js";
import { Composer } from "./composer.js";
import { button, make, style } from "./elements.js";
import { Frames } from "./frames.js";
import type { Surroundings } from "./message_views.js";
import type { Settings } from "./settings.js";
import { type Ending, Speech } from "./speech.js";
import { PANEL_STYLES } from "./styles.js";
import { filled, TEXTS, type Texts } from "./texts.js";
import { TranscriptView } from "./transcript_view.js";
import { ofLine } from "./words.js";

/** What whoever holds the panel is told. */
export interface Holder {
  /** Answers that ended while nobody saw them. */
  unread?(count: number): void;
  /** The person wants it gone, with a key or its button. Absent: it cannot be closed. */
  close?(): void;
  /** `conversation` that is shown now, `message` of every message that is settled, `state` of the line, `error` of what was refused. */
  event?(name: "conversation" | "message" | "state" | "error", detail: unknown): void;
}

/** Milliseconds for which the line may be down before it is said aloud. */
const PATIENCE = 1500;

const NARROW = "(max-width: 30rem)";

/** A chat that is on the page. */
export class Panel implements Surroundings {
  readonly texts: Texts;
  readonly debug: boolean;
  live = false;
  asked: number | null = null;

  readonly #root: ShadowRoot;
  readonly #settings: Settings;
  readonly #holder: Holder;
  readonly #client: Client;
  readonly #frames = new Frames(() => this.#draw());
  readonly #ending = new AbortController();
  readonly #panel: HTMLElement;
  readonly #dot = make("span", { class: "dot" });
  readonly #line = make("p", { class: "line", part: "line", hidden: true });
  readonly #lineWords = make("span");
  readonly #tryNow: HTMLButtonElement;
  readonly #toEnd: HTMLButtonElement;
  readonly #composer: Composer;
  #transcript: TranscriptView;
  #conversation!: Conversation;
  #unsubscribe: () => void = () => undefined;
  #markdown: typeof full | null = null;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #visible: boolean;
  #unread = 0;
  /** Answers whose end was seen, or came before this page. Null until the conversation is known. */
  #seen: Set<string> | null = null;
  #told: Set<string> | null = null;
  #speech: { response: string; speech: Speech; revision: number } | null = null;
  #lost: number | null = null;
  #saidLost = false;
  #state = "";

  /** @param floating whether it stands over the page, as a dialog that opens and closes */
  constructor(root: ShadowRoot, settings: Settings, holder: Holder, floating: boolean) {
    this.#root = root;
    this.#settings = settings;
    this.#holder = holder;
    this.#visible = !floating;
    this.texts = { ...TEXTS, ...settings.texts, ...(settings.title && { title: settings.title }) };
    this.debug = settings.debug ?? false;
    const { texts } = this;
    style(root, PANEL_STYLES);

    const { client, url = location.origin, token, getToken, view = false } = settings;
    this.#client = client ?? connect({ url, token, getToken, program: "widget" });
    this.#tryNow = button(texts.tryNow, null, { class: "pill" }, () => this.#client.reconnect());
    this.#line.append(this.#lineWords, this.#tryNow);
    this.#toEnd = button(texts.toEnd, "down", { class: "to-end", part: "to-end", hidden: true }, () =>
      this.#transcript.toEnd(),
    );
    this.#composer = new Composer(texts, { send: (text) => this.send(text), stop: () => this.#conversation.stop() });
    this.#transcript = this.#newTranscript();

    const heading = make("h2", { text: texts.title, part: "title" });
    const mark = make(
      "span",
      { class: "mark", part: "mark", "aria-hidden": "true" },
      make("span", { class: "wire" }),
      this.#dot,
    );
    const fresh = button(
      texts.newChat,
      "plus",
      { class: "tool", part: "new-chat", hidden: settings.conversation !== undefined },
      () => this.newChat(),
    );
    const close = button(
      texts.close,
      "close",
      { class: "tool", part: "close", hidden: holder.close === undefined },
      () => holder.close?.(),
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
      make("header", { part: "header", hidden: view }, mark, heading, fresh, close),
      this.#line,
      this.#transcript.node,
      make("footer", { part: "footer", hidden: view }, this.#toEnd, this.#composer.node),
    );
    this.#panel.addEventListener("keydown", (event) => this.#key(event));
    // Before the launcher, so that one goes from the composer to what closes it.
    root.prepend(this.#panel);
    if (floating) this.#followViewport();
    this.#follow(this.#client.conversation(settings.conversation));
    if (this.#visible) this.#load();
  }

  get conversation(): Conversation {
    return this.#conversation;
  }

  /** Show it, and go where one writes. */
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

  /** Go where one writes; on a phone not quite, where that would open the keyboard over what one came to read. */
  focus(): void {
    if (matchMedia("(pointer: coarse)").matches) this.#panel.focus({ preventScroll: true });
    else this.#composer.focus();
  }

  send(text: string): void {
    this.asked = performance.now();
    const { model, instructions } = this.#settings;
    const sent = this.#conversation.send(text, { ...(model && { model }), ...(instructions && { instructions }) });
    sent.catch((error: unknown) => this.#holder.event?.("error", error));
    this.#transcript.toEnd();
  }

  /** Begin another conversation; what runs in this one goes on. */
  newChat(): void {
    this.#follow(this.#client.newConversation());
    this.focus();
  }

  retry(response: string, mode: "restart" | "continue"): void {
    this.asked = performance.now();
    this.#transcript.toEnd();
    this.#conversation.retry(response, mode).catch((error: unknown) => this.#holder.event?.("error", error));
    // The button that was pressed goes with its answer.
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
    say(this.texts.copied);
    return true;
  }

  readonly render = (parent: HTMLElement): Markdown => {
    if (this.#markdown === null) return lite(parent);
    const { images } = this.#settings;
    const colours = () => loadColours(this.#settings.nonce);
    const copied = () => say(this.texts.copied);
    const { copy, code, table, showImage, done, todo: open } = this.texts;
    return this.#markdown(parent, {
      texts: { copy, code, table, showImage, done, open },
      colours,
      copied,
      ...(images && { images }),
    });
  };

  /** Take it off the page. */
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
    return new TranscriptView(this, empty, () => {
      this.#toEnd.hidden = this.#transcript.atEnd;
      this.#toEnd.classList.toggle("fresh", this.#transcript.fresh);
    });
  }

  #follow(conversation: Conversation): void {
    this.#unsubscribe();
    this.#conversation = conversation;
    this.#seen = this.#told = this.#speech = null;
    const { node } = this.#transcript;
    if (node.isConnected) {
      this.#transcript.end();
      this.#transcript = this.#newTranscript();
      node.replaceWith(this.#transcript.node);
    }
    this.#unsubscribe = conversation.subscribe(() => this.#changed());
    this.#holder.event?.("conversation", conversation);
    this.#changed();
  }

  /** The renderer is fetched when it is first needed; until then texts stand as they were written. */
  #load(): void {
    if (this.#markdown !== null) return;
    loadMarkdown(this.#settings.nonce).then(
      (markdown) => {
        this.#markdown = markdown;
        this.#transcript.renderAnew();
      },
      (error: unknown) => this.#holder.event?.("error", error),
    );
  }

  /** Something is different. What others are told is told also when nobody looks. */
  #changed(): void {
    const { known, messages, state } = this.#conversation;
    if (known) {
      const settled = messages.filter((message) =>
        message.role === "user" ? message.state === "sent" : message.state === "ended",
      );
      const told = this.#told;
      this.#told = new Set(settled.map(({ role, id }) => role + id));
      if (told !== null)
        for (const message of settled)
          if (!told.has(message.role + message.id)) this.#holder.event?.("message", message);
      this.#count();
    }
    if (state.name !== this.#state) this.#holder.event?.("state", state);
    this.#state = state.name;
    this.#frames.ask();
  }

  /** Count the answers that have ended and that nobody has seen. */
  #count(): void {
    const ended = this.#conversation.messages
      .filter((message) => message.role === "assistant" && message.state === "ended")
      .map(({ id }) => id);
    if (this.#visible || this.#seen === null) this.#seen = new Set(ended);
    const seen = this.#seen;
    const unread = ended.filter((id) => !seen.has(id)).length;
    if (unread === this.#unread) return;
    if (unread > this.#unread) this.#say(filled(this.texts.unread, { count: unread }));
    this.#unread = unread;
    this.#holder.unread?.(unread);
  }

  #draw(): void {
    const { state, fault, messages, known, more, answering } = this.#conversation;
    this.live = ["live", "behind", "resumed"].includes(state.name);
    this.#speakOfLine();
    this.#tick(messages.some((message) => message.role === "assistant" && message.state === "waiting"));
    if (!this.#visible) return;

    const words = ofLine(state, fault, Date.now(), this.texts);
    this.#line.hidden = words === null;
    this.#lineWords.textContent = words?.text ?? "";
    this.#line.dataset["tone"] = words?.tone ?? "calm";
    this.#line.classList.toggle("busy", words?.busy ?? false);
    this.#line.classList.toggle("soon", state.name === "connecting" || state.name === "behind");
    this.#tryNow.hidden = !["reconnecting", "offline", "closed"].includes(state.name);
    this.#dot.dataset["tone"] = words === null || this.live ? "good" : words.tone;
    this.#panel.classList.toggle("busy", answering !== undefined);

    this.#transcript.show(messages, known, more, answering !== undefined);
    this.#composer.show(answering !== undefined, answering?.stopping ?? false, this.#client.limits.text);
    this.#speakOf(messages.findLast((message) => message.role === "assistant"));
  }

  /** Draw again by itself while something counts down. */
  #tick(waiting: boolean): void {
    const counts = waiting || ["reconnecting", "offline"].includes(this.#conversation.state.name);
    if (counts && this.#ticker === undefined) this.#ticker = setInterval(() => this.#frames.ask(), 500);
    if (counts) return;
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  #say(text: string): void {
    if (!this.#settings.view) say(text);
  }

  #speakOfLine(): void {
    const { name } = this.#conversation.state;
    if (name === "reconnecting" || name === "offline") {
      this.#lost ??= Date.now();
      if (!this.#saidLost && Date.now() - this.#lost >= PATIENCE) {
        this.#saidLost = true;
        this.#say(this.texts.saidLost);
      }
    } else if (this.live) {
      if (this.#saidLost) this.#say(this.texts.saidBack);
      this.#lost = null;
      this.#saidLost = false;
    }
  }

  #speakOf(message: AssistantMessage | undefined): void {
    if (message === undefined) return;
    const now = performance.now();
    if (this.#speech?.response !== message.id) {
      // One that had ended before it was seen is there to be read.
      if (message.state === "ended") return;
      this.#speech = { response: message.id, speech: new Speech(this.texts, now), revision: message.revision };
      this.#say(this.#speech.speech.begin());
    }
    const { speech } = this.#speech;
    if (this.#speech.revision !== message.revision) speech.again();
    this.#speech.revision = message.revision;
    const ending: Ending =
      message.reason === "failed"
        ? "failed"
        : message.reason === "stopped" || message.reason === "guarded"
          ? "stopped"
          : "complete";
    const words = message.state === "ended" ? speech.end(message.text, ending) : speech.more(message.text, now);
    if (words !== null) this.#say(words);
  }

  #key(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Escape" && this.#holder.close !== undefined) {
      event.stopPropagation();
      this.#holder.close();
    } else if (event.key === "Tab" && this.#panel.getAttribute("aria-modal") === "true") this.#keepFocus(event);
  }

  /** Where the chat is all that one sees, Tab stays in it. */
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

  /** A phone's keyboard covers the page; what is left of it is the visual viewport. */
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

/** Put a chat into a shadow root. */
export function mount(root: ShadowRoot, settings: Settings, holder: Holder, floating: boolean): Panel {
  return new Panel(root, settings, holder, floating);
}
