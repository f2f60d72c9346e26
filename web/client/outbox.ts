// Requests of one conversation that are not answered: messages, retries and stops. Pure.
// Every attempt to deliver a message uses the same idempotency key, so the gateway accepts it once.

import type { Guard, Sent, UserMessage } from "./types.js";
import type * as wire from "./wire.js";

/** A frame that is repeated until it is answered. Its idempotency key prevents duplicates. */
export type KeyedRequest = wire.Send | wire.Retry;

/** A message or a retry. */
export interface PendingRequest {
  readonly frame: KeyedRequest;
  /** Checks the answer. */
  readonly guard?: Guard | null | undefined;
  /** Called once with the result. */
  readonly settle: (result: Sent | wire.Problem) => void;
  /** Id in the history: assigned by `accepted`, or before that guessed from an equal text. */
  message?: string;
  accepted?: boolean;
  error?: wire.Problem;
}

export class Outbox {
  #pending = new Map<string, PendingRequest>();
  #stops = new Map<string, wire.Stop>();

  has(key: string): boolean {
    return this.#pending.has(key);
  }

  add(request: PendingRequest): void {
    this.#pending.set(request.frame.key, request);
  }

  stop(frame: wire.Stop): void {
    this.#stops.set(frame.response, frame);
  }

  /** Drop the stop of a response that has ended. */
  ended(response: string): void {
    this.#stops.delete(response);
  }

  /** Match a user's message of the history with a sent message. Return the key of a match. */
  match({ id, text }: wire.Message): string | undefined {
    for (const [key, pending] of this.#pending) {
      // The message often arrives before `accepted`. Without this guess it would be shown twice until then.
      if (pending.message === undefined && !pending.error && "text" in pending.frame && pending.frame.text === text)
        pending.message = id;
      if (pending.message === id) return key;
    }
    return undefined;
  }

  /** Mark a request as accepted. Return it as it was before, or undefined if it was answered already. */
  accept({ key, message, response, duplicate }: wire.Accepted): PendingRequest | undefined {
    const pending = this.#unanswered().find(({ frame }) => frame.key === key);
    if (pending === undefined) return undefined;
    if (pending.frame.type === "retry") this.#pending.delete(key);
    else this.#pending.set(key, { ...pending, message, accepted: true });
    pending.settle({ message, response, duplicate });
    return pending;
  }

  /** Mark a request, or all unanswered ones if `key` is undefined, as refused. Return them. */
  refuse(key: string | undefined, error: wire.Problem): PendingRequest[] {
    const refused = this.#unanswered().filter(({ frame }) => key === undefined || frame.key === key);
    for (const pending of refused) {
      pending.error = error;
      if (pending.frame.type === "retry") this.#pending.delete(pending.frame.key);
      pending.settle(error);
    }
    return refused;
  }

  /** Remove a message and return it. */
  remove(key: string): PendingRequest | undefined {
    const pending = this.#pending.get(key);
    this.#pending.delete(key);
    return pending;
  }

  /** Return the frames of all unanswered requests: the stops first, then in the order of the calls. */
  frames(): wire.ClientFrame[] {
    return [...this.#stops.values(), ...this.#unanswered().map(({ frame }) => frame)];
  }

  /** Return the messages that are not in the history. They are shown after it. */
  messages(inHistory: (id: string) => boolean): UserMessage[] {
    const shown: UserMessage[] = [];
    for (const [key, { frame, message, error }] of this.#pending) {
      if (frame.type === "retry" || (message !== undefined && inHistory(message))) continue;
      const state = error ? ({ state: "refused", error } as const) : ({ state: "sending" } as const);
      shown.push({ role: "user", id: key, key, text: frame.text, ...state });
    }
    return shown;
  }

  /** Return the frames of unanswered messages, to be stored. */
  save(): wire.Send[] {
    return this.frames().filter((frame) => frame.type === "send");
  }

  #unanswered(): PendingRequest[] {
    return [...this.#pending.values()].filter(({ accepted, error }) => !accepted && !error);
  }
}
