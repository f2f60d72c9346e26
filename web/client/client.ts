// Entry of the package `tokenwire`.
//
//   const client = connect({ url: "https://chat.example.com", getToken: () => fetch("/token").then((r) => r.text()) });
//   const chat = client.conversation("c1");
//   chat.subscribe(() => draw(chat.messages, chat.state));
//   await chat.send("Why is the sky blue?");

import { type Connection, keepConnected, type Session } from "./connection.js";
import { Chat, type ChatContext, randomName } from "./conversation.js";
import { Listeners } from "./listeners.js";
import { Storage } from "./storage.js";
import type { Client, ConnectionState, Conversation, Guard, Limits, Options } from "./types.js";
import type { ClientFrame, ServerFrame } from "./wire.js";

export { Refusal } from "./refusal.js";
export type * from "./types.js";

const CONVERSATION_ID = /^[A-Za-z0-9_.:~-]{1,128}$/;

/** Storage name of the browser's last conversation. "@" is not valid in an id, so it cannot collide with one. */
const LAST_CONVERSATION = "@last";

class GatewayClient implements Client, ChatContext, Session {
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
    globalThis.addEventListener?.("pagehide", save, { signal });
    // Mobile browsers may discard a hidden tab without a pagehide event.
    globalThis.document?.addEventListener("visibilitychange", save, { signal });
  }

  get state(): ConnectionState {
    return this.connection.state;
  }

  conversation(id = this.#browser.text(LAST_CONVERSATION) ?? this.#newId()): Conversation {
    if (!CONVERSATION_ID.test(id)) {
      throw new RangeError(`a conversation id is 1 to 128 letters, digits and _ . : ~ -, not ${id}`);
    }
    let chat = this.#chats.get(id);
    if (chat === undefined) {
      chat = new Chat(id, this, this.#tab.conversation(id));
      this.#chats.set(id, chat);
    }
    return chat;
  }

  newConversation(): Conversation {
    return this.conversation(this.#newId());
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

  #newId(): string {
    const id = `c-${randomName()}`;
    this.#browser.keep(LAST_CONVERSATION, id);
    return id;
  }

  #save(): void {
    for (const [id, chat] of this.#chats) this.#tab.keepConversation(id, chat.save());
  }

  *frames(): Iterable<ClientFrame> {
    for (const chat of this.#chats.values()) yield* chat.frames();
  }

  stateChanged(): void {
    for (const chat of this.#chats.values()) {
      if (this.state.name !== "live") chat.disconnected();
      chat.changed();
    }
    this.#listeners.notify();
  }

  received(frame: ServerFrame): void {
    if (frame.type === "ready") {
      this.models = frame.models ?? [];
      this.limits = frame.limits ?? {};
    }
    const chats = [...this.#chats.values()];
    const matching = chats.filter((chat) => chat.matches(frame));
    // A frame that names neither a conversation nor a key may belong to any chat: an unknown response, a refusal.
    const unaddressed = !("conversation" in frame || "key" in frame);
    for (const chat of matching.length === 0 && unaddressed ? chats : matching) chat.apply(frame);
  }
}

/** Open clients that `connect` may return again. */
let shared: { client: Client; options: Options }[] = [];

/** Return a client of this gateway: the same one for equal `url`, `token` and `getToken`, unless `shared` is false. */
export function connect(options: Options): Client {
  const same = shared.find(
    ({ options: { url, token, getToken } }) =>
      String(url) === String(options.url) && token === options.token && getToken === options.getToken,
  );
  if (same !== undefined && options.shared !== false) return same.client;
  const client = new GatewayClient(options);
  if (options.shared !== false) shared.push({ client, options });
  return client;
}
