// Tests of connection.ts and conversation.ts, on sockets that a test opens, closes and speaks through.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { connect } from "../../.build/client/client.js";

/** What a window and a document tell a page. */
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });

let sockets;
const clients = [];

/** A WebSocket of which the test is the gateway. */
class Fake {
  readyState = 0;
  said = [];

  constructor(address) {
    this.address = address;
    sockets.push(this);
  }

  send(text) {
    this.said.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  /** The socket opens, and the gateway greets. */
  greet(heartbeat = 20, more = {}) {
    this.readyState = 1;
    this.onopen();
    this.tell({ type: "ready", session: "s", heartbeat, limits: { text: 100, frame: 1000 }, models: ["default"], ...more });
  }

  tell(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  shut(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  types() {
    return this.said.map(({ type }) => type);
  }
}

/** Wait for what a timer does. */
async function until(condition, within = 3000) {
  const deadline = performance.now() + within;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `not within ${within} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const watching = (conversation = "c", more = {}) => ({ type: "watching", conversation, cursor: "0-0", resumed: false, ...more });
const snapshot = (conversation = "c", more = {}) => ({ type: "snapshot", conversation, cursor: "0-0", messages: [], responses: [], ...more });

function client(options = {}) {
  const made = connect({ url: "https://chat.example.com/base", shared: false, transport: "websocket", WebSocket: Fake, ...options });
  clients.push(made);
  return made;
}

beforeEach(() => {
  sockets = [];
});
afterEach(() => clients.splice(0).forEach((each) => each.close()));

describe("a line", () => {
  test("is not made before anything is followed or sent", () => {
    client().conversation("c");
    assert.equal(sockets.length, 0);
  });

  test("is greeted, and told what to follow, without waiting for the answer", () => {
    const one = client({ token: "t", program: "test" });
    one.conversation("c").subscribe(() => {});
    const [socket] = sockets;
    assert.equal(socket.address, "wss://chat.example.com/base/v1/ws");
    assert.deepEqual(one.state, { name: "connecting" });
    socket.greet();
    assert.deepEqual(socket.said, [{ type: "hello", client: "test", token: "t" }, { type: "watch", conversation: "c" }]);
    assert.deepEqual(one.state, { name: "live", transport: "websocket" });
    assert.deepEqual(one.models, ["default"]);
    assert.equal(one.limits.text, 100);
  });

  test("that is silent for two and a half heartbeats is made anew", async () => {
    client().conversation("c").subscribe(() => {});
    sockets[0].greet(0.04);
    const begin = performance.now();
    await until(() => sockets.length === 2);
    assert.ok(performance.now() - begin > 95);
    assert.equal(sockets[0].readyState, 3);
  });

  test("that is not silent is not", async () => {
    client().conversation("c").subscribe(() => {});
    sockets[0].greet(0.1);
    for (let beat = 0; beat < 10; beat += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      sockets[0].tell({ type: "heartbeat" });
    }
    assert.equal(sockets.length, 1);
  });

  test("is made anew after a close code of 1xxx, and not after one of 4xxx until somebody asks", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].greet();
    sockets[0].shut(1012);
    assert.equal(one.state.name, "reconnecting");
    assert.equal(one.state.attempt, 1);
    await until(() => sockets.length === 2);
    sockets[1].greet();
    sockets[1].shut(4403, "this page may not connect");
    assert.deepEqual(one.state, { name: "closed", code: 4403, reason: "this page may not connect" });
    page.dispatchEvent(new Event("online"));
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(sockets.length, 2);
    one.reconnect();
    assert.equal(sockets.length, 3);
  });

  test("is made at once when the browser is online or visible again", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].greet();
    page.dispatchEvent(new Event("offline"));
    assert.equal(one.state.name, "reconnecting");
    page.dispatchEvent(new Event("online"));
    assert.equal(sockets.length, 2);
    sockets[1].shut(1006);
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(sockets.length, 3);
    // One that was heard of a moment ago is left alone.
    sockets[2].greet();
    document.dispatchEvent(new Event("visibilitychange"));
    assert.equal(sockets.length, 3);
  });

  test("that is told to move moves within that time, and keeps its place if it is cut before", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].greet();
    sockets[0].tell({ type: "moving", within: 0.2 });
    assert.equal(one.state.name, "live");
    await until(() => sockets.length === 2, 250);
    sockets[1].greet();
    sockets[1].tell({ type: "moving", within: 0.1 });
    sockets[1].shut(1012);
    assert.ok(one.state.at - Date.now() < 101);
    await until(() => sockets.length === 3, 150);
  });

  test("that has no room says when, and is not tried before", async () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].readyState = 1;
    sockets[0].onopen();
    sockets[0].tell({ type: "error", code: "overloaded", message: "Too many connections.", retry_after: 0.4 });
    const begin = performance.now();
    sockets[0].shut(1013, "too many connections");
    assert.equal(one.state.name, "reconnecting");
    await until(() => sockets.length === 2);
    assert.ok(performance.now() - begin > 380);
    sockets[1].greet();
    assert.equal(one.state.name, "live");
  });

  test("gets a fresh token before the old one expires", async () => {
    const token = (exp) => `e30.${btoa(JSON.stringify({ exp }))}.x`;
    const tokens = [token(Date.now() / 1000 + 30.5), token(Date.now() / 1000 + 3600)];
    client({ getToken: () => tokens.shift() }).conversation("c").subscribe(() => {});
    await until(() => sockets.length === 1);
    sockets[0].greet();
    await until(() => sockets[0].types().includes("token"));
    assert.equal(tokens.length, 0);
    assert.equal(sockets.length, 1);
  });

  test("that is closed says nothing more", async () => {
    const one = client();
    const chat = one.conversation("c");
    chat.subscribe(() => {});
    const sent = chat.send("Hello");
    one.close();
    await assert.rejects(sent, { code: "closed" });
    sockets[0].shut(1006);
    one.reconnect();
    assert.equal(sockets.length, 1);
    assert.equal(one.state.name, "closed");
  });

  test("that brings what is no frame goes on", () => {
    const one = client();
    one.conversation("c").subscribe(() => {});
    sockets[0].greet();
    for (const data of ["", "{", "null", "3", '"x"', "[]", "{}", '{"type":"mood"}']) sockets[0].onmessage({ data });
    assert.equal(one.state.name, "live");
  });
});

describe("a conversation", () => {
  test("is followed once, however often a view is mounted", async () => {
    const chat = client().conversation("c");
    // As React does in its strict mode.
    chat.subscribe(() => {})();
    const end = chat.subscribe(() => {});
    sockets[0].greet();
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

  test("ignores what is still on its way when it asks for everything anew", () => {
    const chat = client().conversation("c");
    chat.subscribe(() => {});
    const [socket] = sockets;
    socket.greet();
    const open = { response: "r", cursor: "1-3", state: "running", model: "default", attempt: 1, text: "ab" };
    socket.tell(watching(), snapshot("c", { responses: [open] }));
    // Two letters were lost on the way.
    socket.tell({ type: "end", conversation: "c", response: "r", cursor: "1-9", reason: "complete", chars: 4 });
    assert.deepEqual(socket.said.at(-1), { type: "watch", conversation: "c" });
    const asked = socket.said.length;
    const settled = { id: "m", role: "assistant", response: "r", text: "abcd", reason: "complete" };
    socket.tell({ type: "message", conversation: "c", cursor: "2-1", message: settled });
    assert.equal(chat.state.name, "behind");
    assert.equal(chat.messages[0].settled, undefined);
    socket.tell(watching("c", { cursor: "2-1" }), snapshot("c", { cursor: "2-1", messages: [settled] }));
    assert.equal(chat.messages[0].text, "abcd");
    assert.equal(socket.said.length, asked, "once");
  });

  test("that was left and followed again before it was answered begins at the last answer", async () => {
    const chat = client().conversation("c");
    sockets[0]?.greet();
    chat.subscribe(() => {})();
    const [socket] = sockets;
    socket.greet();
    await Promise.resolve();
    for (let round = 0; round < 3; round += 1) {
      const end = chat.subscribe(() => {});
      if (round < 2) end();
      await Promise.resolve();
    }
    const watches = socket.types().filter((type) => type === "watch").length;
    assert.equal(watches, 3);
    const said = { type: "message", conversation: "c", cursor: "1-1", message: { id: "m", role: "user", text: "x" } };
    const open = { response: "r", cursor: "1-3", state: "running", model: "default", attempt: 1, text: "a" };
    const delta = { type: "delta", response: "r", cursor: "1-4", text: "b" };
    for (let answer = 1; answer <= watches; answer += 1) {
      assert.equal(chat.state.name, "behind");
      socket.tell(watching(), snapshot("c", { responses: [open] }), said, delta);
    }
    assert.equal(chat.state.name, "live");
    assert.deepEqual(chat.messages.map(({ text }) => text), ["ab", "x"]);
    // The gateway may begin anew by itself.
    socket.tell(watching("c", { reason: "lost" }), snapshot());
    assert.deepEqual(chat.messages, []);
    assert.equal(chat.state.name, "live");
  });

  test("a refused stop is no fault of what is followed", () => {
    const chat = client().conversation("c");
    chat.subscribe(() => {});
    sockets[0].greet();
    sockets[0].tell(watching(), snapshot());
    chat.stop("r1");
    sockets[0].tell({ type: "error", code: "not_found", message: "There is no such response." });
    assert.equal(chat.fault, null);
    sockets[0].tell({ type: "error", code: "forbidden", message: "Not yours any more." });
    assert.equal(chat.fault.code, "forbidden");
  });

  test("says again what a moment's patience heals, and keeps its key", async () => {
    const chat = client().conversation("c");
    chat.send("Hello");
    const [socket] = sockets;
    socket.greet();
    socket.tell(watching(), snapshot());
    const { key } = socket.said.find(({ type }) => type === "send");
    socket.tell({ type: "error", code: "unavailable", message: "Not now.", key, retry_after: 0.02 });
    assert.equal(chat.messages[0].state, "sending");
    await until(() => socket.types().filter((type) => type === "send").length === 2);
    assert.equal(socket.said.at(-1).key, key);
    assert.deepEqual(socket.types().filter((type) => type === "watch"), ["watch"], "what is followed is not asked for again");
  });

  test("one watch that is refused says why, and the others go on", () => {
    const one = client();
    const [open, shut] = ["a", "b"].map((id) => one.conversation(id));
    for (const chat of [open, shut]) chat.subscribe(() => {});
    sockets[0].greet();
    sockets[0].tell(watching("a"), snapshot("a"), { type: "error", code: "forbidden", message: "Not yours." });
    assert.deepEqual([open.fault, shut.fault], [null, { code: "forbidden", message: "Not yours." }]);
    sockets[0].tell(watching("b"), snapshot("b"));
    assert.equal(shut.fault, null);
  });

  test("all are told on a new line, with what is not answered", () => {
    const one = client();
    const [a, b] = ["a", "b"].map((id) => one.conversation(id));
    a.subscribe(() => {});
    sockets[0].greet();
    sockets[0].tell(watching("a"), snapshot("a"));
    b.send("Hello");
    a.stop("r1");
    const { key } = sockets[0].said.find(({ type }) => type === "send");
    sockets[0].shut(1006);
    one.reconnect();
    sockets[1].greet();
    assert.deepEqual(sockets[1].said.slice(1), [
      { type: "watch", conversation: "a", after: "0-0", responses: {} },
      { type: "stop", response: "r1", reason: "stopped" },
      { type: "watch", conversation: "b" },
      { type: "send", key, conversation: "b", text: "Hello" },
    ]);
    sockets[1].tell({ type: "status", response: "r1", state: "ended" });
  });

  test("a listener that throws keeps nobody from hearing, and the line alive", (context) => {
    const chat = client().conversation("c");
    const reports = [];
    context.mock.method(globalThis, "queueMicrotask", (report) => reports.push(report));
    let heard = 0;
    chat.subscribe(() => {
      if (chat.known) throw new Error("a view is broken");
    });
    chat.subscribe(() => (heard += 1));
    sockets[0].greet();
    const before = heard;
    sockets[0].tell(watching(), snapshot());
    assert.equal(heard - before, 2);
    assert.throws(reports[0], { message: "a view is broken" });
  });

  test("its messages are the same array until something is different", () => {
    const chat = client().conversation("c");
    chat.subscribe(() => {});
    sockets[0].greet();
    sockets[0].tell(watching(), snapshot());
    const { messages, state } = chat;
    assert.equal(chat.messages, messages);
    assert.equal(chat.state, state);
    sockets[0].tell({ type: "message", conversation: "c", cursor: "1-1", message: { id: "m", role: "user", text: "x" } });
    assert.notEqual(chat.messages, messages);
  });

  test("has a name that a gateway takes", () => {
    for (const id of ["", "a b", "x".repeat(129), "ä"]) assert.throws(() => client().conversation(id), RangeError);
    const one = client({ browser: null });
    assert.notEqual(one.newConversation().id, one.newConversation().id);
    assert.match(one.conversation().id, /^c-[0-9-]{7,}$/);
  });
});
