// Keeps one line to the gateway alive: connects, notices that it is dead, comes back. A shell: how long to wait is the
// backoff's to say, and on what to come back is the transport's.

import { delay, reconnects } from "./backoff.js";
import type { ConnectionState, Options } from "./client.js";
import { openSocket, type Hearer, type Line, type OpenLine } from "./socket.js";
import { expiry } from "./token.js";
import { choose } from "./transport.js";
import { Close, type ClientFrame, type ServerFrame } from "./wire.js";

/** Seconds within which a line must be open and greeted. */
const PATIENCE = 10;

/** Heartbeats without a frame after which the line is dead. */
const SILENT_HEARTBEATS = 2.5;

/** The same for a page that was just looked at again: a laptop that woke up has somebody waiting. */
const SILENT_HEARTBEATS_IN_SIGHT = 1.25;

/** Seconds before its expiry at which a token is replaced. */
const FRESH = 30;

/** The longest time of a timer, in milliseconds. */
const LONGEST = 2 ** 31 - 1;

/** Who uses the connection. */
export interface User {
  /** Everything that the line has to be told and has not answered. */
  frames(): Iterable<ClientFrame>;
  frame(frame: ServerFrame): void;
  changed(): void;
}

/** A line to the gateway that is made anew as often as it takes. */
export interface Connection {
  readonly state: ConnectionState;
  /** Connect, unless that was begun already. */
  begin(): void;
  /** Connect now, whatever the state. */
  reconnect(): void;
  /** Say something now, or not at all: what matters is among the user's frames for the next line. Returns whether. */
  say(frame: ClientFrame): boolean;
  /** Say everything again after so many seconds, unless that is about to happen anyway. */
  sayAgain(seconds: number): void;
  close(): void;
}

