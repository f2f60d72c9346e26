// The `ws` peer: one process, a plain loop over the sockets of a channel. Tokens arrive by Redis PUBLISH.
//
//   node ws_server.mjs PORT REDIS
//
// A viewer of stream NAME connects to /NAME. The only state is sockets and Redis subscriptions.
import { createClient } from "redis";
import { WebSocketServer } from "ws";

const [port, redisUrl] = process.argv.slice(2);
const subscriber = createClient({ url: redisUrl });
subscriber.on("error", (error) => {
  console.error(`redis: ${error.message}`);
  process.exit(1);
});
await subscriber.connect();

/** The sockets of each stream. */
const viewers = new Map();

function broadcast(sockets, text) {
  // The buffer from Redis, sent as text; the broadcast loop of the README of `ws`.
  for (const socket of sockets) socket.send(text, { binary: false });
}

async function join(name, socket) {
  const sockets = viewers.get(name);
  if (sockets) {
    sockets.add(socket);
    return;
  }
  const first = new Set([socket]);
  viewers.set(name, first);
  await subscriber.subscribe(name, (text) => broadcast(first, text), true);
}

async function leave(name, socket) {
  const sockets = viewers.get(name);
  sockets.delete(socket);
  if (sockets.size > 0) return;
  viewers.delete(name);
  await subscriber.unsubscribe(name);
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  backlog: 4096,
  perMessageDeflate: false,
  clientTracking: false, // replaced by `viewers`
});
server.on("connection", (socket, request) => {
  const name = request.url.slice(1);
  join(name, socket);
  socket.on("close", () => leave(name, socket));
  socket.on("error", () => {}); // "close" follows
});
