import type { UIMessage, UIMessageChunk } from "ai";
import type { AssistantMessage, Message } from "../client/client.js";
/** `metadata` of a message: the fields that its parts do not have. */
export interface Metadata {
    /** Question: `sending`, `refused`, `sent`. Answer: `queued`, `waiting`, `recovering`, `running`, `ended`. */
    readonly state: Message["state"];
    /** End reason of an answer: `complete`, `stopped`, `guarded`, `length`, `failed` and so on. */
    readonly reason?: string | undefined;
    /** Why it failed or was refused, as a sentence for the user. */
    readonly error?: string | undefined;
    readonly model?: string | undefined;
    readonly usage?: AssistantMessage["usage"];
}
/** A message of `useChat` over Tokenwire. */
export type TokenwireMessage = UIMessage<Metadata>;
type Chunk = UIMessageChunk<Metadata>;
/**
 * Yield the chunks that update an answer from `before` to `now`.
 *
 * @param before undefined for the first call
 */
export declare function chunks(before: AssistantMessage | undefined, now: AssistantMessage): Generator<Chunk>;
/** Convert a complete message. */
export declare function toUIMessage(message: Message, id: string): TokenwireMessage;
/** Return the text of an AI SDK message. */
export declare function textOf({ parts }: UIMessage): string;
export {};
