// Screen reader announcements of a streaming answer: its start, complete sentences every few seconds, and its end.
// Pure: texts and times in, sentences out.

import type { Texts } from "./texts.js";

/** Time between two announcements: about the duration of one. */
const INTERVAL_MS = 4000;

/** Time between two searches for a complete sentence. */
const SEARCH_INTERVAL_MS = 500;

/** Maximum characters of one announcement, because it cannot be cancelled. */
const MAX_LENGTH = 400;

const SENTENCE = /[.!?:;。！？…][)"'”’»]*(?=\s|$)|[。！？]|\n/g;

/** How an answer ended. */
export type Ending = "complete" | "stopped" | "failed";

/** Announcements of one answer. */
export class Speech {
  readonly #texts: Texts;
  /** Announced characters of the spoken text. */
  #announced = 0;
  #last: number;
  #searched = 0;
  #ended = false;

  /** @param now milliseconds of any clock */
  constructor(texts: Texts, now: number) {
    this.#texts = texts;
    this.#last = now;
  }

  /** Return the announcement of the start. */
  start(): string {
    return this.#texts.saidStart;
  }

  /** Return the next complete sentences; null if it is too early. @param text the whole answer, as markdown */
  more(text: string, now: number): string | null {
    if (this.#ended || now - this.#last < INTERVAL_MS || now - this.#searched < SEARCH_INTERVAL_MS) return null;
    this.#searched = now;
    const plain = spoken(text, this.#texts.saidCode);
    const rest = plain.slice(this.#announced, this.#announced + MAX_LENGTH);
    const ends = [...rest.matchAll(SENTENCE)].map(({ index, 0: mark }) => index + mark.length);
    // A mark at the very end may be inside a number or a word.
    const length =
      ends.filter((end) => this.#announced + end < plain.length).at(-1) ??
      (rest.length === MAX_LENGTH ? rest.lastIndexOf(" ") : 0);
    if (length <= 0) return null;
    this.#announced += length;
    this.#last = now;
    return rest.slice(0, length).trim() || null;
  }

  /** Return the rest and the announcement of the end; null the second time. */
  end(text: string, how: Ending): string | null {
    if (this.#ended) return null;
    this.#ended = true;
    const rest = spoken(text, this.#texts.saidCode)
      .slice(this.#announced, this.#announced + 4 * MAX_LENGTH)
      .trim();
    const { saidEnd, saidStopped, saidFailed } = this.#texts;
    const ending = { complete: saidEnd, stopped: saidStopped, failed: saidFailed }[how];
    return rest === "" ? ending : `${rest} ${ending}`;
  }

  /** Restart, after the text was replaced. */
  restart(): void {
    this.#announced = 0;
    this.#ended = false;
  }
}

/**
 * Return markdown without marks, URLs and code. The result for a longer text extends the one for a shorter text,
 * except in its last line.
 */
export function spoken(text: string, code: string): string {
  return text
    .replace(/^ {0,3}(```|~~~)[^\n]*\n[\s\S]*?(?:^ {0,3}\1[^\n]*$|$(?![\s\S]))/gm, code)
    .replace(/!?\[([^\]]*)\]\([^)]*\)?/g, "$1")
    .replace(/^[ \t]*(?:#{1,6}|>|[-*+]|\d+[.)])[ \t]+/gm, "")
    .replace(/^[ \t]*\|?[ \t:|-]+\|?[ \t]*$/gm, "")
    .replace(/[*_`~|]+/g, "")
    .replace(/[ \t]+/g, " ");
}
