import type { ChatTransport, UIMessageChunk } from "ai";
import type { Client } from "../client/client.js";
import { type Metadata, type TokenwireMessage } from "./chunks.js";
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
/**
 * The chat's `id` is the conversation. `body` of a request may have `model`, `instructions` and `maxTokens`. A `stop`
 * stops the answer in every tab; so does whatever else aborts a request, such as a component of `useChat({ id })` that
 * goes away, but not one of `useChat({ chat })`.
 */
export declare class TokenwireTransport implements ChatTransport<TokenwireMessage> {
    #private;
    /** What is resumed comes whole, from its beginning. */
    readonly resumeStreamIsReplay = true;
    constructor(client: Client);
    /** Send the last message, again in other words where it has been sent before, or have an answer given anew. */
    sendMessages({ trigger, chatId, messages, messageId, abortSignal, body }: Send): Promise<Stream>;
    /** The answer that is being written, from its beginning; null where there is none. */
    reconnectToStream({ chatId, abortSignal }: {
        chatId: string;
        abortSignal?: AbortSignal;
    }): Promise<Stream | null>;
    /**
     * Keep a chat as its conversation is: what was said before, what other tabs ask and what they are answered, token by
     * token. While it is busy with a request of its own it is let be. Returns what ends it.
     */
    follow(chat: Followed): () => void;
}
