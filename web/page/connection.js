// The socket to the gateway: connects, notices that the line is dead, comes back, and says again what was not answered.
// A shell: what a conversation looks like is the transcript's, how long to wait is the backoff's.

import { delay, reconnects } from "./backoff.js";

/** Seconds within which a new socket must be opened and greeted. */
const PATIENCE = 10;

/** The heartbeat to count on before `ready` has named it, in seconds. */
const HEARTBEAT = 20;

/** Heartbeats without a frame after which the line is dead. */
const SILENT_HEARTBEATS = 2.5;

/** The same for a page that was just looked at again: a laptop that woke up has somebody waiting. */
const SILENT_HEARTBEATS_IN_SIGHT = 1.25;

/**
 * How the line is. `at` is a time of `performance.now()`.
 *
 * @typedef {{name: "connecting" | "live"}
 *   | {name: "waiting" | "offline", attempt: number, at: number}
 *   | {name: "closed", code: number, reason: string}} Line
 */

/** One line to the gateway, on as many sockets after each other as it takes. */
export class Connection {
  #address;
  #listener;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {import("./transcript.js").Transcript | null} */
  #transcript = null;
  /** @type {Line} */
  #line = { name: "connecting" };
  /** What was asked and neither accepted nor refused yet, by its key. @type {Map<string, import("./transcript.js").Frame>} */
  #unanswered = new Map();
  /** Responses to stop whose end has not come. @type {Set<string>} */
  #stopping = new Set();
  #token = "";
  #greeted = false;
  #watching = false;
  #heartbeat = HEARTBEAT;
  #heard = 0;
  #attempt = 0;
  /** The time of the next attempt to connect, and its timer; 0 for none. */
  #due = 0;
  #timer = 0;

  /**
   * @param {string} address of the gateway's WebSocket
   * @param {{frame: (frame: any) => void, line: (line: Line) => void}} listener is told of every frame, and of the line
   */
  constructor(address, listener) {
    this.#address = address;
    this.#listener = listener;
    setInterval(() => this.#listen(SILENT_HEARTBEATS), 1000);
    addEventListener("online", () => {
      // What was open ran over another network.
      this.#attempt = 0;
      if (this.#line.name !== "closed") this.#connect();
    });
    addEventListener("offline", () => {
      if (this.#line.name !== "closed") this.#lost(1006, "");
    });
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      if (this.#line.name === "waiting" || this.#line.name === "offline") this.#connect();
      else this.#listen(SILENT_HEARTBEATS_IN_SIGHT);
    });
  }

  /** Connect, as whoever the token says; also after the line was closed. @param {string} token "" for none */
  open(token) {
    this.#token = token;
    this.#attempt = 0;
    this.#connect();
  }

  /** Follow this conversation, and no other, from what the transcript has. @param {import("./transcript.js").Transcript} transcript */
  follow(transcript) {
    if (this.#transcript !== null && this.#transcript.conversation !== transcript.conversation) {
      this.#say({ type: "unwatch", conversation: this.#transcript.conversation });
      this.#stopping.clear();
    }
    this.#transcript = transcript;
    this.#watch();
  }

  /** Send a frame that has a key, again and again until it is answered. @param {import("./transcript.js").Frame & {key: string}} frame */
  ask(frame) {
    this.#unanswered.set(frame.key, frame);
    this.#say(frame);
  }

  /** Stop a response, however often the line breaks before it has its end. @param {string} response */
  stop(response) {
    this.#stopping.add(response);
    this.#say({ type: "stop", response });
  }

  #connect() {
    this.#drop();
    this.#tell({ name: "connecting" });
    this.#heard = performance.now();
    const socket = new WebSocket(this.#address);
    this.#socket = socket;
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "hello", client: "page", ...(this.#token && { token: this.#token }) }));
      // Not waiting for `ready` saves a round trip; a refused hello closes the socket anyway.
      this.#sayAll();
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#lost(event.code, event.reason);
  }

  /** Let go of the socket, if there is one: to close it in order takes long on a dead line. */
  #drop() {
    clearTimeout(this.#timer);
    this.#timer = this.#due = 0;
    if (this.#socket !== null) {
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#socket = null;
    this.#greeted = this.#watching = false;
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #lost(code, reason) {
    const moving = this.#due;
    this.#drop();
    if (!reconnects(code)) {
      this.#tell({ name: "closed", code, reason });
      return;
    }
    const at = moving || performance.now() + 1000 * delay(this.#attempt, Math.random());
    this.#attempt += 1;
    this.#connectAt(at);
    this.#tell({ name: navigator.onLine ? "waiting" : "offline", attempt: this.#attempt, at });
  }

  /** @param {number} at */
  #connectAt(at) {
    clearTimeout(this.#timer);
    this.#due = at;
    this.#timer = setTimeout(() => this.#connect(), Math.max(0, at - performance.now()));
  }

  /** Reconnect if nothing has come for too long. @param {number} heartbeats */
  #listen(heartbeats) {
    if (this.#socket === null) return;
    const patience = this.#greeted ? heartbeats * this.#heartbeat : PATIENCE;
    if (performance.now() - this.#heard > 1000 * patience) this.#lost(1006, "");
  }

  /** @param {string} data */
  #receive(data) {
    this.#heard = performance.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    switch (frame.type) {
      case "ready":
        this.#greeted = true;
        this.#heartbeat = frame.heartbeat ?? HEARTBEAT;
        this.#tell({ name: "live" });
        break;
      case "watching":
        this.#watching ||= frame.conversation === this.#transcript?.conversation;
        // Only now has the gateway shown that it works.
        this.#attempt = 0;
        break;
      case "accepted":
        this.#unanswered.delete(frame.key);
        break;
      case "error":
        if (frame.key !== undefined) this.#unanswered.delete(frame.key);
        // The frame does not say what was refused, so everything without an answer is said again.
        else if (frame.retry_after !== undefined) this.#sayAllLater(frame.retry_after);
        break;
      case "end":
        this.#stopping.delete(frame.response);
        break;
      case "message":
        // It may be the first that is heard of the end.
        this.#stopping.delete(frame.message.response);
        break;
      case "moving":
        // The socket may go before that; the gateways that stay are to be spared all the same.
        this.#connectAt(performance.now() + 1000 * frame.within * Math.random());
        break;
    }
    this.#listener.frame(frame);
    // Once: `watching` comes before the snapshot that repairs.
    if ((frame.type === "end" || frame.type === "reset") && this.#transcript?.damaged && this.#watching) this.#watch();
  }

  /** Say everything that this socket has not been told, or has not answered. */
  #sayAll() {
    if (!this.#watching) this.#watch();
    for (const frame of this.#unanswered.values()) this.#say(frame);
    for (const response of this.#stopping) this.#say({ type: "stop", response });
  }

  /** @param {number} seconds */
  #sayAllLater(seconds) {
    const socket = this.#socket;
    setTimeout(() => {
      if (socket !== null && socket === this.#socket) this.#sayAll();
    }, 1000 * seconds);
  }

  #watch() {
    this.#watching = false;
    if (this.#transcript !== null) this.#say(this.#transcript.watch());
  }

  /** Say something now, or not at all: what matters is said again on the next socket. @param {object} frame */
  #say(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  /** @param {Line} line */
  #tell(line) {
    this.#line = line;
    this.#listener.line(line);
  }
}
