// The Socket.IO peer, set up with the Redis streams adapter as documented.
//
//   node socketio_server.mjs PORT REDIS
//
// A viewer joins stream NAME with the event "follow" and argument NAME, which is acknowledged.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [port, redisUrl] = process.argv.slice(2);
const redis = createClient({ url: redisUrl });
redis.on("error", (error) => {
  console.error(`redis: ${error.message}`);
  process.exit(1);
});
await redis.connect();

const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(redis, { onlyPlaintext: true }),
  transports: ["websocket"],
  perMessageDeflate: false,
  serveClient: false,
});
io.engine.on("connection", (socket) => {
  socket.request = null; // saves memory, as documented: the upgrade request is no longer needed
});
io.on("connection", (socket) => {
  socket.on("follow", (name, acknowledge) => {
    socket.join(name);
    acknowledge();
  });
});
http.listen({ host: "127.0.0.1", port: Number(port), backlog: 4096 });
