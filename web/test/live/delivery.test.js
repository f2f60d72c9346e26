// The client against a real gateway: every answer once, whole and in order, whatever becomes of the line.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { endProcesses, Memory, name, Process, seen, tab, tidy, until, Wire } from "./house.js";

/** How often a line is cut: `TOKENWIRE_CUTS=100` takes a minute. */
const CUTS = Number(process.env.TOKENWIRE_CUTS ?? 15);

const texts = (chat) => chat.messages.map(({ role, text }) => ({ role, text }));
const done = (chat) => chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;
const begun = (chat) => (chat.answering?.text.length ?? 0) > 20;

let gateway;

before(async () => {
  gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "150");
});
after(endProcesses);
afterEach(tidy);

/** Fails unless a conversation shows what the gateway has. */
async function equalsTheLog(chat) {
  const { messages } = await gateway.snapshot(chat.id);
  assert.deepEqual(texts(chat), messages.map(({ role, text }) => ({ role, text })));
}

describe("an answer", () => {
  test("comes to who asked and to who watches, in two tabs", async () => {
    const id = name();
    const [one, two] = [tab(gateway.url).conversation(id), tab(gateway.url).conversation(id)];
    await seen(two, ({ known }) => known);
    const sent = await one.send("Why is the sky blue?");
    assert.equal(sent.duplicate, false);
    await Promise.all([seen(one, done), seen(two, done)]);
    assert.deepEqual(texts(one), texts(two));
    assert.equal(one.messages[1].id, sent.response);
    assert.ok(one.messages[0].key);
    assert.equal(two.messages[0].key, undefined);
    await equalsTheLog(one);
  });

  test("can be iterated", async () => {
    const chat = tab(gateway.url).conversation(name());
    const lengths = [];
    void chat.send("Twice?");
    for await (const messages of chat) {
      lengths.push(messages.at(-1)?.text.length ?? 0);
      if (done(chat)) break;
    }
    assert.ok(lengths.length > 10, String(lengths.length));
  });

  test("is shown before anything is accepted, once, and under one key", async () => {
    const chat = tab(gateway.url).conversation(name());
    const keys = [];
    const sent = chat.send("Me?");
    const end = chat.subscribe(() => keys.push(chat.messages.filter(({ role }) => role === "user").map(({ key }) => key)));
    assert.deepEqual(chat.messages.map(({ role, text, state }) => [role, text, state]), [["user", "Me?", "sending"]]);
    await sent;
    await seen(chat, done);
    end();
    assert.equal(new Set(keys.map(String)).size, 1, JSON.stringify([...new Set(keys.map(String))]));
    assert.equal(keys[0].length, 1);
    assert.equal(chat.messages[0].state, "sent");
  });

  test("is stopped in every tab, with its text kept, and comes anew with a retry", async () => {
    const id = name();
    const [one, two] = [tab(gateway.url).conversation(id), tab(gateway.url).conversation(id)];
    await seen(two, ({ known }) => known);
    await one.send("/long 2000");
    await Promise.all([seen(one, begun), seen(two, begun)]);
    const stopped = Date.now();
    two.stop();
    assert.equal(two.answering.stopping, true);
    await Promise.all([one, two].map((chat) => seen(chat, ({ messages }) => messages[1].reason === "stopped")));
    assert.ok(Date.now() - stopped < 1000);
    const partial = one.messages[1];
    assert.equal(partial.retryable, true);
    assert.ok(partial.text.length > 20);
    assert.equal(one.answering, undefined);
    await seen(one, done);
    const again = one.retry(partial.id, "continue");
    assert.equal(one.messages[1].retrying, true);
    const { response } = await again;
    await Promise.all([one, two].map((chat) => seen(chat, ({ messages }) => messages[1].id === response && messages[1].text.length > partial.text.length)));
    one.stop();
    await Promise.all([one, two].map((chat) => seen(chat, done)));
    assert.equal(one.messages.length, 2);
    assert.ok(one.messages[1].text.startsWith(partial.text));
    await until(async () => (await gateway.snapshot(id)).responses.length === 0);
    assert.deepEqual(texts(one), texts(two));
  });

  test("is whole after any number of cuts at random bytes", { timeout: 180_000 }, async () => {
    const wire = await Wire.to(gateway.url);
    const chat = tab(wire.url, { transport: "websocket" }).conversation(name());
    const watcher = tab(gateway.url).conversation(chat.id);
    let cuts = 0;
    wire.onCut = () => {
      cuts += 1;
      // The handshake and the greeting have about 700 bytes: some cuts are in them. One frame has what was missed.
      if (cuts < CUTS) wire.left = Math.floor(Math.random() * (cuts % 4 ? 6000 : 900));
    };
    const shown = [];
    const grows = chat.subscribe(() => {
      for (const { id, role, text, revision } of chat.messages) {
        if (role !== "assistant") continue;
        const before = shown.findLast((each) => each.id === id && each.revision === revision);
        if (before !== undefined) assert.ok(text.startsWith(before.text), "a text that was shown is not taken back");
        shown.push({ id, text, revision });
      }
    });
    wire.left = 2000;
    while (cuts < CUTS) {
      const { response } = await chat.send(`/long 600 After ${cuts} cuts`);
      await seen(chat, ({ messages }) => messages.find(({ id }) => id === response)?.settled, 60_000);
    }
    await seen(watcher, (other) => done(other) && other.messages.length === chat.messages.length);
    grows();
    assert.deepEqual(texts(chat), texts(watcher));
    assert.ok(shown.every(({ revision }) => revision === 0), "no text was replaced");
    await equalsTheLog(chat);
  });
});

