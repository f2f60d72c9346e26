// Whether the opening of an answer is there to be judged, and what a verdict asks for. Pure: `check` itself is the
// conversation's to call and to wait for.

import type { Verdict } from "./client.js";

/** A token, nearly: up to six letters or digits, one letter of a script without spaces or capitals, or one mark. */
const TOKEN = /\p{Lo}|[\p{Lu}\p{Ll}\p{M}\p{N}]{1,6}|\S/gu;

/** The first `tokens` tokens of a text; null while there are fewer. */
export function opening(text: string, tokens: number): string | null {
  let count = 0;
  for (const { index, 0: token } of text.matchAll(TOKEN)) {
    count += 1;
    if (count >= tokens) return text.slice(0, index + token.length);
  }
  return null;
}

/**
 * What to ask in place of the stopped answer: null for nothing, undefined where the answer goes on. Whatever is no
 * verdict lets it.
 */
export function refined(verdict: Verdict | undefined, question: string): { text: string; instructions?: string } | null | undefined {
  if (typeof verdict !== "object" || verdict?.stop !== true) return undefined;
  const { refine } = verdict;
  if (refine === undefined) return null;
  return typeof refine === "string" ? { text: refine } : { ...refine, text: refine.text ?? question };
}
