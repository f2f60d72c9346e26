// Tests of connection.ts and conversation.ts on fake sockets.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { connect } from "#src/client/client.js";

/** Source of window events. */
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.document = /** @type {any} */ (Object.assign(new EventTarget(), { visibilityState: "visible" }));

let sockets;
const clients = [];

/** A WebSocket that the test controls in place of a gateway. */
class FakeSocket {
  readyState = 0;
  /** @type {any} */
  onopen;
  /** @type {any} */
  onmessage;
  /** @type {any} */
  onclose;
  sent = [];

  constructor(address) {
    this.address = address;
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  /** Open the socket and receive `ready`. */
  accept(heartbeat = 20, more = {}) {
    this.readyState = 1;
    this.onopen();
    this.receive({
      type: "ready",
      session: "s",
      heartbeat,
      limits: { text: 100, frame: 1000 },
      models: ["default"],
      ...more,
    });
  }

  receive(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  closed(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  types() {
    return this.sent.map(({ type }) => type);
  }
}

/** Wait until a condition holds. */
async function until(condition, within = 3000) {
  const deadline = performance.now() + within;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `condition not met within ${within} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const watching = (conversation = "c", more = {}) => ({
  type: "watching",
  conversation,
  cursor: "0-0",
  resumed: false,
  ...more,
});
const snapshot = (conversation = "c", more = {}) => ({
  type: "snapshot",
  conversation,
  cursor: "0-0",
  messages: [],
  responses: [],
  ...more,
});

/** @returns {any} */
function client(options = {}) {
  const created = connect({
    url: "https://chat.example.com/base",
    shared: false,
    transport: "websocket",
    WebSocket: /** @type {any} */ (FakeSocket),
    ...options,
  });
  clients.push(created);
  return created;
}

beforeEach(() => {
  sockets = [];
});
afterEach(() => clients.splice(0).forEach((each) => each.close()));

describe("a connection", () => {
  test("does not open before a subscribe or send", () => {
    client().conversation("c");
    assert.equal(sockets.length, 0);
  });

  test("sends hello and watch without waiting for ready", () => {
    const one = client({ token: "t", program: "test" });
    one.conversation("c").subscribe(() => {});
    const [socket] = sockets;
    assert.equal(socket.address, "wss://chat.example.com/base/v1/ws");
    assert.deepEqual(one.state, { name: "connecting" });
    socket.accept();
    assert.deepEqual(socket.sent, [
      { type: "hello", client: "test", token: "t" },
      { type: "watch", conversation: "c" },
    ]);
    assert.deepEqual(one.state, { name: "live", transport: "websocket" });
    assert.deepEqual(one.models, ["default"]);
    assert.equal(one.limits.text, 100);
  });

  test("reconnects after 2.5 silent heartbeats", async () => {
    client()
      .conversation("c")
      .subscribe(() => {});
    sockets[0].accept(0.04);
    const begin = performance.now();
    await until(() => sockets.length === 2);
    assert.ok(performance.now() - begin > 95);
    assert.equal(sockets[0].readyState, 3);
  });

  test("stays open while heartbeats arrive", async () => {
    client()
      .conversation("c")
      .subscribe(() => {});
    sockets[0].accept(0.1);
    for (let count = 0; count < 10; count += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      sockets[0].receive({ type: "heartbeat" });
    }
    assert.equal(sockets.length, 1);
  });

  test("reconnects after code 1xxx, and after 4xxx only on request", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].accept();
    sockets[0].closed(1012);
    assert.equal(one.state.name, "reconnecting");
    assert.equal(one.state.attempt, 1);
    await until(() => sockets.length === 2);
    sockets[1].accept();
    sockets[1].closed(4403, "this page may not connect");
    assert.deepEqual(one.state, { name: "closed", code: 4403, reason: "this page may not connect" });
    page.dispatchEvent(new Event("online"));
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(sockets.length, 2);
    one.reconnect();
    assert.equal(sockets.length, 3);
  });

  test("reconnects immediately when online or visible", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].accept();
    page.dispatchEvent(new Event("offline"));
    assert.equal(one.state.name, "reconnecting");
    page.dispatchEvent(new Event("online"));
    assert.equal(sockets.length, 2);
    sockets[1].closed(1006);
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(sockets.length, 3);
    // A connection with recent data stays open.
    sockets[2].accept();
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(sockets.length, 3);
  });

  test("reconnects within the time of a moving frame", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].accept();
    sockets[0].receive({ type: "moving", within: 0.2 });
    assert.equal(one.state.name, "live");
    await until(() => sockets.length === 2);
    sockets[1].accept();
    sockets[1].receive({ type: "moving", within: 0.1 });
    sockets[1].closed(1012);
    assert.ok(one.state.at - Date.now() < 101);
    await until(() => sockets.length === 3);
  });

  test("waits for retry_after of an overloaded gateway", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].readyState = 1;
    sockets[0].onopen();
    sockets[0].receive({ type: "error", code: "overloaded", message: "Too many connections.", retry_after: 0.4 });
    const begin = performance.now();
    sockets[0].closed(1013, "too many connections");
    assert.equal(one.state.name, "reconnecting");
    await until(() => sockets.length === 2);
    assert.ok(performance.now() - begin > 380);
    sockets[1].accept();
    assert.equal(one.state.name, "live");
  });

  test("sends a fresh token before the old one expires", async () => {
    const token = (exp) => `e30.${btoa(JSON.stringify({ exp }))}.x`;
    const tokens = [token(Date.now() / 1000 + 30.5), token(Date.now() / 1000 + 3600)];
    client({ getToken: () => tokens.shift() })
      .conversation("c")
      .subscribe(() => {});
    await until(() => sockets.length === 1);
    sockets[0].accept();
    await until(() => sockets[0].types().includes("token"));
    assert.equal(tokens.length, 0);
    assert.equal(sockets.length, 1);
  });

  test("stays closed after close()", async () => {
    const one = client();
    const chat = one.conversation("c");
    chat.subscribe(() => {});
    const sent = chat.send("Hello");
    one.close();
    await assert.rejects(sent, { code: "closed" });
    sockets[0].closed(1006);
    one.reconnect();
    assert.equal(sockets.length, 1);
    assert.equal(one.state.name, "closed");
  });

  test("ignores data that is not a frame", () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].accept();
    for (const data of ["", "{", "null", "3", '"x"', "[]", "{}", '{"type":"mood"}']) sockets[0].onmessage({ data });
    assert.equal(one.state.name, "live");
  });
});

describe("a conversation", () => {
  test("is watched once by several subscribers", async () => {
    const chat = client().conversation("c");
    // React does this in strict mode.
    chat.subscribe(() => {})();
    const end = chat.subscribe(() => {});
    sockets[0].accept();
    await Promise.resolve();
    const other = chat.subscribe(() => {});
    assert.deepEqual(sockets[0].types(), ["hello", "watch"]);
    end();
    end();
    await Promise.resolve();
    assert.deepEqual(sockets[0].types(), ["hello", "watch"]);
    other();
    await Promise.resolve();
    assert.deepEqual(sockets[0].types(), ["hello", "watch", "unwatch"]);
  });

  test("ignores frames between a new watch and its answer", () => {
    const chat = client().conversation("c");
    chat.subscribe(() => {});
    const [socket] = sockets;
    socket.accept();
    const open = { response: "r", cursor: "1-3", state: "running", model: "default", attempt: 1, text: "ab" };
    socket.receive(watching(), snapshot("c", { responses: [open] }));
    // Two characters were lost.
    socket.receive({ type: "end", conversation: "c", response: "r", cursor: "1-9", reason: "complete", chars: 4 });
    assert.deepEqual(socket.sent.at(-1), { type: "watch", conversation: "c" });
    const sentBefore = socket.sent.length;
    const settled = { id: "m", role: "assistant", response: "r", text: "abcd", reason: "complete" };
    socket.receive({ type: "message", conversation: "c", cursor: "2-1", message: settled });
    assert.equal(chat.state.name, "behind");
    assert.equal(chat.messages[0].settled, undefined);
    socket.receive(watching("c", { cursor: "2-1" }), snapshot("c", { cursor: "2-1", messages: [settled] }));
    assert.equal(chat.messages[0].text, "abcd");
    assert.equal(socket.sent.length, sentBefore, "one watch");
  });

  test("applies only the answer to the last of several watches", async () => {
    const chat = client().conversation("c");
    sockets[0]?.accept();
    chat.subscribe(() => {})();
    const [socket] = sockets;
    socket.accept();
    await Promise.resolve();
    for (let round = 0; round < 3; round += 1) {
      const end = chat.subscribe(() => {});
      if (round < 2) end();
      await Promise.resolve();
    }
    const watches = socket.types().filter((type) => type === "watch").length;
    assert.equal(watches, 3);
    const message = {
      type: "message",
      conversation: "c",
      cursor: "1-1",
      message: { id: "m", role: "user", text: "x" },
    };
    const open = { response: "r", cursor: "1-3", state: "running", model: "default", attempt: 1, text: "a" };
    const delta = { type: "delta", response: "r", cursor: "1-4", text: "b" };
    for (let answer = 1; answer <= watches; answer += 1) {
      assert.equal(chat.state.name, "behind");
      socket.receive(watching(), snapshot("c", { responses: [open] }), message, delta);
    }
    assert.equal(chat.state.name, "live");
    assert.deepEqual(
      chat.messages.map(({ text }) => text),
      ["ab", "x"],
    );
    // The gateway may restart with an unrequested snapshot.
    socket.receive(watching("c", { reason: "lost" }), snapshot());
    assert.deepEqual(chat.messages, []);
    assert.equal(chat.state.name, "live");
  });

  test("a refused stop does not set fault", () => {
    const chat = client().conversation("c");
    chat.subscribe(() => {});
    sockets[0].accept();
    sockets[0].receive(watching(), snapshot());
    chat.stop("r1");
    sockets[0].receive({ type: "error", code: "not_found", message: "There is no such response." });
    assert.equal(chat.fault, null);
    sockets[0].receive({ type: "error", code: "forbidden", message: "Access denied." });
    assert.equal(chat.fault.code, "forbidden");
  });

  test("repeats a temporarily refused send with the same key", async () => {
    const chat = client().conversation("c");
    chat.send("Hello");
    const [socket] = sockets;
    socket.accept();
    socket.receive(watching(), snapshot());
    const { key } = socket.sent.find(({ type }) => type === "send");
    socket.receive({ type: "error", code: "unavailable", message: "Store unavailable.", key, retry_after: 0.02 });
    assert.equal(chat.messages[0].state, "sending");
    await until(() => socket.types().filter((type) => type === "send").length === 2);
    assert.equal(socket.sent.at(-1).key, key);
    assert.deepEqual(
      socket.types().filter((type) => type === "watch"),
      ["watch"],
      "the watch is not repeated",
    );
  });

  test("shows a send beyond a quota as refused, though the quota has an end", () => {
    const chat = client().conversation("c");
    chat.send("Hello");
    const [socket] = sockets;
    socket.accept();
    socket.receive(watching(), snapshot());
    const { key } = socket.sent.find(({ type }) => type === "send");
    socket.receive({ type: "error", code: "quota", message: "Used up.", key, retry_after: 3600 });
    assert.equal(chat.messages[0].state, "refused");
  });

  test("a refused watch sets fault only of its conversation", () => {
    const one = client();
    const [open, refused] = ["a", "b"].map((id) => one.conversation(id));
    for (const chat of [open, refused]) chat.subscribe(() => {});
    sockets[0].accept();
    sockets[0].receive(watching("a"), snapshot("a"), { type: "error", code: "forbidden", message: "Access denied." });
    assert.deepEqual([open.fault, refused.fault], [null, { code: "forbidden", message: "Access denied." }]);
    sockets[0].receive(watching("b"), snapshot("b"));
    assert.equal(refused.fault, null);
  });

  test("a new connection sends all watches and unanswered requests", () => {
    const one = client();
    const [a, b] = ["a", "b"].map((id) => one.conversation(id));
    a.subscribe(() => {});
    sockets[0].accept();
    sockets[0].receive(watching("a"), snapshot("a"));
    b.send("Hello");
    a.stop("r1");
    const { key } = sockets[0].sent.find(({ type }) => type === "send");
    sockets[0].closed(1006);
    one.reconnect();
    sockets[1].accept();
    assert.deepEqual(sockets[1].sent.slice(1), [
      { type: "watch", conversation: "a", after: "0-0", responses: {} },
      { type: "stop", response: "r1", reason: "stopped" },
      { type: "watch", conversation: "b" },
      { type: "send", key, conversation: "b", text: "Hello" },
    ]);
    sockets[1].receive({ type: "status", response: "r1", state: "ended" });
  });

  test("an exception in a listener does not stop the others", (context) => {
    const chat = client().conversation("c");
    const reports = [];
    context.mock.method(globalThis, "queueMicrotask", (report) => reports.push(report));
    let notified = 0;
    chat.subscribe(() => {
      if (chat.known) throw new Error("broken listener");
    });
    chat.subscribe(() => (notified += 1));
    sockets[0].accept();
    const before = notified;
    sockets[0].receive(watching(), snapshot());
    assert.equal(notified - before, 2);
    assert.throws(reports[0], { message: "broken listener" });
  });

  test("messages is the same array until a change", () => {
    const chat = client().conversation("c");
    chat.subscribe(() => {});
    sockets[0].accept();
    sockets[0].receive(watching(), snapshot());
    const { messages, state } = chat;
    assert.equal(chat.messages, messages);
    assert.equal(chat.state, state);
    sockets[0].receive({
      type: "message",
      conversation: "c",
      cursor: "1-1",
      message: { id: "m", role: "user", text: "x" },
    });
    assert.notEqual(chat.messages, messages);
  });

  test("validates its id", () => {
    for (const id of ["", "a b", "x".repeat(129), "ä"]) assert.throws(() => client().conversation(id), RangeError);
    const one = client({ browser: null });
    assert.notEqual(one.newConversation().id, one.newConversation().id);
    assert.match(one.conversation().id, /^c-[0-9-]{7,}$/);
  });
});

describe("older messages", () => {
  const more = { more: true, earlier: "9-1" };
  const page = {
    type: "messages",
    conversation: "c",
    before: "9-1",
    messages: [{ id: "m1", role: "user", text: "x" }],
  };

  test("are requested, and again after a refusal or a reconnect", async () => {
    const conversation = client().conversation("c");
    assert.equal(conversation.older(), false);
    conversation.subscribe(() => {});
    await until(() => sockets.length === 1);
    sockets[0].accept();
    sockets[0].receive(watching(), snapshot("c", more));
    assert.equal(conversation.older(), true);
    assert.deepEqual(sockets[0].sent.at(-1), { type: "older", conversation: "c", before: "9-1" });
    sockets[0].receive({ type: "error", code: "too_fast", message: "x", conversation: "c", retry_after: 0.01 });
    await until(() => sockets[0].types().filter((type) => type === "older").length === 2);
    assert.equal(conversation.state.name, "live");
    sockets[0].closed(1006);
    await until(() => sockets.length === 2);
    sockets[1].accept();
    assert.deepEqual(sockets[1].types(), ["hello", "watch", "older"]);
    sockets[1].receive(watching("c", { resumed: true }), page);
    assert.deepEqual([conversation.messages.map(({ id }) => id), conversation.more], [["m1"], false]);
    sockets[1].closed(1006);
    await until(() => sockets.length === 3);
    sockets[2].accept();
    assert.deepEqual(sockets[2].types(), ["hello", "watch"]);
  });

  test("are not requested again after another refusal", async () => {
    const conversation = client().conversation("c");
    conversation.subscribe(() => {});
    await until(() => sockets.length === 1);
    sockets[0].accept();
    sockets[0].receive(watching(), snapshot("c", more));
    conversation.older();
    sockets[0].receive({ type: "error", code: "forbidden", message: "x", conversation: "c" });
    sockets[0].closed(1006);
    await until(() => sockets.length === 2);
    sockets[1].accept();
    assert.deepEqual(sockets[1].types(), ["hello", "watch"]);
  });
});
