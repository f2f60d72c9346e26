// Keeps a connection to the gateway open. A shell around connection_core.ts, which decides when to (re)connect.

import { ConnectionCore, type ConnectionEvent } from "./connection_core.js";
import { tokenExpiry } from "./token.js";
import { ABNORMAL_CLOSURE, type OpenTransport, type Transport } from "./transport.js";
import { chooseTransport } from "./transport_choice.js";
import type { ConnectionState, Options } from "./types.js";
import { openWebSocket } from "./websocket_transport.js";
import type { ClientFrame, ServerFrame } from "./wire.js";

/** Seconds before its expiry at which a token is replaced. */
const TOKEN_MARGIN_S = 30;

/** Maximum delay of `setTimeout`. */
const MAX_TIMER_MS = 2 ** 31 - 1;

type Timer = ReturnType<typeof setTimeout> | undefined;

/** Uses a connection. */
export interface Session {
  /** Return every frame to send on a new connection: watches and unanswered requests. */
  frames(): Iterable<ClientFrame>;
  received(frame: ServerFrame): void;
  stateChanged(): void;
}

/** A connection to the gateway that reconnects automatically. */
export interface Connection {
  readonly state: ConnectionState;
  /** Connect, unless that started before. */
  begin(): void;
  /** Connect now, in any state. */
  reconnect(): void;
  /** Send a frame if the connection is open; return whether it was. `Session.frames` must repeat important frames. */
  send(frame: ClientFrame): boolean;
  /** Send all of `Session.frames` again after this many seconds, unless that is scheduled already. */
  resendAll(seconds: number): void;
  close(): void;
}

/** Return a connection that is not started yet. */
export function keepConnected(options: Options, session: Session): Connection {
  return new ReconnectingConnection(options, session);
}

class ReconnectingConnection implements Connection {
  #options: Options;
  #session: Session;
  #base: URL;
  #choice;
  #core: ConnectionCore;
  #transport: Transport | null = null;
  #eventIds = new Map<string, string>();
  /** Number of the transport, so that a token for an earlier one is ignored. */
  #generation = 0;
  #timer: Timer;
  #tokenTimer: Timer;
  #resendTimer: Timer;
  #closing = new AbortController();

  constructor(options: Options, session: Session) {
    this.#options = options;
    this.#session = session;
    this.#base = new URL(String(options.url).replace(/\/?$/, "/"));
    this.#choice = chooseTransport(options.transport ?? "auto");
    this.#core = new ConnectionCore(this.#choice, options.getToken !== undefined);
    const { signal } = this.#closing;
    globalThis.addEventListener?.("online", () => this.#dispatch({ type: "online" }), { signal });
    globalThis.addEventListener?.("offline", () => this.#dispatch({ type: "offline" }), { signal });
    globalThis.document?.addEventListener(
      "visibilitychange",
      () => document.visibilityState === "visible" && this.#dispatch({ type: "visible" }),
      { signal },
    );
  }

  get state(): ConnectionState {
    return this.#core.state;
  }

  begin(): void {
    this.#dispatch({ type: "begin" });
  }

  reconnect(): void {
    this.#dispatch({ type: "reconnect" });
  }

  send(frame: ClientFrame): boolean {
    return this.#transport?.send(frame) ?? false;
  }

  resendAll(seconds: number): void {
    this.#resendTimer ??= setTimeout(() => {
      this.#resendTimer = undefined;
      this.#sendAll();
    }, 1000 * seconds);
  }

  close(): void {
    this.#closing.abort();
    this.#dispatch({ type: "end" });
  }

  #dispatch(event: ConnectionEvent): void {
    const before = this.state;
    const { transport, timer } = this.#core.handle(event, {
      now: performance.now(),
      wallClock: Date.now(),
      random: Math.random(),
      online: globalThis.navigator?.onLine !== false,
      visible: globalThis.document?.visibilityState !== "hidden",
      connected: this.#transport !== null,
    });
    if (transport) this.#closeTransport();
    if (timer !== undefined) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#dispatch({ type: "timer" }), timer);
    }
    const generation = this.#generation;
    if (this.state !== before) this.#session.stateChanged();
    // A listener may have closed or reconnected the client.
    if (transport === "open" && generation === this.#generation) void this.#openTransport(generation);
  }

  #closeTransport(): void {
    for (const timer of [this.#timer, this.#tokenTimer, this.#resendTimer]) clearTimeout(timer);
    this.#resendTimer = undefined;
    this.#generation += 1;
    this.#transport?.close();
    this.#transport = null;
  }

  async #openTransport(generation: number): Promise<void> {
    const { token: fixed = null, getToken, program } = this.#options;
    let token: string | null;
    let open: OpenTransport = openWebSocket;
    try {
      token = getToken === undefined ? fixed : await getToken();
      if (this.#choice.transport === "events") open = (await import("./event_stream_transport.js")).openEventStreams;
    } catch {
      if (generation === this.#generation) this.#dispatch({ type: "closed", code: ABNORMAL_CLOSURE, reason: "" });
      return;
    }
    if (generation !== this.#generation) return;
    // A WebSocket advances the cursors, which makes the event ids of earlier streams obsolete.
    if (open === openWebSocket) this.#eventIds.clear();
    const events = {
      opened: () => {
        // JSON omits undefined fields.
        transport.send({ type: "hello", client: program, token: token ?? undefined });
        // Not waiting for `ready` saves a round trip. After a rejected hello the gateway closes the connection.
        this.#sendAll();
      },
      received: (data: string) => {
        const frame = decode(data);
        if (frame !== null) this.#session.received(frame);
        if (generation === this.#generation) this.#dispatch({ type: "received", frame });
      },
      closed: (code: number, reason: string) => this.#dispatch({ type: "closed", code, reason }),
    };
    const transport = open(this.#base, events, this.#options, token, this.#eventIds);
    this.#transport = transport;
    this.#scheduleTokenRefresh(token, generation);
  }

  #sendAll(): void {
    for (const frame of this.#session.frames()) this.send(frame);
  }

  /** Replace the token before it expires, without a reconnect. */
  #scheduleTokenRefresh(token: string | null, generation: number): void {
    const { getToken } = this.#options;
    const expiry = tokenExpiry(token);
    if (getToken === undefined || expiry === undefined) return;
    const wait = Math.min(MAX_TIMER_MS, Math.max(1000, expiry - Date.now() - 1000 * TOKEN_MARGIN_S));
    this.#tokenTimer = setTimeout(async () => {
      try {
        const fresh = await getToken();
        if (fresh === null || generation !== this.#generation) return;
        this.send({ type: "token", token: fresh });
        this.#scheduleTokenRefresh(fresh, generation);
      } catch {
        // When this token expires, the gateway closes the connection, and the reconnect requests another.
      }
    }, wait);
  }
}

/** Parse a frame; return null if it is none. Frames of unknown types are returned too. */
function decode(data: string): ServerFrame | null {
  try {
    const frame = JSON.parse(data) as ServerFrame | null;
    return frame?.type ? frame : null;
  } catch {
    return null;
  }
}
