// Chooses the transport, and detects a proxy that buffers the stream. Pure.

import { ABNORMAL_CLOSURE, type TransportName } from "./transport.js";

/** Failed attempts on one transport before the other one is tried. */
const MAX_FAILURES = 2;

/** Deltas that arrive within this time belong to the same batch. */
const BATCH_GAP_MS = 8;

/** Minimum silence before a batch that counts as buffered. */
const SILENCE_MS = 400;

/** Deltas in a buffered batch. The gateway coalesces what it has into one delta, so it cannot have sent these at once. */
const BUFFERED_DELTAS = 4;

/** Consecutive buffered batches that show a buffering proxy. */
const BUFFERED_BATCHES = 3;

/** The choice of transport, based on the attempts and deltas so far. */
export interface TransportChoice {
  /** Transport of the next attempt. */
  readonly transport: TransportName;
  /** Forget the observations: the network changed, and with it the proxies. */
  reset(): void;
  /** The gateway sent `ready`. */
  ready(): void;
  /** A connection closed before `ready`. Any code from the gateway shows that the transport works. */
  failed(code: number): void;
  /** A delta arrived at `now`, in milliseconds. Return true after a switch to the other transport: a proxy buffers this one. */
  delta(now: number): boolean;
}

export function chooseTransport(wanted: TransportName | "auto"): TransportChoice {
  const automatic = wanted === "auto";
  let transport = automatic ? "websocket" : wanted;
  let failures = 0;
  let buffered = false;
  let last = 0;
  let deltas = 0;
  let afterSilence = false;
  let batches = 0;

  function switchTransport(): void {
    transport = transport === "websocket" ? "events" : "websocket";
  }

  return {
    get transport() {
      return transport;
    },
    reset() {
      if (automatic) transport = "websocket";
      buffered = false;
      failures = 0;
    },
    ready() {
      failures = deltas = batches = 0;
    },
    failed(code) {
      if (!automatic || code !== ABNORMAL_CLOSURE || ++failures < MAX_FAILURES) return;
      failures = 0;
      switchTransport();
    },
    delta(now) {
      const silence = now - last;
      last = now;
      if (silence > BATCH_GAP_MS) {
        if (deltas > 0 && deltas < BUFFERED_DELTAS) batches = 0;
        deltas = 0;
        afterSilence = silence >= SILENCE_MS;
      }
      deltas += 1;
      if (!afterSilence || deltas !== BUFFERED_DELTAS || ++batches < BUFFERED_BATCHES) return false;
      // After one switch both transports are buffered, and another switch would not help.
      if (!automatic || buffered) return false;
      buffered = true;
      switchTransport();
      return true;
    },
  };
}
