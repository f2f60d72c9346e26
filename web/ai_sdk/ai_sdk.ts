// Entry `tokenwire/ai-sdk`: a chat transport for the AI SDK.
//
//   const transport = new TokenwireTransport(connect({ url: "https://chat.example.com" }));
//   const chat = new Chat({ id: "c1", transport });         // from @ai-sdk/react, /vue, /svelte or /angular
//   useEffect(() => transport.follow(chat), []);            // shows messages of other tabs
//   const { messages, sendMessage, stop } = useChat({ chat });

import type { ChatTransport, UIMessageChunk } from "ai";

import type { AssistantMessage, Client, Conversation, Message, SendOptions } from "../client/client.js";
import { chunks, type Metadata, type TokenwireMessage, textOf, toUIMessage } from "./chunks.js";

export type { Metadata, TokenwireMessage };

type Send = Parameters<ChatTransport<TokenwireMessage>["sendMessages"]>[0];
type Stream = ReadableStream<UIMessageChunk<Metadata>>;

/** A `Chat` of the AI SDK, of any framework. */
export interface FollowedChat {
  readonly id: string;
  readonly status: "submitted" | "streaming" | "ready" | "error";
  messages: TokenwireMessage[];
  resumeStream(): Promise<void>;
}

/** Polling interval while a chat is busy with its own request: the AI SDK does not report the end. */
const BUSY_POLL_MS = 100;

/**
 * Transport for a chat whose `id` is the conversation id. The `body` of a request may have `model`, `instructions` and
 * `maxTokens`. Aborting a request stops the answer in every tab: `stop` does, and unmounting a component of
 * `useChat({ id })`, but not one of `useChat({ chat })`.
 */
export class TokenwireTransport implements ChatTransport<TokenwireMessage> {
  /** A resumed stream starts at the beginning of the answer. */
  readonly resumeStreamIsReplay = true;
  readonly #client: Client;
  /** Ids that the AI SDK gave to sent messages, by their ids in the history. */
  readonly #sdkIds = new Map<string, string>();
  /** Counts the calls of `reconnectToStream`. */
  #resumed = 0;

  constructor(client: Client) {
    this.#client = client;
  }

  /** Send the last message, replace an edited one, or regenerate an answer. Cancelled by `abortSignal`. */
  async sendMessages({ trigger, chatId, messages, messageId, abortSignal, body }: Send): Promise<Stream> {
    const conversation = this.#client.conversation(chatId);
    const sent =
      trigger === "submit-message"
        ? this.#submit(conversation, messages, messageId, body)
        : this.#regenerate(conversation, messageId);
    // An abort before acceptance rejects immediately, also offline. The stop is sent after acceptance.
    const stopped = new Promise<never>((_, reject) => {
      abortSignal?.addEventListener("abort", () => {
        reject(abortSignal.reason);
        void sent.then(({ response }) => conversation.stop(response));
      });
    });
    const { response } = await Promise.race([sent, stopped]);
    return stream(conversation, response);
  }

