// The messages as a list that follows its end, unless the reader has scrolled away from it.

import type { Message } from "../client/client.js";
import { make } from "./elements.js";
import { AnswerView, QuestionView, type Surroundings } from "./message_views.js";

/** Pixels from the end within which the reader is taken to be there. */
const NEAR = 40;

export class TranscriptView {
  /** The element that scrolls. */
  readonly node: HTMLElement;
  readonly #list = make("ol", { class: "messages", part: "messages" });
  readonly #older: HTMLElement;
  readonly #empty: HTMLElement;
  readonly #around: Surroundings;
  readonly #moved: () => void;
  #views = new Map<string, QuestionView | AnswerView>();
  #shown: readonly Message[] = [];
  #follows = true;
  #fresh = false;
  #height = 0;
  #top = 0;
  readonly #sizes = new ResizeObserver(() => this.#follows && this.#settle(false));

  /** @param empty is shown while there is no message; `moved` is told when `atEnd` or `fresh` may be others */
  constructor(around: Surroundings, empty: HTMLElement, moved: () => void) {
    this.#around = around;
    this.#empty = empty;
    this.#moved = moved;
    this.#older = make("p", { class: "older", text: around.texts.older, hidden: true });
    const traits = {
      class: "log",
      part: "log",
      role: "log",
      "aria-live": "off",
      "aria-label": around.texts.messages,
      tabindex: "0",
    };
    this.node = make("div", traits, this.#older, this.#empty, this.#list);
    // An image that has come, or a keyboard that has opened, moves the end as well.
    this.#sizes.observe(this.node);
    this.#sizes.observe(this.#list);
    this.node.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // The wheel is the reader's alone; where the list has come to by itself is no sign of will.
    this.node.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#leave(), { passive: true });
  }

  /** Whether the end is in sight, and whether something has come that is not. */
  get atEnd(): boolean {
    return this.#follows;
  }

  get fresh(): boolean {
    return this.#fresh;
  }

  /** Show these messages. @param known whether it is known that there are no others */
  show(messages: readonly Message[], known: boolean, more: boolean, answering: boolean): void {
    const grew = messages !== this.#shown;
    this.#shown = messages;
    this.#older.hidden = !more;
    this.#empty.hidden = !known || messages.length > 0;
    this.node.setAttribute("aria-busy", String(answering));
    const views = new Map<string, QuestionView | AnswerView>();
    messages.forEach((message, index) => {
      const name = message.role === "user" ? `q ${message.key ?? message.id}` : `a ${message.id}`;
      let view = this.#views.get(name);
      if (view === undefined)
        view = message.role === "user" ? new QuestionView(this.#around) : new AnswerView(this.#around);
      if (message.role === "user") (view as QuestionView).show(message);
      else (view as AnswerView).show(message);
      views.set(name, view);
      const there = this.#list.children[index];
      if (there !== view.node) this.#list.insertBefore(view.node, there ?? null);
    });
    for (const [name, { node }] of this.#views) if (!views.has(name)) node.remove();
    this.#views = views;
    this.#settle(grew);
  }

  /** Show every text in the renderer that is there now. */
  renderAnew(): void {
    for (const view of this.#views.values()) if (view instanceof AnswerView) view.renderAnew();
    this.#settle(false);
  }

  end(): void {
    this.#sizes.disconnect();
  }

  toEnd(): void {
    this.#follows = true;
    this.#fresh = false;
    this.node.scrollTop = this.node.scrollHeight;
    this.#moved();
  }

  #settle(grew: boolean): void {
    const { scrollHeight } = this.node;
    if (this.#follows) {
      this.node.scrollTop = scrollHeight;
    } else if (grew && !this.#fresh && scrollHeight > this.#height) {
      this.#fresh = true;
      this.#moved();
    }
    this.#height = scrollHeight;
  }

  #scrolled(): void {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    const up = scrollTop < this.#top;
    this.#top = scrollTop;
    // Who has not moved up has only been outrun by the text.
    if (near === this.#follows || (!near && !up)) return;
    this.#follows = near;
    if (near) this.#fresh = false;
    this.#moved();
  }

  #leave(): void {
    if (!this.#follows || this.node.scrollHeight <= this.node.clientHeight) return;
    this.#follows = false;
    this.#moved();
  }
}
