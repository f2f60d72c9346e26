// One question, one answer, as elements that are changed only where the message is another.

import type { AssistantMessage, UserMessage } from "../client/client.js";
import type { Markdown } from "../markdown/markdown.js";
import { button, drawn, make } from "./elements.js";
import { filled, type Texts } from "./texts.js";
import { ofAnswer, ofQuestion, type Words } from "./words.js";

/** What the views are given, and what their buttons do. */
export interface Surroundings {
  readonly texts: Texts;
  readonly debug: boolean;
  /** Show a text that grows, as well as is possible by now. */
  readonly render: (parent: HTMLElement) => Markdown;
  /** Whether the line is up. */
  live: boolean;
  /** When a question was sent here that has no answer yet, of `performance.now()`. */
  asked: number | null;
  retry(response: string, mode: "restart" | "continue"): void;
  resend(key: string): void;
  edit(key: string): void;
  copy(text: string): Promise<boolean>;
}

export class QuestionView {
  readonly node: HTMLLIElement;
  readonly #around: Surroundings;
  readonly #text = make("div", { class: "text", part: "question-text", dir: "auto" });
  readonly #note = new Note();
  #shown: UserMessage | null = null;
  readonly #again: HTMLButtonElement;
  readonly #edit: HTMLButtonElement;

  constructor(around: Surroundings) {
    this.#around = around;
    const { texts } = around;
    this.#again = button(texts.sendAgain, null, { class: "pill" }, () => this.#act((key) => around.resend(key)));
    this.#edit = button(texts.edit, null, { class: "pill" }, () => this.#act((key) => around.edit(key)));
    this.#note.node.append(this.#again, this.#edit);
    this.node = make(
      "li",
      { class: "question", part: "message question" },
      make("span", { class: "unseen", text: `${texts.you}: ` }),
      this.#text,
      this.#note.node,
    );
  }

