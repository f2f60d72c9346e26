// A transport without WebSocket: one server-sent event stream for each conversation, and a POST for each request.
// Loaded only when it is needed.

import { EventStreamParser } from "./event_stream_parser.js";
import type { KeyedRequest } from "./outbox.js";
import { ABNORMAL_CLOSURE, type OpenTransport } from "./transport.js";
import { type ClientFrame, Close, type Older, type Problem, type ServerFrame, type Stop, type Watch } from "./wire.js";

/** Maximum seconds between two events of a stream. */
const HEARTBEAT_S = 15;

/** Seconds until a request is repeated, if a 503 response has no `Retry-After`. */
const RETRY_S = 2;

export const openEventStreams: OpenTransport = (base, events, options, token, eventIds) => {
  const request = options.fetch ?? fetch;
  const streams = new Map<string, AbortController>();
  const closing = new AbortController();
  /** Conversations whose stream has not delivered anything yet. */
  const pending = new Set<string>();
  let ready = false;

  /** Send a request; return null if the connection closed instead of a response. */
  async function ask(path: string, init: RequestInit): Promise<Response | null> {
    const headers = {
      ...(init.headers as Record<string, string>),
      ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
    };
    try {
      const reply = await request(new URL(path, base), { signal: closing.signal, cache: "no-store", ...init, headers });
      if (reply.status === 401) close(Close.NOT_AUTHENTICATED, "not authenticated");
      // The gateway's errors are JSON. Any other error is a proxy's, without a gateway behind it.
      else if (!reply.ok && !reply.headers.get("content-type")?.includes("json")) close(ABNORMAL_CLOSURE, "");
      if (closing.signal.aborted) return null;
      // There is no session over HTTP, and no limits are announced.
      if (!ready) receive({ type: "ready", heartbeat: HEARTBEAT_S } as ServerFrame);
      ready = true;
      return reply;
    } catch {
      if (!init.signal?.aborted) close(ABNORMAL_CLOSURE, "");
      return null;
    }
  }

  function close(code: number, reason: string): void {
    if (closing.signal.aborted) return;
    closing.abort();
    for (const stream of streams.values()) stream.abort();
    events.closed(code, reason);
  }

  function receive(frame: ServerFrame): void {
    if (!closing.signal.aborted) events.received(JSON.stringify(frame));
  }

  async function receiveError(reply: Response, subject: { key?: string; conversation?: string }): Promise<void> {
    const body = (await reply.json().catch(() => null)) as { error?: Problem } | null;
    if (body === null) return close(ABNORMAL_CLOSURE, "");
    const retryAfter = Number(reply.headers.get("retry-after")) || (reply.status === 503 ? RETRY_S : 0);
    const error = body.error ?? { code: "unavailable", message: `The gateway answered with status ${reply.status}.` };
    receive({ type: "error", ...error, ...subject, ...(retryAfter ? { retry_after: retryAfter } : {}) });
  }

  /** Unwatch a conversation. A watch without an event is answered first, as over a WebSocket. */
  function unwatch(conversation: string): void {
    streams.get(conversation)?.abort();
    if (pending.delete(conversation)) receive({ type: "watching", conversation, cursor: "", resumed: false });
  }

  async function watch({ conversation, after }: Watch): Promise<void> {
    unwatch(conversation);
    pending.add(conversation);
    const stream = new AbortController();
    streams.set(conversation, stream);
    // Event ids are opaque. A stream cannot resume from a WebSocket's cursors, so it starts with a snapshot.
    if (after === undefined) eventIds.delete(conversation);
    const eventId = eventIds.get(conversation);
    const headers = eventId === undefined ? {} : { "Last-Event-ID": eventId };
    const path = `v1/conversations/${encodeURIComponent(conversation)}/events`;
    const reply = await ask(path, { headers, signal: stream.signal });
    if (reply === null) return;
    if (!reply.ok) {
      pending.delete(conversation);
      return receiveError(reply, { conversation });
    }
    const parser = new EventStreamParser();
    const decoder = new TextDecoder();
    try {
      const reader = reply.body!.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        for (const event of parser.push(decoder.decode(value, { stream: true }))) {
          if (stream.signal.aborted) return;
          pending.delete(conversation);
          if (event.id !== undefined) eventIds.set(conversation, event.id);
          events.received(event.data);
        }
      }
    } catch {
      // Handled like the end of the stream.
    }
    if (!stream.signal.aborted) close(ABNORMAL_CLOSURE, "");
  }

  async function older({ conversation, before }: Older): Promise<void> {
    const path = `v1/conversations/${encodeURIComponent(conversation)}/messages?before=${encodeURIComponent(before)}`;
    const reply = await ask(path, {});
    if (reply === null) return;
    if (!reply.ok) return receiveError(reply, { conversation });
    const page = (await reply.json().catch(() => null)) as ServerFrame | null;
    if (page === null) close(ABNORMAL_CLOSURE, "");
    else receive(page);
  }

  async function post(path: string, fields: object, key?: string): Promise<Record<string, unknown> | null> {
    const headers = { "Content-Type": "application/json", ...(key === undefined ? {} : { "Idempotency-Key": key }) };
    const reply = await ask(path, { method: "POST", headers, body: JSON.stringify(fields) });
    if (reply?.ok === false) await receiveError(reply, key === undefined ? {} : { key });
    if (!reply?.ok) return null;
    try {
      return (await reply.json()) as Record<string, unknown>;
    } catch {
      // The connection broke in the middle of the response.
      close(ABNORMAL_CLOSURE, "");
      return null;
    }
  }

  async function submit(frame: KeyedRequest): Promise<void> {
    const { type, key, ...fields } = frame;
    const path =
      "conversation" in fields
        ? `conversations/${encodeURIComponent(fields.conversation)}/messages`
        : `responses/${fields.response}/retry`;
    const accepted = await post(`v1/${path}`, fields, key);
    if (accepted !== null) receive({ ...accepted, type: "accepted", key } as ServerFrame);
  }

  async function stop({ response, reason }: Stop): Promise<void> {
    const stopped = await post(`v1/responses/${response}/stop`, { reason });
    if (stopped !== null) receive({ type: "status", response, state: "ended" });
  }

  // One request at a time, in order: a refined question must not overtake the stop of the answer that it replaces.
  let last: Promise<void> = Promise.resolve();

  queueMicrotask(() => closing.signal.aborted || events.opened());

  return {
    send(frame: ClientFrame) {
      switch (frame.type) {
        case "token":
          token = frame.token;
          break;
        case "watch":
          void watch(frame);
          break;
        case "older":
          void older(frame);
          break;
        case "unwatch":
          unwatch(frame.conversation);
          break;
        case "stop":
          last = last.then(() => stop(frame));
          break;
        case "send":
        case "retry":
          last = last.then(() => submit(frame));
          break;
      }
      return true;
    },
    close() {
      closing.abort();
      for (const stream of streams.values()) stream.abort();
    },
  };
};
