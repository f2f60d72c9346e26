// Tests of chunks.ts: the AI SDK reads the chunks.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";

import { readUIMessageStream } from "ai";

import { chunks, textOf, toUIMessage } from "#src/ai_sdk/chunks.js";

const ANSWER = { role: "assistant", id: "r1", text: "", reasoning: "", revision: 0, state: "queued", attempt: 0 };

/** Let the AI SDK read the chunks of these successive states; return its message, the chunks and its errors. */
async function read(/** @type {any[]} */ ...states) {
  /** @type {any[]} */
  const all = states.flatMap((now, at) => [...chunks(states[at - 1], now)]);
  let message;
  const errors = [];
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of all) controller.enqueue(chunk);
      controller.close();
    },
  });
  for await (const each of readUIMessageStream({
    stream,
    onError: (/** @type {any} */ error) => errors.push(error.message),
  }))
    message = each;
  return { message, all, errors };
}

/** Return a message without the state of its parts, for comparison. */
const plain = ({ id, role, parts }) => ({
  id,
  role,
  parts: parts.map(({ type, text }) => (text === undefined ? { type } : { type, text })),
});

group("an answer", () => {
  const running = { ...ANSWER, state: "running", model: "default", attempt: 1 };

  test("that grows in any steps equals the complete message", async () => {
    const text = "Because the air scatters short waves.";
    const reasoning = "It asks why.";
    /** @type {any} */
    const ended = { ...running, text, reasoning, state: "ended", reason: "complete", usage: { output_tokens: 7 } };
    for (let seed = 1; seed < 40; seed += 1) {
      const states = [ANSWER];
      for (let at = 0; at < text.length; at += 1 + ((seed * 7 + at) % 5)) {
        states.push({
          ...running,
          reasoning: reasoning.slice(0, 4 * at),
          text: at * 4 < reasoning.length ? "" : text.slice(0, at),
        });
      }
      const { message, all, errors } = await read(...states, ended);
      assert.deepEqual(plain(message), plain(toUIMessage(ended, "r1")));
      assert.deepEqual([all.at(-1).type, all.at(-1).finishReason, errors], ["finish", "stop", []]);
      assert.deepEqual(
        JSON.parse(JSON.stringify(message.metadata)),
        JSON.parse(JSON.stringify(toUIMessage(ended, "r1").metadata)),
      );
    }
  });

  test("of a new attempt replaces the earlier text", async () => {
    const first = { ...running, text: "Because the sea" };
    const { message } = await read(
      first,
      { ...running, state: "recovering", text: "", revision: 1, attempt: 2 },
      { ...running, text: "Air", revision: 1, attempt: 2 },
    );
    assert.equal(textOf(message), "Air");
  });

  test("that exists already is read at once", async () => {
    for (const state of ["running", "ended"]) {
      const { message } = await read({ ...running, state, text: "All of it" });
      assert.equal(textOf(message), "All of it");
    }
  });

  test("that fails keeps its text and reports an error", async () => {
    const failed = {
      ...running,
      text: "Half",
      state: "ended",
      reason: "failed",
      error: { code: "demo_failed", message: "The model failed." },
    };
    const { message, errors } = await read({ ...running, text: "Half" }, failed);
    assert.deepEqual([textOf(message), errors], ["Half", ["The model failed."]]);
  });

  test("that was stopped has the reason in its metadata", async () => {
    const { message, all } = await read(
      { ...running, text: "Half" },
      { ...running, text: "Half", state: "ended", reason: "stopped" },
    );
    assert.deepEqual([message.metadata.reason, all.at(-1).finishReason], ["stopped", "other"]);
  });
});
