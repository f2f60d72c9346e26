// What is said about the line and about an answer, in words.
// Pure: states in, words out.

import type { AssistantMessage, ConversationState, ErrorDetails, UserMessage } from "../client/client.js";
import { filled, type Texts } from "./texts.js";

/** Words for a person. `tone` is how they look; `busy` that something goes on. */
export interface Words {
  text: string;
  tone: "calm" | "good" | "warning" | "wrong";
  busy: boolean;
}

/** How the line is; null where there is nothing to say. `now` in milliseconds since 1970. */
export function ofLine(state: ConversationState, fault: ErrorDetails | null, now: number, texts: Texts): Words | null {
  switch (state.name) {
    case "connecting":
      return { text: texts.connecting, tone: "calm", busy: true };
    case "reconnecting": {
      const seconds = Math.ceil((state.at - now) / 1000);
      const text = seconds > 0 ? filled(texts.reconnecting, { seconds }) : texts.reconnectingNow;
      return { text, tone: "warning", busy: seconds <= 0 };
    }
    case "offline":
      return { text: texts.offline, tone: "warning", busy: false };
    case "behind":
      return { text: texts.behind, tone: "calm", busy: true };
    case "resumed":
      return { text: texts.resumed, tone: "good", busy: false };
    case "closed":
      return { text: ofClose(state.code, state.reason, texts), tone: "wrong", busy: false };
    case "live":
      return fault === null ? null : { text: fault.message, tone: "wrong", busy: false };
  }
}

function ofClose(code: number, reason: string, texts: Texts): string {
  if (code === 4401) return texts.expired;
  if (code === 4403) return texts.forbiddenPage;
  return filled(texts.closed, { reason: reason === "" ? String(code) : reason });
}

/** What an answer does, or how it ended, where its text does not tell; null where it does. */
export function ofAnswer(message: AssistantMessage, texts: Texts, secondsLeft: number): Words | null {
  const calm = (text: string, busy: boolean): Words => ({ text, tone: "calm", busy });
  if (message.stopping && message.state !== "ended") return calm(texts.stopping, true);
  switch (message.state) {
    case "queued":
      return calm(texts.queued, true);
    case "waiting":
      // For the provider it waits for so many seconds, for the gateway's store nobody knows.
      if (message.retryIn === undefined) return { text: texts.held, tone: "warning", busy: true };
      return { text: filled(texts.waiting, { seconds: Math.max(1, secondsLeft) }), tone: "warning", busy: true };
    case "recovering":
      return { text: texts.recovering, tone: "warning", busy: true };
    case "running":
      return message.text === "" ? calm(texts.thinking, true) : null;
    case "ended":
      return ofEnd(message, texts);
  }
}

function ofEnd({ reason, error }: AssistantMessage, texts: Texts): Words | null {
  switch (reason) {
    case "complete":
    case undefined:
      return null;
    case "stopped":
      return { text: texts.stopped, tone: "calm", busy: false };
    case "guarded":
      return { text: texts.guarded, tone: "calm", busy: false };
    case "length":
      return { text: texts.length, tone: "warning", busy: false };
    case "refused":
      return { text: texts.refused, tone: "warning", busy: false };
    case "filtered":
      return { text: texts.filtered, tone: "warning", busy: false };
    case "tool_calls":
      return { text: texts.toolCalls, tone: "warning", busy: false };
    case "failed": {
      const text = error === undefined ? texts.failedBare : filled(texts.failed, { reason: error.message });
      return { text, tone: "wrong", busy: false };
    }
    default:
      return { text: reason, tone: "warning", busy: false };
  }
}

/** What there is to say about a question. `live`: whether the line is up. */
export function ofQuestion({ state, error }: UserMessage, live: boolean, texts: Texts): Words | null {
  if (state === "refused")
    return { text: filled(texts.notSent, { reason: error?.message ?? "" }), tone: "wrong", busy: false };
  return state === "sending" && !live ? { text: texts.sending, tone: "calm", busy: false } : null;
}
