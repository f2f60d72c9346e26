// Where a message is written, sent, and an answer stopped.

import { button, make } from "./elements.js";
import type { Texts } from "./texts.js";

export class Composer {
  readonly node: HTMLFormElement;
  readonly #field: HTMLTextAreaElement;
  readonly #send: HTMLButtonElement;
  readonly #stop: HTMLButtonElement;
  readonly #texts: Texts;
  #answering = false;

  constructor(texts: Texts, act: { send: (text: string) => void; stop: () => void }) {
    this.#texts = texts;
    this.#field = make("textarea", {
      part: "input",
      rows: "1",
      placeholder: texts.placeholder,
      "aria-label": texts.placeholder,
      dir: "auto",
      enterkeyhint: "send",
      autocomplete: "off",
    });
    this.#stop = button(texts.stop, "stop", { class: "halt", part: "stop", hidden: true }, () => act.stop());
    this.#send = button(
      texts.send,
      "send",
      { class: "send", part: "send", type: "submit", disabled: true },
      () => undefined,
    );
    this.node = make("form", { part: "composer", novalidate: true }, this.#field, this.#stop, this.#send);
    const send = () => {
      const text = this.#field.value.trim();
      if (text === "") return;
      this.#field.value = "";
      this.#changed();
      act.send(text);
    };
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("keydown", (event) => {
      // Enter also ends a word of Chinese or Japanese that is being composed.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      send();
    });
  }

  /** @param most characters of a message */
  show(answering: boolean, stopping: boolean, most: number | undefined): void {
    if (most !== undefined && this.#field.maxLength !== most) this.#field.maxLength = most;
    // Not `disabled`, which would take the focus from who has pressed it.
    this.#stop.ariaDisabled = String(stopping);
    if (answering === this.#answering) return;
    this.#answering = answering;
    const hadFocus = (this.node.getRootNode() as ShadowRoot).activeElement === this.#stop;
    this.#changed();
    // The button that was pressed is gone: who uses a keyboard goes on from the field.
    if (hadFocus && !answering) this.focus();
  }

  /** Put a text there to be changed, before what is there already. */
  edit(text: string): void {
    this.#field.value = [text, this.#field.value].filter(Boolean).join("\n");
    this.#changed();
    this.focus();
  }

  focus(): void {
    this.#field.focus({ preventScroll: true });
  }

  #changed(): void {
    const empty = this.#field.value.trim() === "";
    this.#send.disabled = empty;
    this.#stop.hidden = !this.#answering;
    // Another message may be sent meanwhile; it is answered in turn.
    this.#send.hidden = this.#answering && empty;
    this.#field.placeholder = this.#texts.placeholder;
    if (CSS.supports("field-sizing", "content")) return;
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }
}
