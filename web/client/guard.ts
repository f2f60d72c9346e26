// Which text a guard checks, and what its verdict requests. Pure: run_guard.ts calls `check` and applies the result.

import type { Verdict } from "./types.js";

/** About one model token: up to six letters or digits, one letter of a script without capitals, or one mark. */
const TOKEN = /\p{Lo}|[\p{Lu}\p{Ll}\p{M}\p{N}]{1,6}|\S/gu;

/** Return the first `tokens` tokens of a text; null if it has fewer. */
export function firstTokens(text: string, tokens: number): string | null {
  let count = 0;
  for (const { index, 0: token } of text.matchAll(TOKEN)) {
    count += 1;
    if (count >= tokens) return text.slice(0, index + token.length);
  }
  return null;
}

/**
 * Return the question that replaces a stopped answer; null if none does, undefined if the answer continues. It
 * continues after an invalid verdict.
 */
export function refinedQuestion(
  verdict: Verdict | undefined,
  question: string,
): { text: string; instructions?: string } | null | undefined {
  if (typeof verdict !== "object" || verdict?.stop !== true) return undefined;
  const { refine } = verdict;
  if (refine === undefined) return null;
  return typeof refine === "string" ? { text: refine } : { ...refine, text: refine.text ?? question };
}
