// `import { TokenwireTransport } from "tokenwire/ai-sdk"`: the AI SDK's chat over Tokenwire.
//
//   const transport = new TokenwireTransport(connect({ url: "https://chat.example.com" }));
//   const chat = new Chat({ id: "c1", transport });         // of @ai-sdk/react, /vue, /svelte or /angular
//   useEffect(() => transport.follow(chat), []);            // what is asked in other tabs appears in this one
//   const { messages, sendMessage, stop } = useChat({ chat });

import type { ChatTransport, UIMessageChunk } from "ai";

import type { AssistantMessage, Client, Conversation, Message, SendOptions } from "../client/client.js";
import { type Metadata, type TokenwireMessage, chunks, textOf, whole } from "./chunks.js";

export type { Metadata, TokenwireMessage };

type Send = Parameters<ChatTransport<TokenwireMessage>["sendMessages"]>[0];
type Stream = ReadableStream<UIMessageChunk<Metadata>>;

/** What is followed: a `Chat` of the AI SDK, in whatever framework. */
export interface Followed {
  readonly id: string;
  readonly status: "submitted" | "streaming" | "ready" | "error";
  messages: TokenwireMessage[];
  resumeStream(): Promise<void>;
}

/** Milliseconds after which a chat that is busy with a request is looked at again. */
const AGAIN = 100;

/**
 * The chat's `id` is the conversation. `body` of a request may have `model`, `instructions` and `maxTokens`. A `stop`
 * stops the answer in every tab; so does whatever else aborts a request, such as a component of `useChat({ id })` that
 * goes away, but not one of `useChat({ chat })`.
 */
export class TokenwireTransport implements ChatTransport<TokenwireMessage> {
  /** What is resumed comes whole, from its beginning. */
  readonly resumeStreamIsReplay = true;
  readonly #client: Client;
  /** The ids that the AI SDK gave to messages that were sent here, by those of the history. */
  readonly #names = new Map<string, string>();
  /** Counts the calls of `reconnectToStream`. */
  #resumed = 0;

  constructor(client: Client) {
    this.#client = client;
  }

  /** Send the last message, again in other words where it has been sent before, or have an answer given anew. */
  async sendMessages({ trigger, chatId, messages, messageId, abortSignal, body }: Send): Promise<Stream> {
    const conversation = this.#client.conversation(chatId);
    const sent = trigger === "submit-message" ? this.#submit(conversation, messages, messageId, body) : this.#regenerate(conversation, messageId);
    // Who stops before it was accepted, perhaps offline, is not kept waiting: it is stopped then.
    const stopped = new Promise<never>((_, reject) => {
      abortSignal?.addEventListener("abort", () => {
        reject(abortSignal.reason);
        void sent.then(({ response }) => conversation.stop(response));
      });
    });
    const { response } = await Promise.race([sent, stopped]);
    return stream(conversation, response);
  }

  /** The answer that is being written, from its beginning; null where there is none. */
  async reconnectToStream({ chatId, abortSignal }: { chatId: string; abortSignal?: AbortSignal }): Promise<Stream | null> {
    const conversation = this.#client.conversation(chatId);
    const own = (this.#resumed += 1);
    await known(conversation, abortSignal);
    const response = abortSignal?.aborted ? undefined : conversation.answering?.id;
    if (response === undefined) return null;
    abortSignal?.addEventListener("abort", () =>
      // A chat that resumes again aborts what it resumed before; that is no stop.
      queueMicrotask(() => own === this.#resumed && conversation.stop(response)),
    );
    return stream(conversation, response);
  }

  /**
   * Keep a chat as its conversation is: what was said before, what other tabs ask and what they are answered, token by
   * token. While it is busy with a request of its own it is let be. Returns what ends it.
   */
  follow(chat: Followed): () => void {
    const conversation = this.#client.conversation(chat.id);
    let shown: readonly Message[] | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let resuming = false;
    let over = false;
    const look = () => {
      clearTimeout(timer);
      if (over || !conversation.known || shown === conversation.messages) return;
      if (resuming || chat.status === "submitted" || chat.status === "streaming") {
        timer = setTimeout(look, AGAIN);
        return;
      }
      shown = conversation.messages;
      chat.messages = shown.map((message) => whole(message, this.#name(message)));
      const { answering } = conversation;
      if (answering === undefined || answering.stopping) return;
      resuming = true;
      void chat.resumeStream().finally(() => (resuming = false));
    };
    const leave = conversation.subscribe(look);
    look();
    return () => {
      over = true;
      clearTimeout(timer);
      leave();
    };
  }

  async #submit(conversation: Conversation, messages: TokenwireMessage[], edited: string | undefined, body: object | undefined) {
    const message = messages.at(-1);
    if (message?.role !== "user") throw new TypeError("Tokenwire sends what a person says: the last message is none of a user.");
    if (message.parts.some(({ type }) => type === "file")) throw new TypeError("Tokenwire sends text, and no files.");
    const { model, instructions, maxTokens } = (body ?? {}) as SendOptions;
    const options: SendOptions = { ...(model && { model }), ...(instructions && { instructions }), ...(maxTokens && { maxTokens }) };
    const replaced = edited === undefined ? undefined : answerTo(conversation, this.#idOf(edited));
    const sent = await conversation.send(textOf(message), { ...options, ...(replaced && { replaces: replaced.id }) });
    this.#names.set(sent.message, message.id);
    return sent;
  }

  async #regenerate(conversation: Conversation, messageId: string | undefined) {
    await known(conversation);
    const answers = conversation.messages.filter((message) => message.role === "assistant");
    const id = messageId && this.#idOf(messageId);
    const answer = id === undefined ? answers.at(-1) : (answers.find((each) => each.id === id) ?? answerTo(conversation, id));
    if (answer === undefined) throw new TypeError("There is no answer that could be given anew.");
    return conversation.retry(answer.id);
  }

  #name(message: Message): string {
    return this.#names.get(message.id) ?? ((message.role === "user" && message.key) || message.id);
  }

  /** The id in the history of what the AI SDK calls so. */
  #idOf(name: string): string {
    for (const [id, given] of this.#names) if (given === name) return id;
    return name;
  }
}

/** One answer from its beginning to its end. */
function stream(conversation: Conversation, response: string): Stream {
  let before: AssistantMessage | undefined;
  let leave = () => {};
  return new ReadableStream({
    start(controller) {
      const look = () => {
        const now = conversation.messages.find(({ id }) => id === response) as AssistantMessage | undefined;
        if (now === before || before?.state === "ended") return;
        // Another one was put in its place meanwhile.
        const last: AssistantMessage = now ?? { ...before!, state: "ended", reason: "stopped" };
        for (const chunk of chunks(before, last)) controller.enqueue(chunk);
        before = last;
        if (last.state !== "ended") return;
        controller.close();
        queueMicrotask(() => leave());
      };
      leave = conversation.subscribe(look);
      look();
    },
    cancel: () => leave(),
  });
}

/** The answer to the question with this id, or with this key. */
function answerTo(conversation: Conversation, id: string): AssistantMessage | undefined {
  const question = conversation.messages.find((message) => message.id === id || (message.role === "user" && message.key === id));
  return conversation.messages.find((message) => message.role === "assistant" && message.repliesTo === question?.id) as AssistantMessage | undefined;
}

/** Wait until it is known what is in a conversation. */
function known(conversation: Conversation, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (!conversation.known && !signal?.aborted) return;
      resolve();
      queueMicrotask(leave);
    };
    const leave = conversation.subscribe(look);
    signal?.addEventListener("abort", look);
    look();
  });
}
