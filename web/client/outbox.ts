// What was asked here and is not answered yet: messages, retries and stops. Pure.
// A message keeps its key from the first attempt to the last, so it is sent once, whatever breaks.

import type { Guard, Sent, UserMessage } from "./client.js";
import type { Accepted, ClientFrame, Fault, Keyed, Send, Stop, Utterance } from "./wire.js";

/** A message or a retry that was asked for. */
export interface Pending {
  readonly frame: Keyed;
  /** Judges the answer. */
  readonly guard?: Guard | null | undefined;
  /** Told once what has become of it. */
  readonly settle: (become: Sent | Fault) => void;
  /** What it is in the history: as the gateway said when it accepted it, or as its text lets one guess before that. */
  message?: string;
  accepted?: boolean;
  error?: Fault;
}

/** All that was asked in one conversation. */
export class Outbox {
  #pending = new Map<string, Pending>();
  #stops = new Map<string, Stop>();

  has(key: string): boolean {
    return this.#pending.has(key);
  }

  ask(pending: Pending): void {
    this.#pending.set(pending.frame.key, pending);
  }

  stop(frame: Stop): void {
    this.#stops.set(frame.response, frame);
  }

  /** This response has ended: nothing is left to stop. */
  ended(response: string): void {
    this.#stops.delete(response);
  }

  /** A user's message appeared in the history. Returns the key, if it may be one of those sent here. */
  said({ id, text }: Utterance): string | undefined {
    for (const [key, pending] of this.#pending) {
      // It often comes before the answer that says for certain; until then nobody is to see it twice.
      if (pending.message === undefined && !pending.error && "text" in pending.frame && pending.frame.text === text) pending.message = id;
      if (pending.message === id) return key;
    }
    return undefined;
  }

  /** Note what a message has become. Returns it as it was before, if it was not answered. */
  accept({ key, message, response, duplicate }: Accepted): Pending | undefined {
    const pending = this.#unanswered().find(({ frame }) => frame.key === key);
    if (pending === undefined) return undefined;
    if (pending.frame.type === "retry") this.#pending.delete(key);
    else this.#pending.set(key, { ...pending, message, accepted: true });
    pending.settle({ message, response, duplicate });
    return pending;
  }

  /** Note that this, or everything that is not answered, was refused. Returns what was. */
  refuse(key: string | undefined, error: Fault): Pending[] {
    const refused = this.#unanswered().filter(({ frame }) => key === undefined || frame.key === key);
    for (const pending of refused) {
      pending.error = error;
      if (pending.frame.type === "retry") this.#pending.delete(pending.frame.key);
      pending.settle(error);
    }
    return refused;
  }

  /** Forget a message; returns it. */
  drop(key: string): Pending | undefined {
    const pending = this.#pending.get(key);
    this.#pending.delete(key);
    return pending;
  }

  /** Every frame that is not answered, in the order in which they were asked; the stops first. */
  frames(): ClientFrame[] {
    return [...this.#stops.values(), ...this.#unanswered().map(({ frame }) => frame)];
  }

  /** The messages that the history does not have, to be shown behind it. */
  messages(inHistory: (id: string) => boolean): UserMessage[] {
    const shown: UserMessage[] = [];
    for (const [key, { frame, message, error }] of this.#pending) {
      if (frame.type === "retry" || (message !== undefined && inHistory(message))) continue;
      shown.push({ role: "user", id: key, key, text: frame.text, ...(error ? { state: "refused", error } : { state: "sending" }) });
    }
    return shown;
  }

  /** The messages that no gateway has answered, as data. */
  save(): Send[] {
    return this.frames().filter((frame) => frame.type === "send");
  }

  #unanswered(): Pending[] {
    return [...this.#pending.values()].filter(({ accepted, error }) => !accepted && !error);
  }
}
