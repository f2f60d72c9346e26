// The public interface of the package `tokenwire`, and `connect`.
//
//   const client = connect({ url: "https://chat.example.com", getToken: () => fetch("/token").then((r) => r.text()) });
//   const chat = client.conversation("c1");
//   chat.subscribe(() => draw(chat.messages, chat.state));
//   await chat.send("Why is the sky blue?");

import { keepConnected, type Connection, type User } from "./connection.js";
import { Chat, randomName, type Surroundings } from "./conversation.js";
import { Listeners } from "./listeners.js";
import { Storage } from "./storage.js";
import type { ClientFrame, Doing, Fault, Limits, ServerFrame, Usage } from "./wire.js";

export type { Doing, Fault, Limits, Usage };

/** How the line to the gateway is. `at`: when the next attempt to connect is due, in milliseconds since 1970. */
export type ConnectionState =
  | { readonly name: "connecting" }
  | { readonly name: "live"; readonly transport: "websocket" | "events" }
  | { readonly name: "reconnecting"; readonly attempt: number; readonly at: number }
  | { readonly name: "offline"; readonly attempt: number; readonly at: number }
  /** Refused for good, with the close code; after a new token, or `reconnect()`, it is tried again. */
  | { readonly name: "closed"; readonly code: number; readonly reason: string };

/**
 * How a conversation is: as the line, but while that is live, `behind` until what was missed has begun to come, and
 * `resumed` for two seconds after it went on exactly where it had been cut.
 */
export type ConversationState = ConnectionState | { readonly name: "behind" } | { readonly name: "resumed" };

/**
 * A message is never changed, only replaced by a new object: compare by identity to learn what is new, and by `key` (or
 * `id`) what belongs to which node.
 */
export type Message = UserMessage | AssistantMessage;

export interface UserMessage {
  readonly role: "user";
  /** The id in the history; the key as long as the gateway has not given one. */
  readonly id: string;
  /** The key of a message that was sent here: the same before and after it was accepted. */
  readonly key?: string;
  readonly text: string;
  /** `sending` also means: not sent yet, because the line is down. It is sent once, whatever breaks. */
  readonly state: "sending" | "refused" | "sent";
  /** Why it was refused. `resend` or `withdraw` it. */
  readonly error?: Fault;
}

export interface AssistantMessage {
  readonly role: "assistant";
  /** The response. */
  readonly id: string;
  readonly text: string;
  /** What the model thought aloud; "" where it did not. */
  readonly reasoning: string;
  /** Counts up whenever `text` is another text, and not just a longer one: as long as it stands, append the rest. */
  readonly revision: number;
  readonly state: Doing | "ended";
  /** Seconds until the provider is asked again, from the moment when the state became `waiting`. */
  readonly retryIn?: number | undefined;
  /** How it ended: `complete`, `stopped`, `guarded`, `length`, `refused`, `filtered`, `failed` or one not known yet. */
  readonly reason?: string | undefined;
  /** Whether `retry` would be accepted. */
  readonly retryable?: boolean | undefined;
  /** Why it failed. */
  readonly error?: Fault | undefined;
  readonly usage?: Usage | undefined;
  /** The alias of the model that was asked. */
  readonly model?: string | undefined;
  /** Which worker's try this is, from 1; 0 before the first. */
  readonly attempt: number;
  /** Whether it stands in the history. */
  readonly settled?: boolean | undefined;
  /** The id of a settled answer in the history. */
  readonly message?: string | undefined;
  /** The id of the question. */
  readonly repliesTo?: string | undefined;
  /** A stop was asked for here, and the end has not come. */
  readonly stopping?: boolean | undefined;
  /** A retry was asked for here, and is neither accepted nor refused. */
  readonly retrying?: boolean | undefined;
}

export interface SendOptions {
  /** An alias of the operator's; one of `client.models`. */
  model?: string;
  instructions?: string;
  maxTokens?: number;
  /** A response that this message, in other words, is asked again for: it stands in its place. */
  replaces?: string;
  /** While an answer is being written: in turn (`queue`, the default), not at all, or instead of it. */
  ifBusy?: "queue" | "reject" | "interrupt";
  /** Instead of the conversation's guard; null for none. */
  guard?: Guard | null;
}

/** What a message or a retry has become. */
export interface Sent {
  readonly message: string;
  readonly response: string;
  /** Whether it had arrived before. */
  readonly duplicate: boolean;
}

