// Guards: an early stop after the first tokens, and a refined question that replaces the answer in every tab.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, afterEach, before, test } from "node:test";

import { closeAll, endProcesses, newId, Process, tab, waitFor } from "./cluster.js";

const done = (chat) =>
  chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;

let gateway;

before(async () => {
  gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "60");
});
after(endProcesses);
afterEach(closeAll);

/** Return a conversation with this guard, and the same conversation in another tab. */
async function guarded(guard) {
  const id = newId();
  const [mine, other] = [tab(gateway.url, { guard }).conversation(id), tab(gateway.url).conversation(id)];
  await Promise.all([mine, other].map((chat) => waitFor(chat, ({ known }) => known)));
  return [mine, other];
}

test("a stopped answer is replaced by the refined one in every tab", async () => {
  const openings = [];
  const guard = {
    tokens: 20,
    async check(text, { question }) {
      openings.push(text);
      return { stop: true, refine: { text: `${question} Briefly.`, instructions: "Stay on the topic." } };
    },
  };
  const [mine, other] = await guarded(guard);
  const { response } = await mine.send("/long 1000");
  const stopped = await Promise.all(
    [mine, other].map((chat) =>
      waitFor(chat, ({ messages }) => messages.some(({ text }) => text === "/long 1000 Briefly.")),
    ),
  );
  for (const chat of stopped)
    await waitFor(chat, ({ messages }) => messages[1]?.id !== response && messages[1]?.text.length > 40);
  mine.stop();
  await Promise.all([mine, other].map((chat) => waitFor(chat, done)));
  for (const chat of [mine, other]) {
    assert.deepEqual(
      chat.messages.map(({ role }) => role),
      ["user", "assistant"],
      "one question and one answer",
    );
    assert.notEqual(chat.messages[1].id, response);
  }
  assert.equal(openings.length, 1, "the refined answer is not checked");
  const { messages } = await gateway.snapshot(mine.id);
  const first = messages.find((message) => message.response === response);
  assert.equal(first.reason, "guarded");
  assert.ok(first.usage === undefined || first.usage.output_tokens <= 60);
  assert.ok(first.text.startsWith(openings[0]) && first.text.length < openings[0].length + 120, first.text);
});

/** Start a fake of OpenAI's API that sends 40 tokens a second and records its calls. */
async function fakeProvider() {
  const calls = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const call = { question: JSON.parse(body).messages.at(-1).content, tokens: 0, cancelled: false };
    calls.push(call);
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (choice) =>
      response.write(
        `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, ...choice }] })}\n\n`,
      );
    const length = call.question.includes("sky") ? 80 : 2000;
    const timer = setInterval(() => {
      if (call.tokens === length) {
        send({ delta: {}, finish_reason: "stop" });
        response.end("data: [DONE]\n\n");
        return clearInterval(timer);
      }
      call.tokens += 1;
      send({ delta: { content: length === 80 ? "sky " : "cat " }, finish_reason: null });
    }, 25);
    response.on("close", () => {
      clearInterval(timer);
      call.cancelled = !response.writableEnded;
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  return {
    calls,
    url: `http://127.0.0.1:${/** @type {import("node:net").AddressInfo} */ (server.address()).port}/v1`,
    close: () => server.close(),
  };
}

test("a stopped answer ends within 60 tokens, also at the provider", async () => {
  const api = await fakeProvider();
  const cluster = await Process.start("run", "--store", "memory://", "--models", '{"default": "openai/m"}', {
    OPENAI_BASE_URL: api.url,
    OPENAI_API_KEY: "none",
  });
  const guard = {
    tokens: 50,
    check: (text) => (text.includes("sky") ? "ok" : { stop: true, refine: "Only of the sky, please." }),
  };
  const id = newId();
  const [mine, other] = [tab(cluster.url, { guard }).conversation(id), tab(cluster.url).conversation(id)];
  await Promise.all([mine, other].map((chat) => waitFor(chat, ({ known }) => known)));
  const { response } = await mine.send("Tell me of cats.");
  for (const chat of [mine, other]) {
    await waitFor(
      chat,
      ({ messages }) => messages.length === 2 && messages[0].text === "Only of the sky, please." && messages[1].settled,
    );
    assert.equal(chat.messages[1].text, "sky ".repeat(80));
    assert.equal(chat.messages[1].reason, "complete");
  }
  const { messages } = await cluster.snapshot(id);
  const first = messages.find((message) => message.response === response);
  assert.equal(first.reason, "guarded");
  assert.ok(first.text.split(" ").length - 1 <= 60, first.text);
  const [wrong, right] = api.calls;
  assert.deepEqual([api.calls.length, wrong.cancelled, right.cancelled], [2, true, false]);
  assert.ok(wrong.tokens <= 60, `${wrong.tokens} tokens were generated`);
  api.close();
});

test("a guard can stop without a refined question", async () => {
  const [mine, other] = await guarded({ tokens: 10, check: () => ({ stop: true }) });
  await mine.send("/long 1000");
  await Promise.all([mine, other].map((chat) => waitFor(chat, done)));
  assert.deepEqual(
    [mine, other].map(({ messages }) => messages[1].reason),
    ["guarded", "guarded"],
  );
  assert.equal(other.messages[1].retryable, true);
});

const LENIENT = {
  accepts: () => "ok",
  throws: () => {
    throw new Error("guard failed");
  },
  rejects: () => Promise.reject(new Error("guard failed")),
  "returns an invalid verdict": () => 42,
  "times out": () => new Promise(() => {}),
  "decides after the end": (_, __, ended) => ended.then(() => ({ stop: true })),
};

for (const [how, check] of Object.entries(LENIENT)) {
  test(`an answer continues if the guard ${how}`, async () => {
    let checks = 0;
    let end;
    const ended = new Promise((resolve) => (end = resolve));
    const guard = {
      tokens: 10,
      within: how === "decides after the end" ? 60 : 0.3,
      check(text, opening) {
        checks += 1;
        return check(text, opening, ended);
      },
    };
    const [mine] = await guarded(guard);
    await mine.send("/limit");
    await waitFor(mine, done);
    end();
    assert.equal(checks, 1);
    assert.equal(mine.messages[1].reason, "length");
    assert.equal(mine.messages.length, 2);
  });
}

test("an answer with too few tokens is not checked", async () => {
  let checks = 0;
  const [mine] = await guarded({ tokens: 100, check: () => void (checks += 1) });
  await mine.send("/refuse");
  await waitFor(mine, done);
  assert.equal(checks, 0);
});
