// The client without WebSocket, or behind a buffering proxy: server-sent events and POST.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { closeAll, endProcesses, FaultProxy, NGINX, newId, nginx, Process, tab, waitFor } from "./cluster.js";

const done = (chat) =>
  chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;
const started = (chat) => (chat.answering?.text.length ?? 0) > 20;
const texts = (chat) => chat.messages.map(({ role, text }) => ({ role, text }));

let gateway;
let proxy;

before(async () => {
  gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "150");
});
after(endProcesses);
beforeEach(async () => {
  proxy = await FaultProxy.start(gateway.url);
});
afterEach(closeAll);

/** Assert that a conversation shows the gateway's messages. */
async function assertEqualsLog(chat) {
  const { messages } = await gateway.snapshot(chat.id);
  assert.deepEqual(
    texts(chat),
    messages.map(({ role, text }) => ({ role, text })),
  );
}

/** Assert that changes arrived separately. A buffering proxy delivers the same text in fewer than ten batches. */
function assertStreamed(times) {
  const batches = times.slice(1).filter((time, index) => time - times[index] > 5).length;
  assert.ok(batches > 20, `${times.length} changes arrived in ${batches} batches`);
}

describe("over server-sent events", () => {
  test("send, stop and retry work in two tabs", async () => {
    const id = newId();
    const [one, two] = [tab(gateway.url, { transport: "events" }).conversation(id), tab(gateway.url).conversation(id)];
    await waitFor(two, ({ known }) => known);
    const { response, duplicate } = await one.send("/long 2000");
    assert.equal(duplicate, false);
    await Promise.all([waitFor(one, started), waitFor(two, started)]);
    assert.deepEqual(one.state, { name: "live", transport: "events" });
    one.stop();
    await Promise.all([one, two].map((chat) => waitFor(chat, done)));
    assert.equal(two.messages[1].reason, "stopped");
    await one.retry(response);
    await Promise.all(
      [one, two].map((chat) =>
        waitFor(chat, ({ messages }) => messages[1].id !== response && messages[1].text.length > 20),
      ),
    );
    two.stop();
    await Promise.all([one, two].map((chat) => waitFor(chat, done)));
    assert.deepEqual(texts(one), texts(two));
    assert.ok(one.messages[0].key);
  });

  test("a disconnected stream resumes after the last event", async () => {
    const chat = tab(proxy.url, { transport: "events" }).conversation(newId());
    let disconnects = 0;
    proxy.onDisconnect = () => {
      disconnects += 1;
      if (disconnects < 8) proxy.bytesLeft = Math.floor(700 + Math.random() * 3000);
    };
    proxy.bytesLeft = 2000;
    while (disconnects < 8) {
      const { response } = await chat.send(`/long 300 After ${disconnects} disconnects`);
      await waitFor(chat, ({ messages }) => messages.find(({ id }) => id === response)?.settled, 60_000);
    }
    assert.ok(
      chat.messages.every((message) => message.role === "user" || message.revision === 0),
      "no text was replaced",
    );
    await assertEqualsLog(chat);
  });

  test("a lost request is repeated with its idempotency key", async () => {
    let losing = 0;
    const lossy = async (url, init) => {
      const reply = await fetch(url, init);
      if (init.method !== "POST" || losing === 0) return reply;
      losing -= 1;
      // The gateway has accepted the message. The first reply is lost, and the second one is truncated.
      if (losing > 0) throw new TypeError("network error");
      return new Response('{"mess', { status: 202, headers: { "content-type": "application/json" } });
    };
    const chat = tab(gateway.url, { transport: "events", fetch: lossy }).conversation(newId());
    await assert.rejects(chat.send("Hello", { model: "none" }), { code: "unknown_model" });
    chat.withdraw(chat.messages[0].key);
    losing = 2;
    assert.equal((await chat.send("Twice?")).duplicate, true);
    assert.equal(losing, 0);
    await chat.send("And then?");
    await waitFor(chat, ({ messages }) => messages.length === 4 && done(chat));
    assert.equal((await gateway.snapshot(chat.id)).messages.length, 4);
  });

  test("several conversations use separate streams", async () => {
    const client = tab(gateway.url, { transport: "events" });
    const chats = [client.conversation(newId()), client.conversation(newId())];
    await Promise.all(chats.map((chat, index) => chat.send(`Question ${index}`)));
    await Promise.all(chats.map((chat) => waitFor(chat, done)));
    chats.forEach((chat, index) => assert.equal(chat.messages[0].text, `Question ${index}`));
  });
});

describe("the automatic transport", () => {
  test("uses events behind a proxy that refuses upgrades", async () => {
    proxy.refuseUpgrades = true;
    const chat = tab(proxy.url).conversation(newId());
    await chat.send("Through a proxy?");
    await waitFor(chat, started);
    assert.deepEqual(chat.state, { name: "live", transport: "events" });
    await waitFor(chat, done);
    await assertEqualsLog(chat);
  });

  test("switches to events behind a proxy that buffers WebSockets", async () => {
    proxy.bufferMs = 700;
    const chat = tab(proxy.url).conversation(newId());
    await chat.send("/long 2000");
    await waitFor(chat, started);
    assert.equal(chat.state.transport, "websocket");
    await waitFor(chat, ({ state }) => state.transport === "events");
    const times = [];
    const unsubscribe = chat.subscribe(() => times.push(performance.now()));
    const length = chat.messages[1].text.length;
    await waitFor(chat, ({ messages }) => messages[1].text.length > length + 1000);
    unsubscribe();
    assertStreamed(times);
    assert.equal(chat.messages[1].revision, 0);
    chat.stop();
    await waitFor(chat, done);
    await assertEqualsLog(chat);
  });

  test("streams behind nginx with default settings", {
    skip: NGINX === undefined && "nginx is not installed",
  }, async () => {
    const proxy = await nginx(gateway.url);
    const chat = tab(proxy.url).conversation(newId());
    await chat.send("/long 300");
    await waitFor(chat, started);
    assert.equal(chat.state.transport, "events");
    const times = [];
    const unsubscribe = chat.subscribe(() => times.push(performance.now()));
    await waitFor(chat, done);
    unsubscribe();
    assertStreamed(times);
    await assertEqualsLog(chat);
    await proxy.process.kill("SIGTERM");
  });

  test("returns to WebSocket after an outage of every transport", async () => {
    proxy.down = true;
    const chat = tab(proxy.url).conversation(newId());
    await waitFor(chat, ({ state }) => state.name === "reconnecting" && state.attempt === 4);
    proxy.down = false;
    await chat.send("/limit");
    assert.equal(chat.state.name === "closed", false);
    await waitFor(chat, done);
  });
});