/** The opening of an answer, to be judged. */
export interface Opening {
  readonly conversation: string;
  readonly response: string;
  readonly question: string;
}

/** `stop`: end the answer, in every tab. `refine`: ask this in its place; a text, or the same text with instructions. */
export type Verdict = "ok" | { stop: true; refine?: string | { text?: string; instructions?: string } };

/**
 * Judges the opening of each answer to what is sent here, once, while the answer goes on. A guard that throws, or does
 * not answer `within`, lets the answer be; so does one whose answer has already ended. What it asked for is not judged again.
 */
export interface Guard {
  /** About how many tokens are the opening; counted in the client, as words and marks. */
  tokens: number;
  /** Seconds that `check` may take; 2 unless told. */
  within?: number;
  check(text: string, opening: Opening): Verdict | Promise<Verdict>;
}

/** What keeps texts under names; `localStorage` and `sessionStorage` do. It may throw: nothing is kept then. */
export interface Keeping {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
}

export interface Options {
  /** The gateway, such as `https://chat.example.com`, perhaps with a path in front of `/v1/ws`. */
  url: string | URL;
  /** A token that does not change. */
  token?: string | undefined;
  /**
   * Brings a fresh token: before each connection, before the last one expires, and when it was refused. It may fail
   * or take its time: that counts as an attempt to connect.
   */
  getToken?: (() => string | null | Promise<string | null>) | undefined;
  /** The name of the program, for the gateway's operator. */
  program?: string | undefined;
  /** For every conversation, unless `send` has its own. */
  guard?: Guard | undefined;
  /** `auto` begins with a WebSocket, and takes server-sent events where that can not connect or arrives in bursts. */
  transport?: "auto" | "websocket" | "events" | undefined;
  /** Keeps, for a reload of this tab, each conversation as it was last shown, and what was not sent. Default: `sessionStorage`. */
  tab?: Keeping | null | undefined;
  /** Keeps the id of the conversation for this browser. Default: `localStorage`. */
  browser?: Keeping | null | undefined;
  /** Whether a client that is open already may be used; true unless told otherwise. */
  shared?: boolean | undefined;
  /** Where there is no global one, as in Node 20. */
  WebSocket?: typeof WebSocket | undefined;
  fetch?: typeof fetch | undefined;
}

/** One line to a gateway, shared by every conversation on it. It connects once something is followed or sent. */
export interface Client {
  readonly state: ConnectionState;
  /** The aliases of models that may be asked; empty where the gateway does not tell. */
  readonly models: readonly string[];
  readonly limits: Limits;
  /**
   * The conversation of this id, always the same object. Without an id: the one that this browser had last, or a new one.
   *
   * @throws {RangeError} for an id that is not 1 to 128 letters, digits and `_ . : ~ -`
   */
  conversation(id?: string): Conversation;
  /** A new conversation, which takes the place of the one that this browser had. */
  newConversation(): Conversation;
  /** Be told when `state`, `models` or `limits` are others. Returns what ends it. */
  subscribe(listener: () => void): () => void;
  /** Connect now, with a new token if there is one; also after the line was closed for good. */
  reconnect(): void;
  /** Let go of the line. Nothing more is sent or told; whoever iterates is done. */
  close(): void;
}

/**
 * A conversation as far as it is known here. It is followed as long as somebody is subscribed or iterates, or something
 * that was sent is unanswered; after that it stands as it was, and goes on from there.
 */
export interface Conversation extends AsyncIterable<readonly Message[]> {
  readonly id: string;
  readonly state: ConversationState;
  /** What to show, oldest first; the same array until something is different. */
  readonly messages: readonly Message[];
  /** Whether the gateway, or the storage of this tab, has told what is in it, be it nothing. */
  readonly known: boolean;
  /** Whether there are older messages than those shown. */
  readonly more: boolean;
  /** The answer that `stop()` would stop: the first one without an end. The composer shows *Stop* while there is one. */
  readonly answering: AssistantMessage | undefined;
  /** Why this conversation can not be followed, or a stop was refused; null once it is followed again. */
  readonly fault: Fault | null;
  /**
   * Send a message. It is shown at once, and sent as soon as the line is up.
   *
   * @throws {Refusal} by way of the promise; who ignores that still sees the message with the state `refused`
   */
  send(text: string, options?: SendOptions): Promise<Sent>;
  /** Send a refused message again, as it was. */
  resend(key: string): void;
  /** Take a message back that was refused, or that waits for the line; returns its text. */
  withdraw(key: string): string | undefined;
  /** Stop a response, or the one that is being written, in every tab, however often the line breaks before it ends. */
  stop(response?: string, reason?: "stopped" | "guarded"): void;
  /**
   * Another answer in place of one that has ended: anew, or going on from its text.
   *
   * @throws {Refusal} by way of the promise
   */
  retry(response: string, mode?: "restart" | "continue"): Promise<Sent>;
  /** Be told of every change of what is readable here. Returns what ends it. */
  subscribe(listener: () => void): () => void;
  /** The messages now, if they are known, and after each change; who is slow gets the latest only. */
  [Symbol.asyncIterator](): AsyncIterableIterator<readonly Message[]>;
}

