// Persistence across reloads: the browser's last conversation, and the content of each conversation.

import type { SavedTranscript } from "./transcript.js";
import type { TextStore } from "./types.js";
import type { Send } from "./wire.js";

/** One conversation, stored when the page is hidden or closed. */
export interface SavedConversation {
  readonly transcript: SavedTranscript;
  readonly unsent: readonly Send[];
}

/** A text store with a prefix for this gateway. If the store is full or blocked, nothing is stored. */
export class Storage {
  #store: TextStore | null | undefined;
  #prefix: string;

  /** @param name the browser's store to use if `given` is undefined */
  constructor(given: TextStore | null | undefined, name: "localStorage" | "sessionStorage", gateway: string) {
    // The number is the version of the stored format.
    this.#prefix = `tokenwire 1 ${gateway} `;
    try {
      // A browser that blocks storage throws on access to the property.
      this.#store = given === undefined ? globalThis[name] : given;
    } catch {
      // Nothing is stored.
    }
  }

  text(name: string): string | null {
    try {
      return this.#store?.getItem(this.#prefix + name) ?? null;
    } catch {
      return null;
    }
  }

  keep(name: string, text: string): void {
    try {
      this.#store?.setItem(this.#prefix + name, text);
    } catch {
      // The next load starts without it.
    }
  }

  conversation(id: string): SavedConversation | undefined {
    try {
      return JSON.parse(this.text(id) ?? "") as SavedConversation;
    } catch {
      return undefined;
    }
  }

  keepConversation(id: string, saved: SavedConversation): void {
    this.keep(id, JSON.stringify(saved));
  }
}
