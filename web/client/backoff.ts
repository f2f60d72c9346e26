// When to connect again after a line has closed, and whether to. Pure: the random number comes in as an argument.

/** Seconds that the first wait takes at the most; each further one may take twice as long. */
export const BASE = 0.25;

/** Seconds that no wait exceeds. */
export const CAP = 20;

/**
 * How long to wait before an attempt to connect, in seconds. Full jitter: any time up to a bound that doubles, so that
 * all the browsers that one gateway has lost do not come back to the next one together.
 *
 * @param attempt 0 for the first attempt since the connection last worked
 * @param random in [0, 1)
 */
export function delay(attempt: number, random: number): number {
  return random * Math.min(CAP, BASE * 2 ** attempt);
}

/** Whether a client connects again after this close code. Codes from 4000 to 4999 say that it would be refused again. */
export function reconnects(code: number): boolean {
  return !(code >= 4000 && code <= 4999);
}