describe("while the line is down", () => {
  test("what is sent waits, keeps its key, and is answered once", async () => {
    const wire = await Wire.to(gateway.url);
    const chat = tab(wire.url).conversation(name());
    await seen(chat, ({ state }) => state.name === "live");
    wire.down = true;
    wire.cut();
    await seen(chat, ({ state }) => state.name === "reconnecting");
    const sent = chat.send("Offline?");
    await seen(chat, ({ state }) => state.name === "reconnecting" && state.attempt >= 3);
    assert.ok(chat.state.at > Date.now() - 1000);
    assert.equal(chat.messages[0].state, "sending");
    wire.down = false;
    assert.equal((await sent).duplicate, false);
    await seen(chat, done);
    const { messages } = await gateway.snapshot(chat.id);
    assert.equal(messages.length, 2);
  });

  test("an answer that is lost on its way is not asked for twice", async () => {
    const wire = await Wire.to(gateway.url);
    const chat = tab(wire.url).conversation(name());
    await seen(chat, ({ state }) => state.name === "live");
    // The message arrives, and not one byte of what the gateway says to it.
    wire.left = 0;
    const sent = await chat.send("Twice?");
    assert.equal(sent.duplicate, true);
    await seen(chat, done);
    assert.equal(chat.messages.length, 2);
    assert.equal((await gateway.snapshot(chat.id)).messages.length, 2);
  });

  test("a stop waits too", async () => {
    const wire = await Wire.to(gateway.url);
    const chat = tab(wire.url).conversation(name());
    await chat.send("/long 4000");
    await seen(chat, begun);
    wire.down = true;
    wire.cut();
    await seen(chat, ({ state }) => state.name === "reconnecting");
    chat.stop();
    wire.down = false;
    await seen(chat, done);
    assert.equal(chat.messages[1].reason, "stopped");
  });

  test("a conversation that goes on says that it was resumed, then that it is live", async () => {
    const wire = await Wire.to(gateway.url);
    const chat = tab(wire.url).conversation(name());
    await seen(chat, ({ state }) => state.name === "live");
    const names = [];
    const end = chat.subscribe(() => names.at(-1) === chat.state.name || names.push(chat.state.name));
    wire.cut();
    await seen(chat, () => names.at(-1) === "live");
    end();
    assert.deepEqual(names, ["reconnecting", "connecting", "behind", "resumed", "live"]);
  });
});

