// Runs a guard on the first tokens of an answer, and stops the answer. Loaded only if there is a guard.

import { firstTokens, refinedQuestion } from "./guard.js";
import type { Conversation, Guard, Message } from "./types.js";

/** Default timeout of `check`, in seconds. */
const TIMEOUT_S = 2;

/** The parts of a conversation that a guard needs. */
export interface GuardedConversation extends Pick<Conversation, "id" | "send" | "stop" | "subscribe"> {
  /** Return the message or answer with this id, also a replaced one. */
  message(id: string): Message | undefined;
}

/** Check a response once it has enough tokens; do nothing if it ends before. */
export function runGuard(chat: GuardedConversation, guard: Guard, response: string, message: string): void {
  /** Return the text of the open answer; null after its end. */
  const openText = () => {
    const answer = chat.message(response);
    return answer === undefined ? "" : answer.state === "ended" ? null : answer.text;
  };

  async function check(text: string): Promise<void> {
    const question = chat.message(message)?.text ?? "";
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeout = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), 1000 * (guard.within ?? TIMEOUT_S));
    });
    try {
      const checking = guard.check(text, { conversation: chat.id, response, question });
      const refined = refinedQuestion(await Promise.race([checking, timeout]), question);
      if (refined === undefined || openText() === null) return;
      chat.stop(response, "guarded");
      if (refined !== null) void chat.send(refined.text, { ...refined, replaces: response, guard: null });
    } catch {
      // The answer continues if the guard throws.
    } finally {
      clearTimeout(timer);
    }
  }

  const update = () => {
    const text = openText();
    const opening = text === null ? null : firstTokens(text, guard.tokens);
    if (text !== null && opening === null) return;
    unsubscribe();
    if (opening !== null) void check(opening);
  };
  const unsubscribe = chat.subscribe(update);
  update();
}
