// Early stop: a guard judges the opening of an answer, and what it asks for stands in its place in every tab.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, afterEach, before, test } from "node:test";

import { endProcesses, name, Process, seen, tab, tidy } from "./house.js";

const done = (chat) => chat.messages.length > 0 && chat.messages.at(-1).role === "assistant" && chat.messages.at(-1).settled;

let gateway;

before(async () => {
  gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "60");
});
after(endProcesses);
afterEach(tidy);

/** A conversation whose answers this guard judges, and the same one in another tab. */
async function guarded(guard) {
  const id = name();
  const [mine, other] = [tab(gateway.url, { guard }).conversation(id), tab(gateway.url).conversation(id)];
  await Promise.all([mine, other].map((chat) => seen(chat, ({ known }) => known)));
  return [mine, other];
}

test("an answer that begins wrongly is stopped early in every tab, and the refined one stands in its place", async () => {
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
  const stopped = await Promise.all([mine, other].map((chat) => seen(chat, ({ messages }) => messages.some(({ text }) => text === "/long 1000 Briefly."))));
  for (const chat of stopped) await seen(chat, ({ messages }) => messages[1]?.id !== response && messages[1]?.text.length > 40);
  mine.stop();
  await Promise.all([mine, other].map((chat) => seen(chat, done)));
  for (const chat of [mine, other]) {
    assert.deepEqual(chat.messages.map(({ role }) => role), ["user", "assistant"], "shown as one");
    assert.notEqual(chat.messages[1].id, response);
  }
  assert.equal(openings.length, 1, "the refined answer is not judged");
  const { messages } = await gateway.snapshot(mine.id);
  const first = messages.find((message) => message.response === response);
  assert.equal(first.reason, "guarded");
  assert.ok(first.usage === undefined || first.usage.output_tokens <= 60);
  assert.ok(first.text.startsWith(openings[0]) && first.text.length < openings[0].length + 120, first.text);
});

/** A provider that speaks as OpenAI's does, of whatever it is asked, 40 tokens a second; it notes how far each call came. */
async function provider() {
  const calls = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const call = { asked: JSON.parse(body).messages.at(-1).content, tokens: 0, cancelled: false };
    calls.push(call);
    response.writeHead(200, { "content-type": "text/event-stream" });
    const say = (choice) => response.write(`data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, ...choice }] })}\n\n`);
    const most = call.asked.includes("sky") ? 80 : 2000;
    const timer = setInterval(() => {
      if (call.tokens === most) {
        say({ delta: {}, finish_reason: "stop" });
        response.end("data: [DONE]\n\n");
        return clearInterval(timer);
      }
      call.tokens += 1;
      say({ delta: { content: most === 80 ? "sky " : "cat " }, finish_reason: null });
    }, 25);
    response.on("close", () => {
      clearInterval(timer);
      call.cancelled = !response.writableEnded;
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { calls, url: `http://127.0.0.1:${server.address().port}/v1`, close: () => server.close() };
}

test("an answer off the topic ends by its 60th token, and so does the provider's call", async () => {
  const asked = await provider();
  const house = await Process.start("run", "--store", "memory://", "--models", '{"default": "openai/m"}', { OPENAI_BASE_URL: asked.url, OPENAI_API_KEY: "none" });
  const guard = { tokens: 50, check: (text) => (text.includes("sky") ? "ok" : { stop: true, refine: "Only of the sky, please." }) };
  const id = name();
  const [mine, other] = [tab(house.url, { guard }).conversation(id), tab(house.url).conversation(id)];
  await Promise.all([mine, other].map((chat) => seen(chat, ({ known }) => known)));
  const { response } = await mine.send("Tell me of cats.");
  for (const chat of [mine, other]) {
    await seen(chat, ({ messages }) => messages.length === 2 && messages[0].text === "Only of the sky, please." && messages[1].settled);
    assert.equal(chat.messages[1].text, "sky ".repeat(80));
    assert.equal(chat.messages[1].reason, "complete");
  }
  const { messages } = await house.snapshot(id);
  const first = messages.find((message) => message.response === response);
  assert.equal(first.reason, "guarded");
  assert.ok(first.text.split(" ").length - 1 <= 60, first.text);
  const [wrong, right] = asked.calls;
  assert.deepEqual([asked.calls.length, wrong.cancelled, right.cancelled], [2, true, false]);
  assert.ok(wrong.tokens <= 60, `${wrong.tokens} tokens were paid for`);
  asked.close();
});

test("it may only stop", async () => {
  const [mine, other] = await guarded({ tokens: 10, check: () => ({ stop: true }) });
  await mine.send("/long 1000");
  await Promise.all([mine, other].map((chat) => seen(chat, done)));
  assert.deepEqual([mine, other].map(({ messages }) => messages[1].reason), ["guarded", "guarded"]);
  assert.equal(other.messages[1].retryable, true);
});

const LENIENT = {
  "is content": () => "ok",
  throws: () => {
    throw new Error("the judge is ill");
  },
  rejects: () => Promise.reject(new Error("the judge is ill")),
  "answers rubbish": () => 42,
  "is late": () => new Promise(() => {}),
  "comes to its verdict after the end": (_, __, ended) => ended.then(() => ({ stop: true })),
};

for (const [how, check] of Object.entries(LENIENT)) {
  test(`one that ${how} lets the answer be`, async () => {
    let judged = 0;
    let end;
    const ended = new Promise((resolve) => (end = resolve));
    const guard = {
      tokens: 10,
      within: how === "comes to its verdict after the end" ? 60 : 0.3,
      check(text, opening) {
        judged += 1;
        return check(text, opening, ended);
      },
    };
    const [mine] = await guarded(guard);
    await mine.send("/limit");
    await seen(mine, done);
    end();
    assert.equal(judged, 1);
    assert.equal(mine.messages[1].reason, "length");
    assert.equal(mine.messages.length, 2);
  });
}

test("an answer that is shorter than an opening is not judged", async () => {
  let judged = 0;
  const [mine] = await guarded({ tokens: 100, check: () => void (judged += 1) });
  await mine.send("/refuse");
  await seen(mine, done);
  assert.equal(judged, 0);
});
