// Early stop: a guard judges the opening of an answer, and what it asks for stands in its place in every tab.

import assert from "node:assert/strict";
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
