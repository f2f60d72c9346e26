import type { OpenTransport } from "./transport.js";

/** Open a transport over a WebSocket. */
export const openWebSocket: OpenTransport = (base, events, options) => {
  const address = new URL("v1/ws", base);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new (options.WebSocket ?? WebSocket)(address.href);
  socket.onopen = () => events.opened();
  socket.onmessage = ({ data }) => events.received(data as string);
  socket.onclose = ({ code, reason }) => events.closed(code, reason);
  // A close event with more detail follows each error; the handler keeps Node from throwing.
  socket.onerror = () => {};
  return {
    send(frame) {
      const open = socket.readyState === 1;
      if (open) socket.send(JSON.stringify(frame));
      return open;
    },
    close() {
      // The closing handshake of a dead connection takes long, so its close event is ignored.
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
};