/** Why a message or a retry was not accepted; `code` is one of the protocol's, or `closed`. */
export class Refusal extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

const ID = /^[A-Za-z0-9_.:~-]{1,128}$/;

/** Under which the browser keeps the id of its conversation. No conversation has this name. */
const LAST = "@last";

class Line implements Client, Surroundings, User {
  readonly connection: Connection;
  readonly guard: Guard | undefined;
  models: readonly string[] = [];
  limits: Limits = {};
  #chats = new Map<string, Chat>();
  #listeners = new Listeners();
  #tab: Storage;
  #browser: Storage;
  #closing = new AbortController();

  constructor(options: Options) {
    const url = String(options.url);
    this.#tab = new Storage(options.tab, "sessionStorage", url);
    this.#browser = new Storage(options.browser, "localStorage", url);
    this.guard = options.guard;
    this.connection = keepConnected(options, this);
    const { signal } = this.#closing;
    const save = () => this.#save();
    // The second is the last that a tab on a phone may hear.
    globalThis.addEventListener?.("pagehide", save, { signal });
    globalThis.document?.addEventListener("visibilitychange", save, { signal });
  }

  get state(): ConnectionState {
    return this.connection.state;
  }

  conversation(id = this.#browser.text(LAST) ?? this.#begin()): Conversation {
    if (!ID.test(id)) throw new RangeError("a conversation is 1 to 128 letters, digits and _ . : ~ -");
    let chat = this.#chats.get(id);
    if (chat === undefined) {
      chat = new Chat(id, this, this.#tab.conversation(id));
      this.#chats.set(id, chat);
    }
    return chat;
  }

  newConversation(): Conversation {
    return this.conversation(this.#begin());
  }

  subscribe(listener: () => void): () => void {
    return this.#listeners.add(listener);
  }

  reconnect(): void {
    this.connection.reconnect();
  }

  close(): void {
    this.#save();
    this.#closing.abort();
    this.connection.close();
    for (const chat of this.#chats.values()) chat.close();
    shared = shared.filter(({ client }) => client !== this);
  }

  #begin(): string {
    const id = `c-${randomName()}`;
    this.#browser.keep(LAST, id);
    return id;
  }

  #save(): void {
    for (const [id, chat] of this.#chats) this.#tab.keepConversation(id, chat.save());
  }

  *frames(): Iterable<ClientFrame> {
    for (const chat of this.#chats.values()) yield* chat.frames();
  }

  changed(): void {
    for (const chat of this.#chats.values()) {
      if (this.state.name !== "live") chat.lost();
      chat.changed();
    }
    this.#listeners.tell();
  }

  frame(frame: ServerFrame): void {
    if (frame.type === "ready") {
      this.models = frame.models ?? [];
      this.limits = frame.limits ?? {};
    }
    const chats = [...this.#chats.values()];
    const concerned = chats.filter((chat) => chat.concerns(frame));
    // What names nothing that is known here may be anybody's: a response of which all was missed, a refusal.
    const anybody = !("conversation" in frame || "key" in frame);
    for (const chat of concerned.length === 0 && anybody ? chats : concerned) chat.take(frame);
  }
}

/** The clients that are open, to be used by all that ask for the same. */
let shared: { client: Client; options: Options }[] = [];

/** A client of this gateway; the same one again for the same `url`, `token` and `getToken`, unless `shared` is false. */
export function connect(options: Options): Client {
  const same = shared.find(
    ({ options: { url, token, getToken } }) =>
      String(url) === String(options.url) && token === options.token && getToken === options.getToken,
  );
  if (same !== undefined && options.shared !== false) return same.client;
  const client = new Line(options);
  if (options.shared !== false) shared.push({ client, options });
  return client;
}