  show(message: UserMessage): void {
    if (message === this.#shown && message.state === "sent") return;
    const { live, texts } = this.#around;
    if (this.#shown?.text !== message.text) this.#text.textContent = message.text;
    this.#shown = message;
    this.node.classList.toggle("sending", message.state === "sending");
    this.#note.show(ofQuestion(message, live, texts));
    this.#again.hidden = this.#edit.hidden = message.state !== "refused";
  }

  #act(act: (key: string) => void): void {
    if (this.#shown?.key !== undefined) act(this.#shown.key);
  }
}

export class AnswerView {
  readonly node: HTMLLIElement;
  readonly #around: Surroundings;
  readonly #text = make("div", { class: "text", part: "answer-text" });
  readonly #thoughts = make("div");
  readonly #reasoning: HTMLDetailsElement;
  readonly #note = new Note();
  readonly #actions = make("div", { class: "actions" });
  readonly #copy: HTMLButtonElement;
  readonly #another: HTMLButtonElement;
  readonly #retry: HTMLButtonElement;
  readonly #goOn: HTMLButtonElement;
  readonly #facts: Facts | null;
  #markdown: Markdown;
  #shown: AssistantMessage | null = null;
  #length = 0;
  #ended = false;
  /** When a waiting answer is asked for again, of `performance.now()`. */
  #due = 0;

  constructor(around: Surroundings) {
    this.#around = around;
    const { texts } = around;
    const again = (mode: "restart" | "continue") => () => {
      if (this.#shown) around.retry(this.#shown.id, mode);
    };
    this.#reasoning = make(
      "details",
      { class: "reasoning", part: "reasoning", hidden: true },
      make("summary", { text: texts.reasoning }),
      this.#thoughts,
    );
    this.#copy = button(texts.copy, "copy", { class: "action" }, () => void this.#copyText());
    this.#another = button(texts.regenerate, "again", { class: "action" }, again("restart"));
    this.#retry = button(texts.retry, null, { class: "pill first" }, again("restart"));
    this.#goOn = button(texts.goOn, null, { class: "pill" }, again("continue"));
    this.#actions.append(this.#copy, this.#another, this.#retry, this.#goOn);
    this.#facts = around.debug ? new Facts(around.asked) : null;
    around.asked = null;
    this.node = make(
      "li",
      { class: "answer", part: "message answer" },
      make("span", { class: "unseen", text: `${texts.answer}: ` }),
      this.#reasoning,
      this.#text,
      this.#note.node,
      this.#actions,
      this.#facts?.node ?? null,
    );
    this.#markdown = around.render(this.#text);
  }

  show(message: AssistantMessage): void {
    const before = this.#shown;
    // Only one that waits says something else by itself.
    if (message === before && message.state !== "waiting") return;
    this.#shown = message;
    this.#write(message, before);
    if (before?.reasoning !== message.reasoning) {
      this.#reasoning.hidden = message.reasoning === "";
      this.#thoughts.textContent = message.reasoning;
    }
    const ended = message.state === "ended";
    this.node.classList.toggle("writing", message.state === "running" && message.text !== "");
    if (message.retryIn !== before?.retryIn || message.state !== before?.state) {
      this.#due = performance.now() + 1000 * (message.retryIn ?? 0);
    }
    this.#note.show(ofAnswer(message, this.#around.texts, Math.ceil((this.#due - performance.now()) / 1000)));
    const whole = message.reason === "complete" || message.reason === undefined;
    const again = ended && message.retrying !== true && (whole || message.retryable === true);
    this.#copy.hidden = !ended || message.text === "";
    this.#another.hidden = !again || !whole;
    this.#retry.hidden = !again || whole;
    this.#goOn.hidden = !again || whole || message.text === "";
    this.#actions.hidden = [this.#copy, this.#another, this.#retry].every(({ hidden }) => hidden);
    this.#facts?.show(message);
  }

  /** Show the text in the renderer that is there now. */
  renderAnew(): void {
    this.#text.replaceChildren();
    this.#markdown = this.#around.render(this.#text);
    this.#length = 0;
    this.#ended = false;
    if (this.#shown) this.#write(this.#shown, null);
  }

  #write(message: AssistantMessage, before: AssistantMessage | null): void {
    // Another worker often goes on from the text that is there: what is shown stays.
    const goesOn =
      !this.#ended && before !== null && (before.revision === message.revision || message.text.startsWith(before.text));
    if (goesOn && message.text.length === this.#length) {
      this.#end(message);
      return;
    }
    if (goesOn && message.text.length > this.#length) this.#markdown.write(message.text.slice(this.#length));
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
    if (!(await this.#around.copy(this.#shown?.text ?? ""))) return;
    const { texts } = this.#around;
    this.#copy.replaceChildren(drawn("check"));
    this.#copy.classList.add("done");
    this.#copy.setAttribute("aria-label", texts.copied);
    setTimeout(() => {
      this.#copy.replaceChildren(drawn("copy"));
      this.#copy.classList.remove("done");
      this.#copy.setAttribute("aria-label", texts.copy);
    }, 1500);
  }
}

/** A line of words below a message. */
class Note {
  readonly node = make("p", { class: "note", part: "note", hidden: true });
  readonly #words = make("span");
  #shown: Words | null = null;

  constructor() {
    this.node.append(this.#words);
  }

  show(words: Words | null): void {
    if (words?.text === this.#shown?.text && words?.tone === this.#shown?.tone && words?.busy === this.#shown?.busy)
      return;
    this.#shown = words;
    this.node.hidden = words === null;
    this.#words.textContent = words?.text ?? "";
    this.node.dataset["tone"] = words?.tone ?? "calm";
    this.node.classList.toggle("busy", words?.busy ?? false);
  }
}

/** What a developer wants to see of an answer: how long its first token took, and what came after. */
class Facts {
  readonly node = make("p", { class: "facts", part: "facts" });
  readonly #began = performance.now();
  readonly #asked: number | null;
  #first: number | null = null;
  #draws = 0;
  #last: AssistantMessage | null = null;

  constructor(asked: number | null) {
    this.#asked = asked;
  }

  show(message: AssistantMessage): void {
    if (message === this.#last) return;
    const now = performance.now();
    if (message.text !== this.#last?.text) this.#draws += 1;
    // What was there when it was first seen tells nothing about its time.
    if (this.#first === null && message.text !== "" && this.#last !== null)
      this.#first = now - (this.#asked ?? this.#began);
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
