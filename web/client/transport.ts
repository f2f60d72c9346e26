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
export class Choice {
  /** What the next attempt takes. */
  transport: Transport;
  #free: boolean;
  #failures = 0;
  #gathering = new Set<Transport>();
  #last = 0;
  #size = 0;
  #silent = false;
  #bursts = 0;

  constructor(wanted: Transport | "auto") {
    this.#free = wanted === "auto";
    this.transport = wanted === "auto" ? "websocket" : wanted;
  }

  /** The network is another one: what is known of the old one's proxies says nothing. */
  reset(): void {
    if (this.#free) this.transport = "websocket";
    this.#failures = 0;
    this.#gathering.clear();
  }

  /** A line was greeted by the gateway. */
  greeted(): void {
    this.#failures = this.#size = this.#bursts = 0;
  }

  /** A line closed before it was greeted, with this code. One that a gateway gave says that the way is open. */
  failed(code: number): void {
    if (!this.#free || code !== Close.LOST) return;
    this.#failures += 1;
    if (this.#failures < FAILURES) return;
    this.#failures = 0;
    this.#other();
  }

  /**
   * A delta came, at this time in milliseconds. Returns whether a proxy gathers them, so that the line is to be made
   * anew: the transport is then the other one.
   */
  heard(at: number): boolean {
    const silence = at - this.#last;
    this.#last = at;
    if (silence > TOGETHER) {
      if (this.#size > 0 && this.#size < GATHERED) this.#bursts = 0;
      this.#size = 0;
      this.#silent = silence >= SILENCE;
    }
    this.#size += 1;
    if (!this.#silent || this.#size !== GATHERED) return false;
    this.#bursts += 1;
    if (this.#bursts < BURSTS || !this.#free) return false;
    this.#gathering.add(this.transport);
    // Where both do, the one that is there is as good as the other.
    if (this.#gathering.size > 1) return false;
    this.#other();
    return true;
  }

  #other(): void {
    this.transport = this.transport === "websocket" ? "events" : "websocket";
  }
}
