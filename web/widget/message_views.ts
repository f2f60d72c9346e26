// Views of a question and of an answer. They update only the elements whose message changed.

import type { AssistantMessage, UserMessage } from "../client/client.js";
import type { Markdown } from "../markdown/markdown.js";
import { button, iconOf, make } from "./elements.js";
import { answerStatus, questionStatus, type Status } from "./status.js";
import { filled, type Texts } from "./texts.js";

/** Shared state of the views, and the actions of their buttons. */
export interface ViewContext {
  readonly texts: Texts;
  readonly debug: boolean;
  /** Return a renderer for a growing text: plain until the markdown chunk is loaded. */
  readonly render: (parent: HTMLElement) => Markdown;
  /** Whether the client is connected. */
  live: boolean;
  /** Time of the last question without an answer, as `performance.now()`. */
  sentAt: number | null;
  retry(response: string, mode: "restart" | "continue"): void;
  resend(key: string): void;
  edit(key: string): void;
  copy(text: string): Promise<boolean>;
}

export class QuestionView {
  readonly node: HTMLLIElement;
  readonly #context: ViewContext;
  readonly #text = make("div", { class: "text", part: "question-text", dir: "auto" });
  readonly #note = new Note();
  #shown: UserMessage | null = null;
  readonly #resend: HTMLButtonElement;
  readonly #edit: HTMLButtonElement;

  constructor(context: ViewContext) {
    this.#context = context;
    const { texts } = context;
    this.#resend = button(texts.sendAgain, null, { class: "pill" }, () => this.#act((key) => context.resend(key)));
    this.#edit = button(texts.edit, null, { class: "pill" }, () => this.#act((key) => context.edit(key)));
    this.#note.node.append(this.#resend, this.#edit);
    this.node = make(
      "li",
      { class: "question", part: "message question" },
      make("span", { class: "visually-hidden", text: `${texts.you}: ` }),
      this.#text,
      this.#note.node,
    );
  }

