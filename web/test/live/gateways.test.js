// The client and gateways that die, leave, and ask who is there.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";

import { endProcesses, name, Process, seen, tab, tidy, until, Wire } from "./house.js";

const done = (chat) => chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;
const begun = (chat) => (chat.answering?.text.length ?? 0) > 20;

afterEach(tidy);

describe("two gateways on one store", () => {
  let folder;
  let gateways;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "tokenwire-web-"));
    const store = ["--store", `embedded://${folder}`];
    await Process.start("worker", ...store, "--demo-rate", "80");
    gateways = await Promise.all([1, 2, 3].map(() => Process.start("gateway", ...store)));
  });
  after(async () => {
    await endProcesses();
    rmSync(folder, { recursive: true, force: true });
  });

  test("one is killed, and the answer goes on at the other, without a word lost or replaced", async () => {
    const [first, second] = gateways;
    const wire = await Wire.to(first.url);
    const chat = tab(wire.url).conversation(name());
    await chat.send("/long 300");
    await seen(chat, begun);
    wire.lead(second.url);
    await first.kill();
    await seen(chat, done);
    assert.equal(chat.messages[1].revision, 0);
    const { messages } = await second.snapshot(chat.id);
    assert.deepEqual(chat.messages.map(({ text }) => text), messages.map(({ text }) => text));
  });

  test("one leaves, and the answer goes on at the other", async () => {
    const [, second, third] = gateways;
    const wire = await Wire.to(third.url);
    const chat = tab(wire.url).conversation(name());
    await chat.send("/long 300");
    await seen(chat, begun);
    wire.lead(second.url);
    await third.kill("SIGTERM");
    await seen(chat, done);
    assert.equal(chat.messages[1].revision, 0);
  });
});

describe("two workers on one store", () => {
  let folder;

  before(() => {
    folder = mkdtempSync(join(tmpdir(), "tokenwire-web-"));
  });
  after(async () => {
    await endProcesses();
    rmSync(folder, { recursive: true, force: true });
  });

  test("one is killed, and the other begins anew within seconds: said in words, shown once, as the log has it", async () => {
    const store = ["--store", `embedded://${folder}`];
    const lease = ["--lease", "1"];
    const [gateway, first] = [await Process.start("gateway", ...store), await Process.start("worker", ...store, ...lease, "--demo-rate", "80")];
    const id = name();
    const [chat, other] = [tab(gateway.url).conversation(id), tab(gateway.url).conversation(id)];
    const states = [];
    chat.subscribe(() => {
      const { state, text } = chat.messages.at(-1) ?? {};
      if (state !== states.at(-1)?.state) states.push({ state, text });
    });
    await chat.send("/long 2000");
    await seen(chat, begun);
    await Process.start("worker", ...store, ...lease, "--demo-rate", "800");
    await first.kill();
    const killed = performance.now();
    await Promise.all([chat, other].map((each) => seen(each, ({ answering }) => answering?.attempt === 2)));
    assert.ok(performance.now() - killed < 6000);
    await Promise.all([chat, other].map((each) => seen(each, done)));
    assert.ok(states.some(({ state }) => state === "recovering"), JSON.stringify(states.map(({ state }) => state)));
    const { messages } = await gateway.snapshot(id);
    for (const each of [chat, other]) {
      assert.deepEqual(each.messages.map(({ text }) => text), messages.map(({ text }) => text));
      assert.equal(each.messages[1].reason, "complete");
      // What the first had written is taken back once, and then only grows.
      assert.ok(each.messages[1].revision <= 1);
    }
  });
});

describe("who is there", () => {
  const KEY = "a secret of thirty-two bytes, at least";
  let gateway;

  function token(claims) {
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: "u1", conversations: ["*"], exp: Math.floor(Date.now() / 1000) + 600, ...claims })}`;
    return `${body}.${createHmac("sha256", KEY).update(body).digest("base64url")}`;
  }

  before(async () => {
    gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "80", "--auth", "jwt", "--jwt-key", KEY);
  });
  after(endProcesses);

  for (const transport of ["websocket", "events"]) {
    describe(`over ${transport}`, () => {
      test("a token opens, and none does not", async () => {
        const chat = tab(gateway.url, { transport, token: token({}) }).conversation(name());
        await chat.send("/limit");
        await seen(chat, done);
        const closed = await seen(tab(gateway.url, { transport }).conversation(name()), ({ state }) => state.name === "closed");
        assert.equal(closed.state.code, 4401);
      });

      test("one that expires is replaced while the answer goes on", async () => {
        let asked = 0;
        const getToken = async () => {
          asked += 1;
          return token({ exp: Math.floor(Date.now() / 1000) + (asked === 1 ? 3 : 600) });
        };
        const chat = tab(gateway.url, { transport, getToken }).conversation(name());
        await chat.send("/long 350");
        const states = new Set();
        const end = chat.subscribe(() => states.add(chat.state.name));
        await seen(chat, done);
        end();
        assert.equal(asked >= 2, true);
        assert.equal(states.has("closed"), false);
        if (transport === "websocket") assert.equal(states.has("reconnecting"), false, "the line stays");
        assert.equal(chat.messages[1].revision, 0);
      });

      test("one that is refused is asked for anew, once", async () => {
        const tokens = ["rubbish", token({})];
        const chat = tab(gateway.url, { transport, getToken: () => tokens.shift() ?? "none left" }).conversation(name());
        await seen(chat, ({ known }) => known);
        let asked = 0;
        const client = tab(gateway.url, { transport, getToken: () => `rubbish ${(asked += 1)}` });
        const closed = client.conversation(name());
        await seen(closed, ({ state }) => state.name === "closed");
        assert.equal(asked, 2);
        client.reconnect();
        await seen(closed, ({ state }) => state.name === "closed");
        await until(() => asked === 4);
      });

      test("one that can not be had is waited for", async () => {
        let asked = 0;
        const getToken = () => {
          asked += 1;
          if (asked < 3) throw new Error("the host's backend is away");
          return token({});
        };
        const chat = tab(gateway.url, { transport, getToken }).conversation(name());
        await seen(chat, ({ known }) => known);
      });

      test("a conversation that it does not open says so, and the others go on", async () => {
        const mine = name();
        const client = tab(gateway.url, { transport, token: token({ conversations: [mine] }) });
        const [open, shut] = [client.conversation(mine), client.conversation(name())];
        await seen(open, ({ known }) => known);
        await seen(shut, ({ fault }) => fault?.code === "forbidden");
        assert.equal(open.fault, null);
        await assert.rejects(shut.send("Hello"), { code: "forbidden" });
        await open.send("/limit");
        await seen(open, done);
      });
    });
  }
});
