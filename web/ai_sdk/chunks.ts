// Converts changes of an answer into chunks of an AI SDK stream. Pure.

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

/** Part ids in the stream. An answer has one part of each kind. */
const TEXT = "text";
const REASONING = "reasoning";

/** End reasons and the equivalent finish reasons of the AI SDK. */
const FINISHED = {
  complete: "stop",
  length: "length",
  filtered: "content-filter",
  refused: "content-filter",
  tool_calls: "tool-calls",
} as const;

/**
 * Yield the chunks that update an answer from `before` to `now`.
 *
 * @param before undefined for the first call
 */
export function* chunks(before: AssistantMessage | undefined, now: AssistantMessage): Generator<Chunk> {
  if (before === undefined) {
    yield { type: "start", messageId: now.id, messageMetadata: metadata(now) };
    yield { type: "start-step" };
  }
  let text = before?.text ?? "";
  let reasoning = before?.reasoning ?? "";
  if ((before !== undefined && before.revision !== now.revision) || !now.reasoning.startsWith(reasoning)) {
    // A new attempt restarted the text, or the store lost its tail.
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

/** Convert a complete message. */
export function toUIMessage(message: Message, id: string): TokenwireMessage {
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

/** Return the text of an AI SDK message. */
export function textOf({ parts }: UIMessage): string {
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

function metadata(message: Message): Metadata {
  const error = message.error?.message;
  if (message.role === "user") return { state: message.state, error };
  const { state, reason, model, usage } = message;
  return { state, reason, error, model, usage };
}
