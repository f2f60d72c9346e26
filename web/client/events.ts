// A line to the gateway without a WebSocket: server-sent events, one stream a conversation, and a POST a request.
// Loaded only by those who need it.

import { EventStreamParser } from "./event_stream.js";
import type { OpenLine } from "./socket.js";
import { Close, type ClientFrame, type Fault, type Keyed, type ServerFrame, type Stop, type Watch } from "./wire.js";

/** Seconds within which something comes on a stream. */
const HEARTBEAT = 15;

/** Seconds until something is said again, where the answer does not tell. */
const PATIENCE = 2;

export const openEvents: OpenLine = (base, hearer, options, token, places) => {
  const load = options.fetch ?? fetch;
  const streams = new Map<string, AbortController>();
  const over = new AbortController();
  /** Conversations of whose stream nothing has come. */
  const silent = new Set<string>();
  let greeted = false;

  /** Ask the gateway; null if the line has closed instead of answering. */
  async function ask(path: string, init: RequestInit): Promise<Response | null> {
    const headers = { ...(init.headers as Record<string, string>), ...(token === null ? {} : { Authorization: `Bearer ${token}` }) };
    try {
      const reply = await load(new URL(path, base), { signal: over.signal, cache: "no-store", ...init, headers });
      if (reply.status === 401) close(Close.NOT_AUTHENTICATED, "not authenticated");
      // An error of the gateway is JSON; what else fails is a proxy that has none behind it.
      else if (!reply.ok && !reply.headers.get("content-type")?.includes("json")) close(Close.LOST, "");
      if (over.signal.aborted) return null;
      if (!greeted) hear({ type: "ready", heartbeat: HEARTBEAT });
      greeted = true;
      return reply;
    } catch {
      if (!init.signal?.aborted) close(Close.LOST, "");
      return null;
    }
  }

  function close(code: number, reason: string): void {
    if (over.signal.aborted) return;
    over.abort();
    for (const stream of streams.values()) stream.abort();
    hearer.closed(code, reason);
  }

  function hear(frame: ServerFrame): void {
    if (!over.signal.aborted) hearer.heard(JSON.stringify(frame));
  }

  async function refused(reply: Response, about: { key?: string; conversation?: string }): Promise<void> {
    const body = (await reply.json().catch(() => null)) as { error?: Fault } | null;
    if (body === null) return close(Close.LOST, "");
    const again = Number(reply.headers.get("retry-after")) || (reply.status === 503 ? PATIENCE : 0);
    const fault = body.error ?? { code: "unavailable", message: `The gateway answered ${reply.status}.` };
    hear({ type: "error", ...fault, ...about, ...(again ? { retry_after: again } : {}) });
  }

  /** Follow a conversation no longer. A watch that nothing has come of is answered all the same, as on a socket. */
  function unwatch(conversation: string): void {
    streams.get(conversation)?.abort();
    if (silent.delete(conversation)) hear({ type: "watching", conversation, cursor: "", resumed: false });
  }

  async function watch({ conversation, after }: Watch): Promise<void> {
    unwatch(conversation);
    silent.add(conversation);
    const stream = new AbortController();
    streams.set(conversation, stream);
    // Places are opaque: one that this line's sort has not given is begun anew.
    if (after === undefined) places.delete(conversation);
    const place = places.get(conversation);
    const headers = place === undefined ? {} : { "Last-Event-ID": place };
    const reply = await ask(`v1/conversations/${encodeURIComponent(conversation)}/events`, { headers, signal: stream.signal });
    if (reply === null) return;
    if (!reply.ok) {
      silent.delete(conversation);
      return refused(reply, { conversation });
    }
    const parser = new EventStreamParser();
    const decoder = new TextDecoder();
    try {
      const reader = reply.body!.getReader();
      for (let piece; !(piece = await reader.read()).done; ) {
        for (const event of parser.push(decoder.decode(piece.value, { stream: true }))) {
          if (stream.signal.aborted) return;
          silent.delete(conversation);
          if (event.id !== undefined) places.set(conversation, event.id);
          hearer.heard(event.data);
        }
      }
    } catch {
      // As if it had ended.
    }
    if (!stream.signal.aborted) close(Close.LOST, "");
  }

  async function post(path: string, fields: object, key?: string): Promise<Record<string, unknown> | null> {
    const headers = { "Content-Type": "application/json", ...(key === undefined ? {} : { "Idempotency-Key": key }) };
    const reply = await ask(path, { method: "POST", headers, body: JSON.stringify(fields) });
    if (reply?.ok === false) await refused(reply, key === undefined ? {} : { key });
    if (!reply?.ok) return null;
    try {
      return (await reply.json()) as Record<string, unknown>;
    } catch {
      // Cut in the middle of the answer.
      close(Close.LOST, "");
      return null;
    }
  }

  async function request(frame: Keyed): Promise<void> {
    const { type, key, ...fields } = frame;
    const path = "conversation" in fields ? `conversations/${encodeURIComponent(fields.conversation)}/messages` : `responses/${fields.response}/retry`;
    const accepted = await post(`v1/${path}`, fields, key);
    if (accepted !== null) hear({ ...accepted, type: "accepted", key } as ServerFrame);
  }

  async function stop({ response, reason }: Stop): Promise<void> {
    const stopped = await post(`v1/responses/${response}/stop`, { reason });
    if (stopped !== null) hear({ type: "status", response, state: "ended" });
  }

  // What is asked is asked in turn, as on a socket; a message must not overtake the stop that it replaces.
  let last: Promise<void> = Promise.resolve();

  queueMicrotask(() => over.signal.aborted || hearer.opened());

  return {
    say(frame: ClientFrame) {
      switch (frame.type) {
        case "token":
          token = frame.token;
          break;
        case "watch":
          void watch(frame);
          break;
        case "unwatch":
          unwatch(frame.conversation);
          break;
        case "stop":
          last = last.then(() => stop(frame));
          break;
        case "send":
        case "retry":
          last = last.then(() => request(frame));
          break;
      }
      return true;
    },
    close() {
      over.abort();
      for (const stream of streams.values()) stream.abort();
    },
  };
};
