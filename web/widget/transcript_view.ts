// The list of messages. It scrolls with new text, unless the user has scrolled up.

import type { Message } from "../client/client.js";
import { button, make } from "./elements.js";
import { AnswerView, QuestionView, type ViewContext } from "./message_views.js";

/** Distance from the end that counts as the end. */
const NEAR_PX = 40;

export class TranscriptView {
  /** The scrolling element. */
  readonly node: HTMLElement;
  readonly #list = make("ol", { class: "messages", part: "messages" });
  readonly #older: HTMLButtonElement;
  readonly #empty: HTMLElement;
  readonly #context: ViewContext;
  readonly #onChange: () => void;
  #views = new Map<string, QuestionView | AnswerView>();
  #shown: readonly Message[] = [];
  #following = true;
  #hasNew = false;
  #height = 0;
  #top = 0;
  readonly #resizes = new ResizeObserver(() => this.#following && this.#updateScroll(false));

  /**
   * @param empty shown while there are no messages; `onChange` is called when `atEnd` or `hasNew` may have changed;
   * `requestOlder` when the user asks for older messages
   */
  constructor(context: ViewContext, empty: HTMLElement, onChange: () => void, requestOlder: () => void) {
    this.#context = context;
    this.#empty = empty;
    this.#onChange = onChange;
    this.#older = button(context.texts.older, null, { class: "older pill", part: "older", hidden: true }, () => {
      this.#stopFollowing();
      requestOlder();
    });
    const options = {
      class: "log",
      part: "log",
      role: "log",
      "aria-live": "off",
      "aria-label": context.texts.messages,
      tabindex: "0",
    };
    this.node = make("div", options, this.#older, this.#empty, this.#list);
    // A loaded image or an on-screen keyboard also moves the end.
    this.#resizes.observe(this.node);
    this.#resizes.observe(this.#list);
    this.node.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // A wheel event is always the user's. A scroll position alone may result from new text.
    this.node.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#stopFollowing(), { passive: true });
  }

  /** Whether the end is visible. */
  get atEnd(): boolean {
    return this.#following;
  }

  /** Whether something arrived below the visible part. */
  get hasNew(): boolean {
    return this.#hasNew;
  }

  /** Show these messages. @param known whether the content was received */
  show(messages: readonly Message[], known: boolean, more: boolean, answering: boolean): void {
    const changed = messages !== this.#shown;
    const first = this.#list.firstElementChild;
    const { scrollHeight, scrollTop } = this.node;
    this.#shown = messages;
    this.#older.hidden = !more;
    this.#empty.hidden = !known || messages.length > 0;
    this.node.setAttribute("aria-busy", String(answering));
    const views = new Map<string, QuestionView | AnswerView>();
    messages.forEach((message, index) => {
      const name = message.role === "user" ? `q ${message.key ?? message.id}` : `a ${message.id}`;
      let view = this.#views.get(name);
      if (view === undefined)
        view = message.role === "user" ? new QuestionView(this.#context) : new AnswerView(this.#context);
      if (message.role === "user") (view as QuestionView).show(message);
      else (view as AnswerView).show(message);
      views.set(name, view);
      const current = this.#list.children[index];
      if (current !== view.node) this.#list.insertBefore(view.node, current ?? null);
    });
    for (const [name, { node }] of this.#views) if (!views.has(name)) node.remove();
    this.#views = views;
    if (first?.isConnected && first !== this.#list.firstElementChild && !this.#following) {
      // Older messages were added before what the user reads.
      this.node.scrollTop = this.#top = scrollTop + this.node.scrollHeight - scrollHeight;
      this.#height = this.node.scrollHeight;
    } else this.#updateScroll(changed);
  }

  /** Render every answer again with the current renderer. */
  rerender(): void {
    for (const view of this.#views.values()) if (view instanceof AnswerView) view.rerender();
    this.#updateScroll(false);
  }

  end(): void {
    this.#resizes.disconnect();
  }

  toEnd(): void {
    this.#following = true;
    this.#hasNew = false;
    this.node.scrollTop = this.node.scrollHeight;
    this.#onChange();
  }

  #updateScroll(changed: boolean): void {
    const { scrollHeight } = this.node;
    if (this.#following) {
      this.node.scrollTop = scrollHeight;
    } else if (changed && !this.#hasNew && scrollHeight > this.#height) {
      this.#hasNew = true;
      this.#onChange();
    }
    this.#height = scrollHeight;
  }

  #scrolled(): void {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    const up = scrollTop < this.#top;
    this.#top = scrollTop;
    // Without a move up, only the text has grown.
    if (near === this.#following || (!near && !up)) return;
    this.#following = near;
    if (near) this.#hasNew = false;
    this.#onChange();
  }

  #stopFollowing(): void {
    if (!this.#following || this.node.scrollHeight <= this.node.clientHeight) return;
    this.#following = false;
    this.#onChange();
  }
}
