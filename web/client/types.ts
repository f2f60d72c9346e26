// The public types of the package `tokenwire`.

import type * as wire from "./wire.js";

/** What went wrong: a code for programs, and a sentence for the user. */
export type Problem = Readonly<wire.Problem>;

/** Limits of the gateway; empty before the first connection. */
export type Limits = Readonly<Partial<wire.Limits>>;

/** State of a response without an end. */
export type ResponseState = Exclude<wire.Status["state"], "ended">;

/** Token counts of the provider. */
export interface Usage {
  readonly input_tokens?: number;
  readonly output_tokens?: number;
}

/** State of the connection to the gateway. `at`: time of the next attempt, in milliseconds since 1970. */
export type ConnectionState =
  | { readonly name: "connecting" }
  | { readonly name: "live"; readonly transport: "websocket" | "events" }
  | { readonly name: "reconnecting"; readonly attempt: number; readonly at: number }
  | { readonly name: "offline"; readonly attempt: number; readonly at: number }
  /** Refused for good, with the close code. `reconnect()` tries again. */
  | { readonly name: "closed"; readonly code: number; readonly reason: string };

/**
 * State of a conversation. It equals the connection's state, except while that is `live`: then `behind` until the
 * missed frames start to arrive, and `resumed` for two seconds after the conversation continued without a snapshot.
 */
export type ConversationState = ConnectionState | { readonly name: "behind" } | { readonly name: "resumed" };

/** An immutable message. A change creates a new object: compare by identity to detect it, by `key` or `id` to match. */
export type Message = UserMessage | AssistantMessage;

export interface UserMessage {
  readonly role: "user";
  /** Id in the history; equals `key` until the gateway assigns one. */
  readonly id: string;
  /** Idempotency key of a message sent from this client; the same before and after it is accepted. */
  readonly key?: string;
  readonly text: string;
  /** `sending` includes messages that wait for a connection. The message is delivered exactly once. */
  readonly state: "sending" | "refused" | "sent";
  /** Why it was refused. `resend` or `withdraw` it. */
  readonly error?: Problem;
}

export interface AssistantMessage {
  readonly role: "assistant";
  /** Id of the response. */
  readonly id: string;
  readonly text: string;
  /** Reasoning text of the model; "" if there is none. */
  readonly reasoning: string;
  /** Increments when `text` is replaced. While it is unchanged, `text` only grows: append the rest. */
  readonly revision: number;
  readonly state: ResponseState | "ended";
  /** Seconds until the next request to the provider, counted from the change to `waiting`. */
  readonly retryIn?: number | undefined;
  /** End reason: `complete`, `stopped`, `guarded`, `length`, `refused`, `filtered`, `failed`, or a newer one. */
  readonly reason?: string | undefined;
  /** Whether `retry` would be accepted. */
  readonly retryable?: boolean | undefined;
  /** Why it failed. */
  readonly error?: Problem | undefined;
  readonly usage?: Usage | undefined;
  /** Alias of the requested model. */
  readonly model?: string | undefined;
  /** Number of the worker's attempt, from 1; 0 before the first. */
  readonly attempt: number;
  /** Whether it is part of the history. */
  readonly settled?: boolean | undefined;
  /** Id of a settled answer in the history. */
  readonly message?: string | undefined;
  /** Id of the question. */
  readonly repliesTo?: string | undefined;
  /** This client requested a stop, and the response has not ended. */
  readonly stopping?: boolean | undefined;
  /** This client requested a retry, which is neither accepted nor refused. */
  readonly retrying?: boolean | undefined;
}

export interface SendOptions {
  /** One of `client.models`. */
  model?: string;
  instructions?: string;
  maxTokens?: number;
  /** Texts by name for the operator's generator: at most 16, of 512 characters. */
  metadata?: Record<string, string>;
  /** Id of the response that this reworded question and its answer replace. */
  replaces?: string;
  /** While another answer is open: wait for it (`queue`, the default), refuse the message, or stop that answer. */
  ifBusy?: "queue" | "reject" | "interrupt";
  /** Overrides the guard of the client; null disables it. */
  guard?: Guard | null;
}

/** Result of an accepted message or retry. */
export interface Sent {
  readonly message: string;
  readonly response: string;
  /** Whether the gateway had received it before. */
  readonly duplicate: boolean;
}

/** What a guard checks: the first tokens of an answer. */
export interface Opening {
  readonly conversation: string;
  readonly response: string;
  readonly question: string;
}

/**
 * Decision of a guard. `stop`: end the answer in every tab. `refine`: replace it by the answer to this question, given
 * as a new text, or as the same text with instructions.
 */
export type Verdict = "ok" | { stop: true; refine?: string | { text?: string; instructions?: string } };

/**
 * Checks the first tokens of each answer to a message of this client, once, while the answer streams. The answer
 * continues if the guard throws, exceeds `within`, or decides after the end. Refined questions are not checked again.
 */
