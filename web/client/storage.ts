// What survives a reload: which conversation this browser has, and each one as it was last shown.

import type { Keeping } from "./client.js";
import type { Saved } from "./transcript.js";
import type { Send } from "./wire.js";

/** One conversation at the time when the page was left. */
export interface Kept {
  readonly transcript: Saved;
  readonly unsent: readonly Send[];
}

/** Texts under names that begin with the gateway's address. Storage that is full or forbidden keeps nothing. */
export class Storage {
  #keeping: Keeping | null | undefined;
  #prefix: string;

  /** @param name of the browser's own, which is taken where nothing else is given */
  constructor(given: Keeping | null | undefined, name: "localStorage" | "sessionStorage", gateway: string) {
    // Another version of what is kept has another name.
    this.#prefix = `tokenwire 1 ${gateway} `;
    try {
      // A browser may refuse even to name it.
      this.#keeping = given === undefined ? globalThis[name] : given;
    } catch {
      // Then nothing is kept.
    }
  }

  text(name: string): string | null {
    try {
      return this.#keeping?.getItem(this.#prefix + name) ?? null;
    } catch {
      return null;
    }
  }

  keep(name: string, text: string): void {
    try {
      this.#keeping?.setItem(this.#prefix + name, text);
    } catch {
      // Then it is as if the tab were new.
    }
  }

  conversation(id: string): Kept | undefined {
    try {
      return JSON.parse(this.text(id) ?? "") as Kept;
    } catch {
      return undefined;
    }
  }

  keepConversation(id: string, kept: Kept): void {
    this.keep(id, JSON.stringify(kept));
  }
}
