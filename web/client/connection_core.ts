// Decides when to connect, when a connection is dead, and when to stop trying. Pure: events in, effects out.
// connection.ts does the I/O.

import { backoffDelay, reconnects } from "./backoff.js";
import { ABNORMAL_CLOSURE } from "./transport.js";
import type { TransportChoice } from "./transport_choice.js";
import type { ConnectionState } from "./types.js";
import { Close, type ErrorFrame, type ServerFrame } from "./wire.js";

/** Seconds until a connection must be open and `ready`. */
const OPEN_TIMEOUT_S = 10;

/** Heartbeat intervals without any data after which a connection is dead. */
const MAX_SILENT_HEARTBEATS = 2.5;

/** The same when a page becomes visible: after a laptop wakes up, a user waits for the reconnect. */
const MAX_SILENT_HEARTBEATS_VISIBLE = 1.25;

export type ConnectionEvent =
  /** Something was subscribed or sent. */
  | { type: "begin" }
  /** The application calls `reconnect()`. */
  | { type: "reconnect" }
  /** The transport closed or could not be opened. */
  | { type: "closed"; code: number; reason: string }
  /** Data arrived; null if it is not a frame. */
  | { type: "received"; frame: ServerFrame | null }
  /** The timer of the last effect elapsed. */
  | { type: "timer" }
  | { type: "online" }
  | { type: "offline" }
  /** The page became visible. */
  | { type: "visible" }
  /** The application closes the client. */
  | { type: "end" };

/** The environment at the time of an event. */
export interface Environment {
  /** Monotonic time in milliseconds. */
  readonly now: number;
  /** Milliseconds since 1970. */
  readonly wallClock: number;
  /** In [0, 1). */
  readonly random: number;
  readonly online: boolean;
  readonly visible: boolean;
  /** Whether there is a transport, open or not. */
  readonly connected: boolean;
}

/** What to do after an event. */
export interface Effects {
  /** Close the transport and clear the timer; `open` then opens another transport. */
  transport?: "open" | "close";
  /** Restart the timer with this many milliseconds. */
  timer?: number;
}

export class ConnectionCore {
  /** The public state; a new object after each change. */
  state: ConnectionState = { name: "connecting" };
  #choice: TransportChoice;
  #refreshable: boolean;
  #started = false;
  #ended = false;
  #attempt = 0;
  #heartbeatS = 0;
  #receivedAt = 0;
  /** When the gateway asked to reconnect; 0 if it did not. */
  #reconnectAt = 0;
  /** Whether the timer connects, or checks that the connection is alive. */
  #timerConnects = false;
  /** Whether the gateway rejected the last token, and this attempt uses a fresh one. */
  #tokenRetried = false;

  /** @param refreshable whether a rejected token can be replaced */
  constructor(choice: TransportChoice, refreshable: boolean) {
    this.#choice = choice;
    this.#refreshable = refreshable;
  }

  handle(event: ConnectionEvent, at: Environment): Effects {
    switch (event.type) {
      case "begin":
        return this.#started ? {} : this.#reconnect(at);
      case "reconnect":
        return this.#reconnect(at);
      case "closed":
        return this.#lost(event.code, event.reason, at);
      case "received":
        this.#receivedAt = at.now;
        return event.frame === null ? {} : this.#received(event.frame, at);
      case "timer":
        return this.#timerConnects ? this.#connect(at) : this.#checkAlive(MAX_SILENT_HEARTBEATS, at);
      case "online":
        // The network changed, so the open connection is probably dead.
        this.#choice.reset();
        return this.#started && this.state.name !== "closed" ? this.#reconnect(at) : {};
      case "offline":
        return at.connected ? this.#lost(ABNORMAL_CLOSURE, "", at) : {};
      case "visible":
        if (at.connected) return this.#checkAlive(MAX_SILENT_HEARTBEATS_VISIBLE, at);
        return "at" in this.state ? this.#connect(at) : {};
      case "end":
        this.#ended = true;
        this.state = { name: "closed", code: 1000, reason: "" };
        return { transport: "close" };
    }
  }

  #reconnect(at: Environment): Effects {
    if (this.#ended) return {};
    this.#attempt = 0;
    this.#tokenRetried = false;
    return this.#connect(at);
  }

  #connect(at: Environment): Effects {
    this.#started = true;
    this.#reconnectAt = 0;
    this.#timerConnects = false;
    this.#receivedAt = at.now;
    this.state = { name: "connecting" };
    return { transport: "open", timer: 1000 * OPEN_TIMEOUT_S };
  }

  #lost(code: number, reason: string, at: Environment): Effects {
    if (this.state.name !== "live") this.#choice.failed(code);
    const wait = this.#reconnectAt ? this.#reconnectAt - at.now : 1000 * backoffDelay(this.#attempt, at.random);
    this.#reconnectAt = 0;
    this.#tokenRetried = code === Close.NOT_AUTHENTICATED && this.#refreshable && !this.#tokenRetried;
    if (!reconnects(code) && !this.#tokenRetried) {
      this.state = { name: "closed", code, reason };
      return { transport: "close" };
    }
    this.#attempt += 1;
    this.#timerConnects = true;
    const name = at.online ? "reconnecting" : "offline";
    this.state = { name, attempt: this.#attempt, at: at.wallClock + Math.max(0, wait) };
    return { transport: "close", timer: wait };
  }

  /** Reconnect if the connection is dead; otherwise check again when it may be. */
  #checkAlive(maxHeartbeats: number, at: Environment): Effects {
    // The timer that reconnects must keep running.
    if (this.#reconnectAt) return {};
    const timeout = 1000 * (this.state.name === "live" ? maxHeartbeats * this.#heartbeatS : OPEN_TIMEOUT_S);
    const left = this.#receivedAt + timeout - at.now;
    if (left <= 0) return this.#lost(ABNORMAL_CLOSURE, "", at);
    this.#timerConnects = false;
    return { timer: left };
  }

  #received(frame: ServerFrame, at: Environment): Effects {
    switch (frame.type) {
      case "ready":
        this.#tokenRetried = false;
        this.#heartbeatS = frame.heartbeat;
        this.#choice.ready();
        this.state = { name: "live", transport: this.#choice.transport };
        return this.#checkAlive(MAX_SILENT_HEARTBEATS, at);
      case "watching":
        // `ready` does not reset the backoff: a gateway without its store sends it too.
        this.#attempt = 0;
        return {};
      case "delta":
        return at.visible && this.#choice.delta(at.now) ? this.#connect(at) : {};
      case "error":
        // A connection limit or rate limit is reached: the gateway closes the connection next.
        // With a conversation, `overloaded` refuses a watch, and the connection stays open.
        if ((frame.code === "overloaded" && frame.conversation === undefined) || this.#refusesHello(frame)) {
          this.#reconnectAt = at.now + 1000 * frame.retry_after!;
        }
        return {};
      case "moving": {
        const wait = 1000 * frame.within * at.random;
        // Also used if the connection closes before, to spread the clients over the remaining gateways.
        this.#reconnectAt = at.now + wait;
        this.#timerConnects = true;
        return { timer: wait };
      }
    }
    return {};
  }

  #refusesHello({ code, conversation, key }: ErrorFrame): boolean {
    const limit = code === "too_many" || code === "too_fast";
    return limit && this.state.name !== "live" && conversation === undefined && key === undefined;
  }
}