export interface Guard {
  /** Approximate number of tokens to check; the client counts words and punctuation marks. */
  tokens: number;
  /** Seconds until `check` times out; 2 by default. */
  within?: number;
  check(text: string, opening: Opening): Verdict | Promise<Verdict>;
}

/** A key-value store such as `localStorage` or `sessionStorage`. If it throws, nothing is stored. */
export interface TextStore {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
}

export interface Options {
  /** Address of the gateway, such as `https://chat.example.com`; a path is put before `/v1/ws`. */
  url: string | URL;
  /** A token that does not change. */
  token?: string | undefined;
  /**
   * Return a fresh token. Called before each connection, before the token expires, and after the gateway rejected it.
   * A rejected promise counts as a failed attempt to connect.
   */
  getToken?: (() => string | null | Promise<string | null>) | undefined;
  /** Name of the program, for the gateway's operator. */
  program?: string | undefined;
  /** Guard for every conversation; `send` can override it. */
  guard?: Guard | undefined;
  /** `auto` starts with a WebSocket, and uses server-sent events if that cannot connect or a proxy buffers it. */
  transport?: "auto" | "websocket" | "events" | undefined;
  /** Stores conversations and unsent messages for a reload of this tab. Default: `sessionStorage`. */
  tab?: TextStore | null | undefined;
  /** Stores the id of this browser's conversation. Default: `localStorage`. */
  browser?: TextStore | null | undefined;
  /** Whether `connect` may return an existing client; true by default. */
  shared?: boolean | undefined;
  /** For runtimes without a global one, such as Node 20. */
  WebSocket?: typeof WebSocket | undefined;
  fetch?: typeof fetch | undefined;
}

/** One connection to a gateway, shared by all its conversations. It opens at the first `subscribe` or `send`. */
export interface Client {
  readonly state: ConnectionState;
  /** Aliases that `send` accepts as `model`; empty if the gateway does not list them. */
  readonly models: readonly string[];
  readonly limits: Limits;
  /**
   * Return the conversation with this id, always as the same object. Without an id: the last one of this browser, or a
   * new one.
   *
   * @throws {RangeError} if the id is not 1 to 128 letters, digits and `_ . : ~ -`
   */
  conversation(id?: string): Conversation;
  /** Start a new conversation and make it this browser's last one. */
  newConversation(): Conversation;
  /** Call `listener` after each change of `state`, `models` or `limits`. Returns a function that unsubscribes. */
  subscribe(listener: () => void): () => void;
  /** Connect now, with a fresh token if `getToken` is given; also from the state `closed`. */
  reconnect(): void;
  /** Close the connection for good. Iterators end, and no more frames are sent. */
  close(): void;
}

/**
 * A conversation as this client has received it. The client watches it while there is a subscriber, an iterator or an
 * unanswered request. Afterwards it keeps its content, and the next subscriber resumes from there.
 */
export interface Conversation extends AsyncIterable<readonly Message[]> {
  readonly id: string;
  readonly state: ConversationState;
  /** Messages to show, in order; the same array until something changes. */
  readonly messages: readonly Message[];
  /** Whether the content was received or restored from the tab's storage; it may be empty. */
  readonly known: boolean;
  /** Whether there are older messages than those in `messages`. */
  readonly more: boolean;
  /** Request a page of older messages, which then stand before the others. Return false if there are none. */
  older(): boolean;
  /** The first answer without an end, which `stop()` stops; show a stop button while there is one. */
  readonly answering: AssistantMessage | undefined;
  /** Why this conversation cannot be watched, or why a stop was refused; null once it is watched again. */
  readonly fault: Problem | null;
  /**
   * Send a message. It appears in `messages` immediately, and is sent as soon as there is a connection.
   *
   * @throws {Refusal} as a rejected promise, which may be ignored: the message's state becomes `refused` too
   */
  send(text: string, options?: SendOptions): Promise<Sent>;
  /** Send a refused message again, unchanged. */
  resend(key: string): void;
  /** Remove a message that was refused or not sent yet; returns its text. */
  withdraw(key: string): string | undefined;
  /** Stop a response, or the open one, in every tab. The request is repeated after each reconnect until it ends. */
  stop(response?: string, reason?: "stopped" | "guarded"): void;
  /**
   * Replace an ended answer: restart it, or continue its text.
   *
   * @throws {Refusal} as a rejected promise
   */
  retry(response: string, mode?: "restart" | "continue"): Promise<Sent>;
  /** Call `listener` after each change of this object. Returns a function that unsubscribes. */
  subscribe(listener: () => void): () => void;
  /** Yield the messages once they are known, and after each change. A slow consumer gets only the latest. */
  [Symbol.asyncIterator](): AsyncIterableIterator<readonly Message[]>;
}