  show(message: UserMessage): void {
    if (message === this.#shown && message.state === "sent") return;
    const { live, texts } = this.#context;
    if (this.#shown?.text !== message.text) this.#text.textContent = message.text;
    this.#shown = message;
    this.node.classList.toggle("sending", message.state === "sending");
    this.#note.show(questionStatus(message, live, texts));
    this.#resend.hidden = this.#edit.hidden = message.state !== "refused";
  }

  #act(action: (key: string) => void): void {
    if (this.#shown?.key !== undefined) action(this.#shown.key);
  }
}

export class AnswerView {
  readonly node: HTMLLIElement;
  readonly #context: ViewContext;
  readonly #text = make("div", { class: "text", part: "answer-text" });
  readonly #reasoningText = make("div");
  readonly #reasoning: HTMLDetailsElement;
  readonly #note = new Note();
  readonly #actions = make("div", { class: "actions" });
  readonly #copy: HTMLButtonElement;
  readonly #regenerate: HTMLButtonElement;
  readonly #retry: HTMLButtonElement;
  readonly #continue: HTMLButtonElement;
  readonly #debugInfo: DebugInfo | null;
  #markdown: Markdown;
  #shown: AssistantMessage | null = null;
  #length = 0;
  #ended = false;
  /** Time of the next request to the provider, as `performance.now()`. */
  #retryAt = 0;

  constructor(context: ViewContext) {
    this.#context = context;
    const { texts } = context;
    const retry = (mode: "restart" | "continue") => () => {
      if (this.#shown) context.retry(this.#shown.id, mode);
    };
    this.#reasoning = make(
      "details",
      { class: "reasoning", part: "reasoning", hidden: true },
      make("summary", { text: texts.reasoning }),
      this.#reasoningText,
    );
    this.#copy = button(texts.copy, "copy", { class: "action" }, () => void this.#copyText());
    this.#regenerate = button(texts.regenerate, "again", { class: "action" }, retry("restart"));
    this.#retry = button(texts.retry, null, { class: "pill first" }, retry("restart"));
    this.#continue = button(texts.goOn, null, { class: "pill" }, retry("continue"));
    this.#actions.append(this.#copy, this.#regenerate, this.#retry, this.#continue);
    this.#debugInfo = context.debug ? new DebugInfo(context.sentAt) : null;
    context.sentAt = null;
    this.node = make(
      "li",
      { class: "answer", part: "message answer" },
      make("span", { class: "visually-hidden", text: `${texts.answer}: ` }),
      this.#reasoning,
      this.#text,
      this.#note.node,
      this.#actions,
      this.#debugInfo?.node ?? null,
    );
    this.#markdown = context.render(this.#text);
  }

  show(message: AssistantMessage): void {
    const before = this.#shown;
    // Only the countdown of a waiting answer changes without a new message.
    if (message === before && message.state !== "waiting") return;
    this.#shown = message;
    this.#write(message, before);
    if (before?.reasoning !== message.reasoning) {
      this.#reasoning.hidden = message.reasoning === "";
      this.#reasoningText.textContent = message.reasoning;
    }
    const ended = message.state === "ended";
    this.node.classList.toggle("writing", message.state === "running" && message.text !== "");
    if (message.retryIn !== before?.retryIn || message.state !== before?.state) {
      this.#retryAt = performance.now() + 1000 * (message.retryIn ?? 0);
    }
    this.#note.show(answerStatus(message, this.#context.texts, Math.ceil((this.#retryAt - performance.now()) / 1000)));
    const complete = message.reason === "complete" || message.reason === undefined;
    const retryable = ended && message.retrying !== true && (complete || message.retryable === true);
    this.#copy.hidden = !ended || message.text === "";
    this.#regenerate.hidden = !retryable || !complete;
    this.#retry.hidden = !retryable || complete;
    this.#continue.hidden = !retryable || complete || message.text === "";
    this.#actions.hidden = [this.#copy, this.#regenerate, this.#retry].every(({ hidden }) => hidden);
    this.#debugInfo?.show(message);
  }

  /** Render the text again with the current renderer. */
  rerender(): void {
    this.#text.replaceChildren();
    this.#markdown = this.#context.render(this.#text);
    this.#length = 0;
    this.#ended = false;
    if (this.#shown) this.#write(this.#shown, null);
  }

  #write(message: AssistantMessage, before: AssistantMessage | null): void {
    // A new attempt often keeps the text. Appending preserves the rendered nodes.
    const appends =
      !this.#ended && before !== null && (before.revision === message.revision || message.text.startsWith(before.text));
    if (appends && message.text.length === this.#length) {
      this.#end(message);
      return;
    }
    if (appends && message.text.length > this.#length) this.#markdown.write(message.text.slice(this.#length));
    else if (before === null ? message.text !== "" : before.text !== message.text) {
      this.#markdown.reset(message.text);
      this.#ended = false;
    }
    this.#length = message.text.length;
    this.#end(message);
  }

  #end(message: AssistantMessage): void {
    if (message.state !== "ended" || this.#ended) return;
    this.#markdown.end();
    this.#ended = true;
  }

  async #copyText(): Promise<void> {
    if (!(await this.#context.copy(this.#shown?.text ?? ""))) return;
    const { texts } = this.#context;
    this.#copy.replaceChildren(iconOf("check"));
    this.#copy.classList.add("done");
    this.#copy.setAttribute("aria-label", texts.copied);
    setTimeout(() => {
      this.#copy.replaceChildren(iconOf("copy"));
      this.#copy.classList.remove("done");
      this.#copy.setAttribute("aria-label", texts.copy);
    }, 1500);
  }
}

/** The status text below a message. */
class Note {
  readonly node = make("p", { class: "note", part: "note", hidden: true });
  readonly #label = make("span");
  #shown: Status | null = null;

  constructor() {
    this.node.append(this.#label);
  }

  show(status: Status | null): void {
    if (status?.text === this.#shown?.text && status?.tone === this.#shown?.tone && status?.busy === this.#shown?.busy)
      return;
    this.#shown = status;
    this.node.hidden = status === null;
    this.#label.textContent = status?.text ?? "";
    this.node.dataset["tone"] = status?.tone ?? "calm";
    this.node.classList.toggle("busy", status?.busy ?? false);
  }
}

/** Debug information of an answer: time to the first token, frames, attempts. */
class DebugInfo {
  readonly node = make("p", { class: "facts", part: "facts" });
  readonly #createdAt = performance.now();
  readonly #sentAt: number | null;
  #first: number | null = null;
  #draws = 0;
  #last: AssistantMessage | null = null;

  constructor(sentAt: number | null) {
    this.#sentAt = sentAt;
  }

  show(message: AssistantMessage): void {
    if (message === this.#last) return;
    const now = performance.now();
    if (message.text !== this.#last?.text) this.#draws += 1;
    // The first token of an answer that existed before has no known time.
    if (this.#first === null && message.text !== "" && this.#last !== null)
      this.#first = now - (this.#sentAt ?? this.#createdAt);
    this.#last = message;
    const { model, attempt, usage } = message;
    const facts = [
      this.#first === null ? "" : filled("first token {ms} ms", { ms: Math.round(this.#first) }),
      `${message.text.length} characters in ${this.#draws} frames`,
      model ?? "",
      attempt > 1 ? `attempt ${attempt}` : "",
      usage?.output_tokens === undefined ? "" : `${usage.output_tokens} tokens`,
      message.reason ?? message.state,
    ];
    this.node.textContent = facts.filter(Boolean).join(" · ");
  }
}
