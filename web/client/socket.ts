// A line to the gateway that is a WebSocket.

import type { Options } from "./client.js";
import type { ClientFrame } from "./wire.js";

/** One way to the gateway, until it closes. */
export interface Line {
  /** Say something now, or not at all: what matters is said again on the next line. Returns whether. */
  say(frame: ClientFrame): boolean;
  /** Let go of the line; its hearer hears nothing more. */
  close(): void;
}

/** Who is told what comes on a line. */
export interface Hearer {
  /** The line is open: what is to be said can be. */
  opened(): void;
  /** Something came: a frame, or what is none and only shows that the line lives. */
  heard(data: string): void;
  /** The line is closed, with a close code of the protocol. */
  closed(code: number, reason: string): void;
}

/**
 * Open a line.
 *
 * @param base the gateway's address, which ends in a slash
 * @param places the last event id of each conversation, kept from one line of that sort to the next
 */
export type OpenLine = (base: URL, hearer: Hearer, options: Options, token: string | null, places: Map<string, string>) => Line;

export const openSocket: OpenLine = (base, hearer, options) => {
  const address = new URL("v1/ws", base);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new (options.WebSocket ?? WebSocket)(address.href);
  socket.onopen = () => hearer.opened();
  socket.onmessage = ({ data }) => hearer.heard(data as string);
  socket.onclose = ({ code, reason }) => hearer.closed(code, reason);
  // Every error is followed by a close, which says more.
  socket.onerror = () => {};
  return {
    say(frame) {
      const open = socket.readyState === 1;
      if (open) socket.send(JSON.stringify(frame));
      return open;
    },
    close() {
      socket.onopen = socket.onmessage = socket.onclose = null;
      // To close it in order takes long on a dead line; nobody waits for that.
      socket.close();
    },
  };
};
