// The form that sends a message or stops an answer.

import { button, make } from "./elements.js";
import type { Texts } from "./texts.js";

export class Composer {
  readonly node: HTMLFormElement;
  readonly #field: HTMLTextAreaElement;
  readonly #send: HTMLButtonElement;
  readonly #stop: HTMLButtonElement;
  readonly #texts: Texts;
  #answering = false;

  constructor(texts: Texts, actions: { send: (text: string) => void; stop: () => void }) {
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
    this.#stop = button(texts.stop, "stop", { class: "stop", part: "stop", hidden: true }, () => actions.stop());
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
      actions.send(text);
    };
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("keydown", (event) => {
      // With an input method, Enter confirms a Chinese or Japanese word.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      send();
    });
  }

  /** @param maxLength maximum characters of a message */
  show(answering: boolean, stopping: boolean, maxLength: number | undefined): void {
    if (maxLength !== undefined && this.#field.maxLength !== maxLength) this.#field.maxLength = maxLength;
    // `disabled` would remove the keyboard focus from the pressed button.
    this.#stop.ariaDisabled = String(stopping);
    if (answering === this.#answering) return;
    this.#answering = answering;
    const hadFocus = (this.node.getRootNode() as ShadowRoot).activeElement === this.#stop;
    this.#changed();
    // The focused button is hidden now, so the focus moves to the field.
    if (hadFocus && !answering) this.focus();
  }

  /** Insert a text before the current one, to be edited. */
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
    // Another message can be sent during an answer; it is queued.
    this.#send.hidden = this.#answering && empty;
    this.#field.placeholder = this.#texts.placeholder;
    if (CSS.supports("field-sizing", "content")) return;
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }
}