  /** Return the open answer from its beginning; null if there is none. */
  async reconnectToStream({
    chatId,
    abortSignal,
  }: {
    chatId: string;
    abortSignal?: AbortSignal;
  }): Promise<Stream | null> {
    const conversation = this.#client.conversation(chatId);
    const own = (this.#resumed += 1);
    await known(conversation, abortSignal);
    const response = abortSignal?.aborted ? undefined : conversation.answering?.id;
    if (response === undefined) return null;
    abortSignal?.addEventListener("abort", () =>
      // A chat that resumes again aborts its earlier stream, which must not stop the answer.
      queueMicrotask(() => own === this.#resumed && conversation.stop(response)),
    );
    return stream(conversation, response);
  }

  /**
   * Synchronize a chat with its conversation: the history, and messages and answers of other tabs, token by token. The
   * chat is not changed while it is busy with its own request. Returns a function that ends it.
   */
  follow(chat: FollowedChat): () => void {
    const conversation = this.#client.conversation(chat.id);
    let shown: readonly Message[] | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let resuming = false;
    let ended = false;
    const update = () => {
      clearTimeout(timer);
      if (ended || !conversation.known || shown === conversation.messages) return;
      if (resuming || chat.status === "submitted" || chat.status === "streaming") {
        timer = setTimeout(update, BUSY_POLL_MS);
        return;
      }
      shown = conversation.messages;
      chat.messages = shown.map((message) => toUIMessage(message, this.#sdkId(message)));
      const { answering } = conversation;
      if (answering === undefined || answering.stopping) return;
      resuming = true;
      void chat.resumeStream().finally(() => (resuming = false));
    };
    const unsubscribe = conversation.subscribe(update);
    update();
    return () => {
      ended = true;
      clearTimeout(timer);
      unsubscribe();
    };
  }

  async #submit(
    conversation: Conversation,
    messages: TokenwireMessage[],
    edited: string | undefined,
    body: object | undefined,
  ) {
    const message = messages.at(-1);
    if (message?.role !== "user") throw new TypeError("The last message must have the role user.");
    if (message.parts.some(({ type }) => type === "file"))
      throw new TypeError("Tokenwire does not send files: remove the file parts of the message.");
    const { model, instructions, maxTokens, metadata } = (body ?? {}) as SendOptions;
    const options: SendOptions = {
      ...(model && { model }),
      ...(instructions && { instructions }),
      ...(maxTokens && { maxTokens }),
      ...(metadata && { metadata }),
    };
    const replaced = edited === undefined ? undefined : answerTo(conversation, this.#idOf(edited));
    const sent = await conversation.send(textOf(message), { ...options, ...(replaced && { replaces: replaced.id }) });
    this.#sdkIds.set(sent.message, message.id);
    return sent;
  }

  async #regenerate(conversation: Conversation, messageId: string | undefined) {
    await known(conversation);
    const answers = conversation.messages.filter((message) => message.role === "assistant");
    const id = messageId && this.#idOf(messageId);
    const answer =
      id === undefined ? answers.at(-1) : (answers.find((each) => each.id === id) ?? answerTo(conversation, id));
    if (answer === undefined) throw new TypeError("There is no answer to regenerate.");
    return conversation.retry(answer.id);
  }

  #sdkId(message: Message): string {
    return this.#sdkIds.get(message.id) ?? ((message.role === "user" && message.key) || message.id);
  }

  /** Return the history id of a message, given its AI SDK id. */
  #idOf(name: string): string {
    for (const [id, given] of this.#sdkIds) if (given === name) return id;
    return name;
  }
}

/** Return a stream of one answer, from its beginning to its end. */
function stream(conversation: Conversation, response: string): Stream {
  let before: AssistantMessage | undefined;
  let unsubscribe = () => {};
  return new ReadableStream({
    start(controller) {
      const update = () => {
        const now = conversation.messages.find(({ id }) => id === response) as AssistantMessage | undefined;
        if (now === before || before?.state === "ended") return;
        // The answer was replaced.
        const last: AssistantMessage = now ?? { ...before!, state: "ended", reason: "stopped" };
        for (const chunk of chunks(before, last)) controller.enqueue(chunk);
        before = last;
        if (last.state !== "ended") return;
        controller.close();
        queueMicrotask(() => unsubscribe());
      };
      unsubscribe = conversation.subscribe(update);
      update();
    },
    cancel: () => unsubscribe(),
  });
}

/** Return the answer to the question with this id or key. */
function answerTo(conversation: Conversation, id: string): AssistantMessage | undefined {
  const question = conversation.messages.find(
    (message) => message.id === id || (message.role === "user" && message.key === id),
  );
  return conversation.messages.find((message) => message.role === "assistant" && message.repliesTo === question?.id) as
    | AssistantMessage
    | undefined;
}

/** Wait for the content of a conversation, or for an abort. */
function known(conversation: Conversation, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const update = () => {
      if (!conversation.known && !signal?.aborted) return;
      resolve();
      queueMicrotask(unsubscribe);
    };
    const unsubscribe = conversation.subscribe(update);
    signal?.addEventListener("abort", update);
    update();
  });
}