describe("after a reload", () => {
  test("what was shown is there at once, and the answer goes on from its cursor", async () => {
    const [kept, browser] = [new Memory(), new Memory()];
    const before = tab(gateway.url, { tab: kept, browser });
    const first = before.conversation();
    await first.send("/long 300");
    await seen(first, begun);
    before.close();
    const again = tab(gateway.url, { tab: kept, browser }).conversation();
    assert.equal(again.id, first.id);
    assert.deepEqual(texts(again), texts(first));
    const states = new Set();
    const end = again.subscribe(() => states.add(again.state.name));
    await seen(again, done);
    end();
    assert.ok(states.has("resumed"), [...states].join());
    assert.equal(again.messages[1].revision, 0);
    await equalsTheLog(again);
  });

  test("what was not sent is sent, with its key", async () => {
    const wire = await Wire.to(gateway.url);
    wire.down = true;
    const kept = new Memory();
    const id = name();
    const before = tab(wire.url, { tab: kept });
    const refused = before.conversation(id).send("Still here?");
    before.close();
    await assert.rejects(refused, { code: "closed" });
    wire.down = false;
    const again = tab(wire.url, { tab: kept }).conversation(id);
    await seen(again, done);
    assert.deepEqual(again.messages.map(({ role }) => role), ["user", "assistant"]);
  });

  test("storage that fails is as none", async () => {
    const broken = { getItem: () => { throw new Error("no"); }, setItem: () => { throw new Error("no"); } };
    const client = tab(gateway.url, { tab: broken, browser: broken });
    const chat = client.conversation();
    await chat.send("/limit");
    await seen(chat, done);
    client.close();
  });
});

describe("what is refused", () => {
  test("shows why, and may be sent again or taken back", async () => {
    const chat = tab(gateway.url).conversation(name());
    await assert.rejects(chat.send("Hello", { model: "none" }), { code: "unknown_model" });
    const [{ key, state, error }] = chat.messages;
    assert.equal(state, "refused");
    assert.equal(error.code, "unknown_model");
    chat.resend(key);
    assert.equal(chat.messages[0].state, "sending");
    await seen(chat, ({ messages }) => messages[0].state === "refused");
    assert.equal(chat.withdraw(key), "Hello");
    assert.deepEqual(chat.messages, []);
  });

  test("what no gateway would take does not close the line, however often", async () => {
    const chat = tab(gateway.url).conversation(name());
    await seen(chat, ({ state }) => state.name === "live");
    for (const text of ["", "x".repeat(32_001), "記".repeat(32_000)]) await assert.rejects(chat.send(text), { code: "bad_frame" });
    // Only the gateway knows that this is none of its frames.
    await assert.rejects(chat.send("x", { maxTokens: -1 }), { code: "bad_frame" });
    for (const { key } of chat.messages) chat.withdraw(key);
    await chat.send("/limit");
    await seen(chat, done);
    assert.equal(chat.messages.length, 2);
  });

  test("one that answers already rejects, if that was asked for", async () => {
    const chat = tab(gateway.url).conversation(name());
    await chat.send("/long 2000");
    await assert.rejects(chat.send("And?", { ifBusy: "reject" }), { code: "busy" });
    chat.stop();
    await seen(chat, ({ messages }) => messages[1].state === "ended");
  });
});

describe("one line", () => {
  test("serves several conversations and all who ask for the same gateway", async () => {
    const wire = await Wire.to(gateway.url);
    const client = tab(wire.url);
    const chats = Array.from({ length: 4 }, () => client.conversation(name()));
    assert.equal(client.conversation(chats[0].id), chats[0]);
    await Promise.all(chats.map((chat, index) => chat.send(`Question ${index}`)));
    await Promise.all(chats.map((chat) => seen(chat, done)));
    chats.forEach((chat, index) => assert.equal(chat.messages[0].text, `Question ${index}`));
    assert.equal(wire.upgrades, 1);
    const same = () => tab(wire.url, { shared: true });
    assert.equal(same(), same());
  });

  test("is left by who unsubscribes, and not when somebody subscribes again at once", async () => {
    const client = tab(gateway.url);
    const chat = client.conversation(name());
    chat.subscribe(() => {})();
    const end = chat.subscribe(() => {});
    await seen(chat, ({ known }) => known);
    end();
    await until(() => chat.state.name === "live");
    const other = tab(gateway.url).conversation(chat.id);
    await other.send("/limit");
    await seen(other, done);
    assert.deepEqual(chat.messages, []);
    await seen(chat, done);
    assert.deepEqual(texts(chat), texts(other));
  });
});
