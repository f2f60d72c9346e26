// What is said aloud of an answer that is being written: that it begins, whole sentences every few seconds, and that it
// ended. Word by word nobody could listen to it.
// Pure: texts and times in, sentences out.

import type { Texts } from "./texts.js";

/** Milliseconds between two pieces: as long as it takes to say one. */
const PAUSE = 4000;

/** Milliseconds after which it is looked for a whole sentence again. */
const LOOK = 500;

/** The most characters of one piece; a screen reader cannot be made to skip. */
const LONGEST = 400;

const SENTENCE = /[.!?:;。！？…][)"'”’»]*(?=\s|$)|[。！？]|\n/g;

/** How an answer ended, as far as is said. */
export type Ending = "complete" | "stopped" | "failed";

/** What is said of one answer. */
export class Speech {
  readonly #texts: Texts;
  /** Of the text without its marks. */
  #said = 0;
  #last: number;
  #looked = 0;
  #over = false;

  /** @param now milliseconds of any clock */
  constructor(texts: Texts, now: number) {
    this.#texts = texts;
    this.#last = now;
  }

  /** What to say when it begins. */
  begin(): string {
    return this.#texts.saidStart;
  }

  /** The sentences that are whole, if it is time to say some; null if not. @param text all of the answer, as markdown */
  more(text: string, now: number): string | null {
    if (this.#over || now - this.#last < PAUSE || now - this.#looked < LOOK) return null;
    this.#looked = now;
    const plain = spoken(text, this.#texts.saidCode);
    const rest = plain.slice(this.#said, this.#said + LONGEST);
    const ends = [...rest.matchAll(SENTENCE)].map(({ index, 0: mark }) => index + mark.length);
    // The very last mark may be in the middle of a number or a word.
    const whole =
      ends.filter((end) => this.#said + end < plain.length).at(-1) ??
      (rest.length === LONGEST ? rest.lastIndexOf(" ") : 0);
    if (whole <= 0) return null;
    this.#said += whole;
    this.#last = now;
    return rest.slice(0, whole).trim() || null;
  }

  /** What is left, and that it ended. Null the second time. */
  end(text: string, how: Ending): string | null {
    if (this.#over) return null;
    this.#over = true;
    const rest = spoken(text, this.#texts.saidCode)
      .slice(this.#said, this.#said + 4 * LONGEST)
      .trim();
    const { saidEnd, saidStopped, saidFailed } = this.#texts;
    const said = { complete: saidEnd, stopped: saidStopped, failed: saidFailed }[how];
    return rest === "" ? said : `${rest} ${said}`;
  }

  /** Another text has taken the place of this one. */
  again(): void {
    this.#said = 0;
    this.#over = false;
  }
}

/** Markdown as one says it: without its marks, addresses and code. The longer text begins as the shorter one does, but for its last line. */
export function spoken(text: string, code: string): string {
  return text
    .replace(/^ {0,3}(```|~~~)[^\n]*\n[\s\S]*?(?:^ {0,3}\1[^\n]*$|$(?![\s\S]))/gm, code)
    .replace(/!?\[([^\]]*)\]\([^)]*\)?/g, "$1")
    .replace(/^[ \t]*(?:#{1,6}|>|[-*+]|\d+[.)])[ \t]+/gm, "")
    .replace(/^[ \t]*\|?[ \t:|-]+\|?[ \t]*$/gm, "")
    .replace(/[*_`~|]+/g, "")
    .replace(/[ \t]+/g, " ");
}
