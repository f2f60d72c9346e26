// Has the opening of an answer judged while it streams, and stops the answer. Loaded only where there is a guard.

import type { Guard } from "./client.js";
import type { Chat } from "./conversation.js";
import { opening, refined } from "./guard.js";

/** Seconds that a guard may take. */
const WITHIN = 2;

/** Follow an answer until it was judged, or has ended. It is let be unless the guard says otherwise in time. */
export function judge(chat: Chat, guard: Guard, response: string, message: string): void {
  /** The text of the answer as long as it goes on, null after that. */
  const going = () => {
    const answer = chat.message(response);
    return answer === undefined ? "" : answer.state === "ended" ? null : answer.text;
  };

  async function check(text: string): Promise<void> {
    const question = chat.message(message)?.text ?? "";
    let late: ReturnType<typeof setTimeout> | undefined;
    const patience = new Promise<undefined>((resolve) => {
      late = setTimeout(resolve, 1000 * (guard.within ?? WITHIN));
    });
    try {
      const checking = guard.check(text, { conversation: chat.id, response, question });
      const ask = refined(await Promise.race([checking, patience]), question);
      if (ask === undefined || going() === null) return;
      chat.stop(response, "guarded");
      if (ask !== null) void chat.send(ask.text, { ...ask, replaces: response, guard: null });
    } catch {
      // A guard that fails lets the answer be.
    } finally {
      clearTimeout(late);
    }
  }

  const look = () => {
    const text = going();
    const begun = text === null ? null : opening(text, guard.tokens);
    if (text !== null && begun === null) return;
    end();
    if (begun !== null) void check(begun);
  };
  const end = chat.subscribe(look);
  look();
}
