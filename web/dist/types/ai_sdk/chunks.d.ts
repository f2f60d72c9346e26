import type { UIMessage, UIMessageChunk } from "ai";
import type { AssistantMessage, Message } from "../client/client.js";
/** What a message's `metadata` says that its parts do not. */
export interface Metadata {
    /** `sending`, `refused` or `sent` of a question; `queued`, `waiting`, `recovering`, `running` or `ended` of an answer. */
    readonly state: Message["state"];
    /** How an answer ended: `complete`, `stopped`, `guarded`, `length`, `failed` and so on. */
    readonly reason?: string | undefined;
    /** Why it failed or was refused, for the person. */
    readonly error?: string | undefined;
    readonly model?: string | undefined;
    readonly usage?: AssistantMessage["usage"];
}
/** A message of `useChat` over Tokenwire. */
export type TokenwireMessage = UIMessage<Metadata>;
type Chunk = UIMessageChunk<Metadata>;
/**
 * The chunks that turn what was shown of an answer into what it is now.
 *
 * @param before undefined where nothing was shown
 */
export declare function chunks(before: AssistantMessage | undefined, now: AssistantMessage): Generator<Chunk>;
/** A message as a whole, under this id. */
export declare function whole(message: Message, id: string): TokenwireMessage;
/** What was written in a message of the AI SDK. */
export declare function textOf({ parts }: UIMessage): string;
export {};
