// An answer as the AI SDK wants to be told of it: how it was shown and how it is now, in; chunks of its stream, out. Pure.

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

/** Parts of a stream have names; an answer has one of each sort. */
const TEXT = "text";
const REASONING = "reasoning";

/** What the AI SDK calls the ways in which an answer ends; it has no word for the others. */
const FINISHED = { complete: "stop", length: "length", filtered: "content-filter", refused: "content-filter", tool_calls: "tool-calls" } as const;

/**
 * The chunks that turn what was shown of an answer into what it is now.
 *
 * @param before undefined where nothing was shown
 */
export function* chunks(before: AssistantMessage | undefined, now: AssistantMessage): Generator<Chunk> {
  if (before === undefined) {
    yield { type: "start", messageId: now.id, messageMetadata: metadata(now) };
    yield { type: "start-step" };
  }
  let text = before?.text ?? "";
  let reasoning = before?.reasoning ?? "";
  if ((before !== undefined && before.revision !== now.revision) || !now.reasoning.startsWith(reasoning)) {
    // Another worker began anew, or the store lost what was shown.
    yield { type: "reset-step" };
    text = reasoning = "";
  }
  if (now.reasoning.length > reasoning.length) {
    if (reasoning === "") yield { type: "reasoning-start", id: REASONING };
    yield { type: "reasoning-delta", id: REASONING, delta: now.reasoning.slice(reasoning.length) };
  }
  if (now.text.length > text.length) {
    if (text === "") yield { type: "text-start", id: TEXT };
    yield { type: "text-delta", id: TEXT, delta: now.text.slice(text.length) };
  }
  const ended = now.state === "ended";
  if (ended && now.reasoning !== "") yield { type: "reasoning-end", id: REASONING };
  if (ended && now.text !== "") yield { type: "text-end", id: TEXT };
  if (before !== undefined && (before.state !== now.state || before.model !== now.model)) {
    yield { type: "message-metadata", messageMetadata: metadata(now) };
  }
  if (!ended) return;
  if (now.error !== undefined) {
    yield { type: "error", errorText: now.error.message };
    return;
  }
  yield { type: "finish-step" };
  yield { type: "finish", finishReason: FINISHED[now.reason as keyof typeof FINISHED] ?? "other" };
}

/** A message as a whole, under this id. */
export function whole(message: Message, id: string): TokenwireMessage {
  const parts: TokenwireMessage["parts"] = [];
  if (message.role === "assistant") {
    const state = message.state === "ended" ? "done" : "streaming";
    parts.push({ type: "step-start" });
    if (message.reasoning !== "") parts.push({ type: "reasoning", text: message.reasoning, state });
    if (message.text !== "") parts.push({ type: "text", text: message.text, state });
  } else {
    parts.push({ type: "text", text: message.text });
  }
  return { id, role: message.role, parts, metadata: metadata(message) };
}

/** What was written in a message of the AI SDK. */
export function textOf({ parts }: UIMessage): string {
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

function metadata(message: Message): Metadata {
  const error = message.error?.message;
  if (message.role === "user") return { state: message.state, error };
  const { state, reason, model, usage } = message;
  return { state, reason, error, model, usage };
}
