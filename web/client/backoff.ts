// Reconnect backoff with full jitter. Pure: the random number is an argument.

/** Upper bound of the first delay, in seconds; it doubles with each attempt. */
export const MIN_BOUND_S = 0.25;

/** Upper bound of every delay, in seconds. */
export const MAX_BOUND_S = 20;

/**
 * Return the delay before an attempt to connect, in seconds. Full jitter spreads the clients that lost a gateway, so
 * that they do not overload the next one.
 *
 * @param attempt 0 for the first attempt since the connection last worked
 * @param random in [0, 1)
 */
export function backoffDelay(attempt: number, random: number): number {
  return random * Math.min(MAX_BOUND_S, MIN_BOUND_S * 2 ** attempt);
}

/** Whether to reconnect after this close code. The gateway would refuse again after 4000 to 4999. */
export function reconnects(code: number): boolean {
  return !(code >= 4000 && code <= 4999);
}
