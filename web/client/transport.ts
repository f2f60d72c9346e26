// The interface of a transport: one connection to the gateway, from opening to closing.

import type { Options } from "./types.js";
import type { ClientFrame } from "./wire.js";

/** Close code of a connection that ended without a close frame (RFC 6455, 7.4.1). */
export const ABNORMAL_CLOSURE = 1006;

export type TransportName = "websocket" | "events";

export interface Transport {
  /** Send a frame if the connection is open; return whether it was. */
  send(frame: ClientFrame): boolean;
  /** Close the connection. No event follows. */
  close(): void;
}

/** Receives the events of one transport. */
export interface TransportEvents {
  /** `send` works from now on. */
  opened(): void;
  /** A frame arrived, or other data that only shows that the connection is alive. */
  received(data: string): void;
  /** The connection closed, with a close code of the protocol. */
  closed(code: number, reason: string): void;
}

/**
 * Open a transport.
 *
 * @param base address of the gateway, ending in a slash
 * @param eventIds the last event id of each conversation, kept between transports of the same kind
 */
export type OpenTransport = (
  base: URL,
  events: TransportEvents,
  options: Options,
  token: string | null,
  eventIds: Map<string, string>,
) => Transport;
