// Status texts of the connection, of an answer and of a question. Pure.

import type { AssistantMessage, ConversationState, Problem, UserMessage } from "../client/client.js";
import { Close } from "../client/wire.js";
import { filled, type Texts } from "./texts.js";

/** A status for the user. `tone` is its colour; `busy` shows an animation. */
export interface Status {
  text: string;
  tone: "calm" | "good" | "warning" | "wrong";
  busy: boolean;
}

/** Return the status of the connection; null if there is nothing to show. `now` in milliseconds since 1970. */
export function connectionStatus(
  state: ConversationState,
  fault: Problem | null,
  now: number,
  texts: Texts,
): Status | null {
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
      return { text: closeText(state.code, state.reason, texts), tone: "wrong", busy: false };
    case "live":
      return fault === null ? null : { text: fault.message, tone: "wrong", busy: false };
  }
}

function closeText(code: number, reason: string, texts: Texts): string {
  if (code === Close.NOT_AUTHENTICATED) return texts.expired;
  if (code === Close.FORBIDDEN_ORIGIN) return texts.forbiddenPage;
  return filled(texts.closed, { reason: reason === "" ? String(code) : reason });
}

/** Return the status of an answer; null if its text is enough. */
export function answerStatus(message: AssistantMessage, texts: Texts, secondsLeft: number): Status | null {
  const calm = (text: string, busy: boolean): Status => ({ text, tone: "calm", busy });
  if (message.stopping && message.state !== "ended") return calm(texts.stopping, true);
  switch (message.state) {
    case "queued":
      return calm(texts.queued, true);
    case "waiting":
      // Only a wait for the provider has a known duration; a wait for the store has none.
      if (message.retryIn === undefined) return { text: texts.held, tone: "warning", busy: true };
      return { text: filled(texts.waiting, { seconds: Math.max(1, secondsLeft) }), tone: "warning", busy: true };
    case "recovering":
      return { text: texts.recovering, tone: "warning", busy: true };
    case "running":
      return message.text === "" ? calm(texts.thinking, true) : null;
    case "ended":
      return endStatus(message, texts);
  }
}

function endStatus({ reason, error }: AssistantMessage, texts: Texts): Status | null {
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

/** Return the status of a question. `live`: whether the client is connected. */
export function questionStatus({ state, error }: UserMessage, live: boolean, texts: Texts): Status | null {
  if (state === "refused")
    return { text: filled(texts.notSent, { reason: error?.message ?? "" }), tone: "wrong", busy: false };
  return state === "sending" && !live ? { text: texts.sending, tone: "calm", busy: false } : null;
}
