import type { ChatTransport, UIMessageChunk } from "ai";
import type { Client } from "../client/client.js";
import { type Metadata, type TokenwireMessage } from "./chunks.js";
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
/**
 * Transport for a chat whose `id` is the conversation id. The `body` of a request may have `model`, `instructions` and
 * `maxTokens`. Aborting a request stops the answer in every tab: `stop` does, and unmounting a component of
 * `useChat({ id })`, but not one of `useChat({ chat })`.
 */
export declare class TokenwireTransport implements ChatTransport<TokenwireMessage> {
    #private;
    /** A resumed stream starts at the beginning of the answer. */
    readonly resumeStreamIsReplay = true;
    constructor(client: Client);
    /** Send the last message, replace an edited one, or regenerate an answer. Cancelled by `abortSignal`. */
    sendMessages({ trigger, chatId, messages, messageId, abortSignal, body }: Send): Promise<Stream>;
    /** Return the open answer from its beginning; null if there is none. */
    reconnectToStream({ chatId, abortSignal, }: {
        chatId: string;
        abortSignal?: AbortSignal;
    }): Promise<Stream | null>;
    /**
     * Synchronize a chat with its conversation: the history, and messages and answers of other tabs, token by token. The
     * chat is not changed while it is busy with its own request. Returns a function that ends it.
     */
    follow(chat: FollowedChat): () => void;
}