export function keepConnected(options: Options, user: User): Connection {
  const { token: fixed = null, getToken, program } = options;
  const base = new URL(String(options.url).replace(/\/?$/, "/"));
  const choice = choose(options.transport ?? "auto");
  const places = new Map<string, string>();
  const over = new AbortController();
  const { signal } = over;
  let state: ConnectionState = { name: "connecting" };
  let line: Line | null = null;
  /** Counts the lines, so that a token that comes late for one is known to. */
  let number = 0;
  let attempt = 0;
  let heartbeat = 0;
  /** When something came last. */
  let heard = 0;
  /** When to connect anew, although the line may still work; 0 for never. */
  let due = 0;
  /** Whether the last token was refused, and another one is being tried. */
  let refused = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let refresh: ReturnType<typeof setTimeout> | undefined;
  let again: ReturnType<typeof setTimeout> | undefined;

  function tell(next: ConnectionState): void {
    state = next;
    user.changed();
  }

  /** Let go of the line, if there is one. */
  function drop(): void {
    for (const each of [timer, refresh, again]) clearTimeout(each);
    again = undefined;
    due = 0;
    number += 1;
    line?.close();
    line = null;
  }

  async function connect(): Promise<void> {
    drop();
    tell({ name: "connecting" });
    heard = performance.now();
    listen(SILENT_HEARTBEATS);
    const own = number;
    let token: string | null;
    let open: OpenLine;
    try {
      token = getToken === undefined ? fixed : await getToken();
      open = choice.transport === "events" ? (await import("./events.js")).openEvents : openSocket;
    } catch {
      // The next attempt may bring them.
      if (own === number) lost(Close.LOST, "");
      return;
    }
    if (own !== number) return;
    // What a socket brings moves on from every place in an event stream.
    if (open === openSocket) places.clear();
    const hearer: Hearer = {
      opened() {
        // JSON leaves out what is undefined.
        opened.say({ type: "hello", client: program, token: token ?? undefined });
        // Not waiting for `ready` saves a round trip; a refused hello closes the line anyway.
        sayAll();
      },
      heard: (data) => hear(decode(data)),
      closed: lost,
    };
    const opened = (line = open(base, hearer, options, token, places));
    keepFresh(token);
  }

  function lost(code: number, reason: string): void {
    if (state.name !== "live") choice.failed(code);
    const wait = due ? due - performance.now() : 1000 * delay(attempt, Math.random());
    drop();
    refused = code === Close.NOT_AUTHENTICATED && getToken !== undefined && !refused;
    if (!reconnects(code) && !refused) {
      tell({ name: "closed", code, reason });
      return;
    }
    attempt += 1;
    timer = setTimeout(connect, wait);
    const name = globalThis.navigator?.onLine === false ? "offline" : "reconnecting";
    tell({ name, attempt, at: Date.now() + Math.max(0, wait) });
  }

  /** Reconnect if nothing has come for too long, and look again when that may be. */
  function listen(heartbeats: number): void {
    if (due) return;
    clearTimeout(timer);
    const patience = 1000 * (state.name === "live" ? heartbeats * heartbeat : PATIENCE);
    const left = heard + patience - performance.now();
    if (left <= 0) lost(Close.LOST, "");
    else timer = setTimeout(listen, left, SILENT_HEARTBEATS);
  }

  function hear(frame: ServerFrame | null): void {
    heard = performance.now();
    if (frame === null) return;
    user.frame(frame);
    switch (frame.type) {
      case "ready":
        refused = false;
        heartbeat = frame.heartbeat;
        choice.greeted();
        tell({ name: "live", transport: choice.transport });
        listen(SILENT_HEARTBEATS);
        break;
      case "watching":
        // Only now has the gateway shown that it works.
        attempt = 0;
        break;
      case "delta":
        if (globalThis.document?.visibilityState !== "hidden" && choice.heard(heard)) void connect();
        break;
      case "error":
        // There is no room, and the line is closed next.
        if (frame.code === "overloaded") due = heard + 1000 * frame.retry_after!;
        break;
      case "moving": {
        // The line may go before that; the gateways that stay are to be spared all the same.
        const wait = 1000 * frame.within * Math.random();
        due = heard + wait;
        clearTimeout(timer);
        timer = setTimeout(connect, wait);
      }
    }
  }

  function sayAll(): void {
    for (const frame of user.frames()) line?.say(frame);
  }

  /** Replace the token before it expires; the line stays. */
  function keepFresh(token: string | null): void {
    const expires = expiry(token);
    if (getToken === undefined || expires === undefined) return;
    const wait = Math.min(LONGEST, Math.max(1000, expires - Date.now() - 1000 * FRESH));
    const own = number;
    refresh = setTimeout(async () => {
      try {
        const fresh = await getToken();
        if (fresh === null || own !== number) return;
        line?.say({ type: "token", token: fresh });
        keepFresh(fresh);
      } catch {
        // It is asked for again when this one has expired.
      }
    }, wait);
  }

  function reconnect(): void {
    if (signal.aborted) return;
    attempt = 0;
    refused = false;
    void connect();
  }

  globalThis.addEventListener?.(
    "online",
    () => {
      // What was open ran over another network.
      choice.reset();
      if (number > 0 && state.name !== "closed") reconnect();
    },
    { signal },
  );
  globalThis.addEventListener?.("offline", () => line && lost(Close.LOST, ""), { signal });
  globalThis.document?.addEventListener(
    "visibilitychange",
    () => {
      if (document.visibilityState !== "visible") return;
      if (line !== null) listen(SILENT_HEARTBEATS_IN_SIGHT);
      else if ("at" in state) void connect();
    },
    { signal },
  );

  return {
    get state() {
      return state;
    },
    begin() {
      if (number === 0) reconnect();
    },
    reconnect,
    say: (frame) => line !== null && line.say(frame),
    sayAgain(seconds) {
      again ??= setTimeout(() => {
        again = undefined;
        sayAll();
      }, 1000 * seconds);
    },
    close() {
      over.abort();
      drop();
      tell({ name: "closed", code: 1000, reason: "" });
    },
  };
}

/** Read a frame of the server; null for what is none. Types that are not known here are frames too. */
function decode(data: string): ServerFrame | null {
  try {
    const frame = JSON.parse(data) as ServerFrame | null;
    return frame?.type ? frame : null;
  } catch {
    return null;
  }
}
