// The client during crashes and graceful shutdowns, and with authentication.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";

import { closeAll, endProcesses, FaultProxy, newId, Process, tab, until, waitFor } from "./cluster.js";

const done = (chat) =>
  chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;
const started = (chat) => (chat.answering?.text.length ?? 0) > 20;

afterEach(closeAll);

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

  test("an answer resumes at the other after a crash", async () => {
    const [first, second] = gateways;
    const proxy = await FaultProxy.start(first.url);
    const chat = tab(proxy.url).conversation(newId());
    await chat.send("/long 300");
    await waitFor(chat, started);
    proxy.retarget(second.url);
    await first.kill();
    await waitFor(chat, done);
    assert.equal(chat.messages[1].revision, 0);
    const { messages } = await second.snapshot(chat.id);
    assert.deepEqual(
      chat.messages.map(({ text }) => text),
      messages.map(({ text }) => text),
    );
  });

  test("an answer resumes at the other after a graceful shutdown", async () => {
    const [, second, third] = gateways;
    const proxy = await FaultProxy.start(third.url);
    const chat = tab(proxy.url).conversation(newId());
    await chat.send("/long 300");
    await waitFor(chat, started);
    proxy.retarget(second.url);
    await third.kill("SIGTERM");
    await waitFor(chat, done);
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

  test("the other worker restarts the answer after a crash", async () => {
    const store = ["--store", `embedded://${folder}`];
    const lease = ["--lease", "1"];
    const [gateway, first] = [
      await Process.start("gateway", ...store),
      await Process.start("worker", ...store, ...lease, "--demo-rate", "80"),
    ];
    const id = newId();
    const [chat, other] = [tab(gateway.url).conversation(id), tab(gateway.url).conversation(id)];
    const states = [];
    chat.subscribe(() => {
      const { state, text } = chat.messages.at(-1) ?? {};
      if (state !== states.at(-1)?.state) states.push({ state, text });
    });
    await chat.send("/long 2000");
    await waitFor(chat, started);
    await Process.start("worker", ...store, ...lease, "--demo-rate", "800");
    await first.kill();
    await Promise.all([chat, other].map((each) => waitFor(each, ({ answering }) => answering?.attempt === 2)));
    await Promise.all([chat, other].map((each) => waitFor(each, done)));
    assert.ok(
      states.some(({ state }) => state === "recovering"),
      JSON.stringify(states.map(({ state }) => state)),
    );
    const { messages } = await gateway.snapshot(id);
    for (const each of [chat, other]) {
      assert.deepEqual(
        each.messages.map(({ text }) => text),
        messages.map(({ text }) => text),
      );
      assert.equal(each.messages[1].reason, "complete");
      // The text of the first attempt is replaced at most once.
      assert.ok(each.messages[1].revision <= 1);
    }
  });
});

describe("authentication", () => {
  const KEY = "a secret of thirty-two bytes, at least";
  let gateway;

  function token(claims) {
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: "u1", conversations: ["*"], exp: Math.floor(Date.now() / 1000) + 600, ...claims })}`;
    return `${body}.${createHmac("sha256", KEY).update(body).digest("base64url")}`;
  }

  before(async () => {
    gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "80", "--auth", "jwt", {
      TOKENWIRE_JWT_KEY: KEY,
    });
  });
  after(endProcesses);

  for (const transport of ["websocket", "events"]) {
    describe(`over ${transport}`, () => {
      test("a client with a token connects, and without one does not", async () => {
        const chat = tab(gateway.url, { transport, token: token({}) }).conversation(newId());
        await chat.send("/limit");
        await waitFor(chat, done);
        const closed = await waitFor(
          tab(gateway.url, { transport }).conversation(newId()),
          ({ state }) => state.name === "closed",
        );
        assert.equal(closed.state.code, 4401);
      });

      test("an expiring token is replaced during an answer", async () => {
        let calls = 0;
        const getToken = async () => {
          calls += 1;
          return token({ exp: Math.floor(Date.now() / 1000) + (calls === 1 ? 3 : 600) });
        };
        const chat = tab(gateway.url, { transport, getToken }).conversation(newId());
        await chat.send("/long 350");
        const states = new Set();
        const unsubscribe = chat.subscribe(() => states.add(chat.state.name));
        await waitFor(chat, done);
        unsubscribe();
        assert.equal(calls >= 2, true);
        assert.equal(states.has("closed"), false);
        if (transport === "websocket") assert.equal(states.has("reconnecting"), false, "the connection stays open");
        assert.equal(chat.messages[1].revision, 0);
      });

      test("a rejected token is replaced once", async () => {
        const tokens = ["invalid", token({})];
        const chat = tab(gateway.url, { transport, getToken: () => tokens.shift() ?? "exhausted" }).conversation(
          newId(),
        );
        await waitFor(chat, ({ known }) => known);
        let calls = 0;
        const client = tab(gateway.url, { transport, getToken: () => `invalid ${(calls += 1)}` });
        const closed = client.conversation(newId());
        await waitFor(closed, ({ state }) => state.name === "closed");
        assert.equal(calls, 2);
        client.reconnect();
        await waitFor(closed, ({ state }) => state.name === "closed");
        await until(() => calls === 4);
      });

      test("a failing getToken is retried", async () => {
        let calls = 0;
        const getToken = () => {
          calls += 1;
          if (calls < 3) throw new Error("token backend unavailable");
          return token({});
        };
        const chat = tab(gateway.url, { transport, getToken }).conversation(newId());
        await waitFor(chat, ({ known }) => known);
      });

      test("a forbidden conversation does not affect the others", async () => {
        const allowed = newId();
        const client = tab(gateway.url, { transport, token: token({ conversations: [allowed] }) });
        const [open, forbidden] = [client.conversation(allowed), client.conversation(newId())];
        await waitFor(open, ({ known }) => known);
        await waitFor(forbidden, ({ fault }) => fault?.code === "forbidden");
        assert.equal(open.fault, null);
        await assert.rejects(forbidden.send("Hello"), { code: "forbidden" });
        await open.send("/limit");
        await waitFor(open, done);
      });
    });
  }
});
