// The client where there is no WebSocket to be had, or a proxy that gathers: server-sent events and POST instead.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { endProcesses, name, NGINX, nginx, Process, seen, tab, tidy, Wire } from "./house.js";

const done = (chat) => chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;
const begun = (chat) => (chat.answering?.text.length ?? 0) > 20;
const texts = (chat) => chat.messages.map(({ role, text }) => ({ role, text }));

let gateway;
let wire;

before(async () => {
  gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "150");
});
after(endProcesses);
beforeEach(async () => {
  wire = await Wire.to(gateway.url);
});
afterEach(tidy);

/** Fails unless a conversation shows what the gateway has. */
async function equalsTheLog(chat) {
  const { messages } = await gateway.snapshot(chat.id);
  assert.deepEqual(texts(chat), messages.map(({ role, text }) => ({ role, text })));
}

describe("over events", () => {
  test("everything works: send, two tabs, stop, retry", async () => {
    const id = name();
    const [one, two] = [tab(gateway.url, { transport: "events" }).conversation(id), tab(gateway.url).conversation(id)];
    await seen(two, ({ known }) => known);
    const { response, duplicate } = await one.send("/long 2000");
    assert.equal(duplicate, false);
    await Promise.all([seen(one, begun), seen(two, begun)]);
    assert.deepEqual(one.state, { name: "live", transport: "events" });
    one.stop();
    await Promise.all([one, two].map((chat) => seen(chat, done)));
    assert.equal(two.messages[1].reason, "stopped");
    await one.retry(response);
    await Promise.all([one, two].map((chat) => seen(chat, ({ messages }) => messages[1].id !== response && messages[1].text.length > 20)));
    two.stop();
    await Promise.all([one, two].map((chat) => seen(chat, done)));
    assert.deepEqual(texts(one), texts(two));
    assert.ok(one.messages[0].key);
  });

  test("a cut line goes on after the last event", async () => {
    const chat = tab(wire.url, { transport: "events" }).conversation(name());
    let cuts = 0;
    wire.onCut = () => {
      cuts += 1;
      if (cuts < 8) wire.left = Math.floor(700 + Math.random() * 3000);
    };
    wire.left = 2000;
    while (cuts < 8) {
      const { response } = await chat.send(`/long 300 After ${cuts} cuts`);
      await seen(chat, ({ messages }) => messages.find(({ id }) => id === response)?.settled, 60_000);
    }
    assert.ok(chat.messages.every((message) => message.role === "user" || message.revision === 0), "nothing was replaced");
    await equalsTheLog(chat);
  });

  test("what is refused says why, and what is lost is sent again with its key", async () => {
    let losing = 0;
    const lossy = async (url, init) => {
      const reply = await fetch(url, init);
      if (init.method !== "POST" || losing === 0) return reply;
      losing -= 1;
      // The message has arrived; once nothing of its answer comes back, and once half of it.
      if (losing > 0) throw new TypeError("the network is gone");
      return new Response('{"mess', { status: 202, headers: { "content-type": "application/json" } });
    };
    const chat = tab(gateway.url, { transport: "events", fetch: lossy }).conversation(name());
    await assert.rejects(chat.send("Hello", { model: "none" }), { code: "unknown_model" });
    chat.withdraw(chat.messages[0].key);
    losing = 2;
    assert.equal((await chat.send("Twice?")).duplicate, true);
    assert.equal(losing, 0);
    await chat.send("And then?");
    await seen(chat, ({ messages }) => messages.length === 4 && done(chat));
    assert.equal((await gateway.snapshot(chat.id)).messages.length, 4);
  });

  test("several conversations each have their own", async () => {
    const client = tab(gateway.url, { transport: "events" });
    const chats = [client.conversation(name()), client.conversation(name())];
    await Promise.all(chats.map((chat, index) => chat.send(`Question ${index}`)));
    await Promise.all(chats.map((chat) => seen(chat, done)));
    chats.forEach((chat, index) => assert.equal(chat.messages[0].text, `Question ${index}`));
  });
});

describe("the transport is chosen", () => {
  test("where a proxy refuses upgrades, the answer comes as events", async () => {
    wire.plain = true;
    const chat = tab(wire.url).conversation(name());
    await chat.send("Through a proxy?");
    await seen(chat, begun);
    assert.deepEqual(chat.state, { name: "live", transport: "events" });
    await seen(chat, done);
    await equalsTheLog(chat);
  });

  test("where a proxy gathers what a WebSocket brings, the client notices and the answer streams", async () => {
    wire.gather = 700;
    const chat = tab(wire.url).conversation(name());
    await chat.send("/long 2000");
    await seen(chat, begun);
    assert.equal(chat.state.transport, "websocket");
    await seen(chat, ({ state }) => state.transport === "events");
    const times = [];
    const end = chat.subscribe(() => times.push(performance.now()));
    const length = chat.messages[1].text.length;
    await seen(chat, ({ messages }) => messages[1].text.length > length + 200);
    end();
    const pauses = times.slice(1).map((time, index) => time - times[index]);
    assert.ok(Math.max(...pauses) < 500, `the longest pause was ${Math.max(...pauses)} ms`);
    assert.equal(chat.messages[1].revision, 0);
    chat.stop();
    await seen(chat, done);
    await equalsTheLog(chat);
  });

  test("behind an nginx that buffers and knows no upgrade, the answer streams", { skip: NGINX === undefined && "there is no nginx" }, async () => {
    const proxy = await nginx(gateway.url);
    const chat = tab(proxy.url).conversation(name());
    await chat.send("/long 300");
    await seen(chat, begun);
    assert.equal(chat.state.transport, "events");
    const times = [];
    const end = chat.subscribe(() => times.push(performance.now()));
    await seen(chat, done);
    end();
    const pauses = times.slice(1).map((time, index) => time - times[index]);
    assert.ok(Math.max(...pauses) < 500, `the longest pause was ${Math.max(...pauses)} ms`);
    await equalsTheLog(chat);
    await proxy.process.kill("SIGTERM");
  });

  test("where nothing answers, a WebSocket is what comes back", async () => {
    wire.down = true;
    const chat = tab(wire.url).conversation(name());
    await seen(chat, ({ state }) => state.name === "reconnecting" && state.attempt === 4);
    wire.down = false;
    await chat.send("/limit");
    assert.equal(chat.state.name === "closed", false);
    await seen(chat, done);
  });
});
