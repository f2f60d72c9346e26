// Which way to take to the gateway, and how to tell that a proxy on it gathers what it should pass on. Pure.

import { Close } from "./wire.js";

export type Transport = "websocket" | "events";

/** Attempts on one transport that come to nothing before the other one is tried. */
const FAILURES = 2;

/** Milliseconds: deltas closer to each other came in one piece. */
const TOGETHER = 8;

/** Milliseconds of silence before such a piece. */
const SILENCE = 400;

/** Deltas in a piece that the gateway can not have written at once: what it has at one time is one delta. */
const GATHERED = 4;

/** Such pieces after each other, with nothing in between. */
const BURSTS = 3;

/** The transport of a line, as its attempts and its deltas have shown. */
export interface Choice {
  /** What the next attempt takes. */
  readonly transport: Transport;
  /** The network is another one: what is known of the old one's proxies says nothing. */
  reset(): void;
  /** A line was greeted by the gateway. */
  greeted(): void;
  /** A line closed before it was greeted, with this code. One that a gateway gave says that the way is open. */
  failed(code: number): void;
  /**
   * A delta came, at this time in milliseconds. Returns whether a proxy gathers them, so that the line is to be made
   * anew: the transport is then the other one.
   */
  heard(at: number): boolean;
}

export function choose(wanted: Transport | "auto"): Choice {
  const free = wanted === "auto";
  let transport = free ? "websocket" : wanted;
  let failures = 0;
  let gathering: Transport | undefined;
  let last = 0;
  let size = 0;
  let silent = false;
  let bursts = 0;

  function other(): void {
    transport = transport === "websocket" ? "events" : "websocket";
  }

  return {
    get transport() {
      return transport;
    },
    reset() {
      if (free) transport = "websocket";
      gathering = undefined;
      failures = 0;
    },
    greeted() {
      failures = size = bursts = 0;
    },
    failed(code) {
      if (!free || code !== Close.LOST || ++failures < FAILURES) return;
      failures = 0;
      other();
    },
    heard(at) {
      const silence = at - last;
      last = at;
      if (silence > TOGETHER) {
        if (size > 0 && size < GATHERED) bursts = 0;
        size = 0;
        silent = silence >= SILENCE;
      }
      size += 1;
      if (!silent || size !== GATHERED || ++bursts < BURSTS) return false;
      // Where both do, the one that is there is as good as the other.
      if (!free || gathering !== undefined) return false;
      gathering = transport;
      other();
      return true;
    },
  };
}
