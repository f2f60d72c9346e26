// Tests of status.ts, speech.ts, settings.ts and texts.ts.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";

import { fromAttributes } from "#src/widget/settings.js";
import { Speech, spoken } from "#src/widget/speech.js";
import { answerStatus, connectionStatus, questionStatus } from "#src/widget/status.js";
import { filled, TEXTS } from "#src/widget/texts.js";
import { ANSWERS } from "../markdown/texts.js";

const answer = (fields) => ({
  role: "assistant",
  id: "r1",
  text: "",
  reasoning: "",
  revision: 0,
  state: "running",
  attempt: 1,
  ...fields,
});

group("the status of the connection", () => {
  const status = (state, fault = null) => connectionStatus(state, fault, 10_000, TEXTS);

  test("is null while live", () => {
    assert.equal(status({ name: "live", transport: "websocket" }), null);
  });

  test("shows the time of the next attempt", () => {
    assert.equal(status({ name: "reconnecting", attempt: 2, at: 13_200 }).text, "Connection lost. Retrying in 4 s");
    assert.equal(status({ name: "reconnecting", attempt: 2, at: 9_000 }).text, "Connection lost. Retrying");
    assert.equal(status({ name: "offline", attempt: 1, at: 13_000 }).tone, "warning");
  });

  test("shows a resumed conversation", () => {
    assert.deepEqual(status({ name: "resumed" }), { text: TEXTS.resumed, tone: "good", busy: false });
  });

  test("shows why it is closed", () => {
    assert.equal(status({ name: "closed", code: 4403, reason: "no" }).text, TEXTS.forbiddenPage);
    assert.equal(status({ name: "closed", code: 4401, reason: "" }).text, TEXTS.expired);
    assert.equal(
      status({ name: "closed", code: 4400, reason: "not this protocol" }).text,
      "The chat is not available: not this protocol",
    );
    assert.equal(status({ name: "closed", code: 4429, reason: "" }).text, "The chat is not available: 4429");
    assert.equal(status({ name: "live", transport: "websocket" }, { code: "forbidden", message: "No." }).text, "No.");
  });
});

group("the status of an answer", () => {
  const status = (fields, left = 0) => answerStatus(answer(fields), TEXTS, left)?.text ?? null;

  test("shows the state, unless there is text", () => {
    assert.equal(status({ state: "queued" }), TEXTS.queued);
    assert.equal(status({ state: "waiting", retryIn: 4 }, 4), "The model is busy. Retrying in 4 s");
    assert.equal(status({ state: "waiting", retryIn: 4 }, -3), "The model is busy. Retrying in 1 s");
    assert.equal(status({ state: "waiting" }), "The service is unavailable. The answer continues when it recovers");
    assert.equal(status({ state: "recovering", text: "half" }), TEXTS.recovering);
    assert.equal(status({ state: "running" }), TEXTS.thinking);
    assert.equal(status({ state: "running", text: "half" }), null);
    assert.equal(status({ state: "running", text: "half", stopping: true }), TEXTS.stopping);
  });

  test("shows the end reason, unless it is complete", () => {
    assert.equal(status({ state: "ended", reason: "complete" }), null);
    assert.equal(status({ state: "ended", reason: "complete", stopping: true }), null);
    assert.equal(
      status({ state: "ended", reason: "failed", error: { code: "x", message: "model not found" } }),
      "The answer failed: model not found",
    );
    assert.equal(status({ state: "ended", reason: "failed" }), TEXTS.failedBare);
    for (const reason of ["stopped", "guarded", "length", "refused", "filtered", "tool_calls", "a_new_one"]) {
      assert.ok(status({ state: "ended", reason }), reason);
    }
  });
});

test("the status of a question shows why it was refused", () => {
  const question = (state, error = undefined) =>
    /** @type {any} */ ({ role: "user", id: "k", key: "k", text: "?", state, error });
  assert.equal(questionStatus(question("sent"), true, TEXTS), null);
  assert.equal(questionStatus(question("sending"), true, TEXTS), null);
  assert.equal(questionStatus(question("sending"), false, TEXTS).text, TEXTS.sending);
  assert.equal(
    questionStatus(question("refused", { code: "too_many", message: "Too many." }), true, TEXTS).text,
    "Not sent: Too many.",
  );
});

group("screen reader announcements", () => {
  test("contain each complete sentence once, every few seconds", () => {
    const text = ANSWERS[1];
    const speech = new Speech(TEXTS, 0);
    const pieces = [];
    let last = -Infinity;
    for (let at = 1; at <= text.length; at += 1) {
      const now = at * 20;
      const piece = speech.more(text.slice(0, at), now);
      if (piece === null) continue;
      assert.ok(now - last >= 4000);
      last = now;
      pieces.push(piece);
    }
    assert.ok(pieces.length > 2);
    for (const piece of pieces) assert.match(piece, /[.!?:;…)\w|]$/);
    assert.match(speech.end(text, "complete"), /Answer complete\.$/);
    assert.equal(speech.end(text, "complete"), null);
    assert.equal(new Set(pieces).size, pieces.length);
  });

  test("contain no marks, addresses or code", () => {
    const text = spoken(
      "# A *title*\n\n- **one** `two`\n\n[words](https://a.example)\n\n```js\nlet a;\n```\n\n| a | b |\n|---|---|\n| c | d |\n",
      "Code.",
    );
    assert.doesNotMatch(text, /[*`#|[\]]|https|let a/);
    assert.match(text, /A title/);
    assert.match(text, /words/);
    assert.match(text, /Code\./);
  });

  test("distinguish stopped, failed and complete answers", () => {
    assert.equal(new Speech(TEXTS, 0).end("", "stopped"), TEXTS.saidStopped);
    assert.equal(new Speech(TEXTS, 0).end("", "failed"), TEXTS.saidFailed);
    const speech = new Speech(TEXTS, 0);
    speech.end("a", "complete");
    speech.restart();
    assert.equal(speech.end("b", "complete"), "b Answer complete.");
  });
});

group("settings from attributes", () => {
  test("are parsed", () => {
    assert.deepEqual(
      fromAttributes({
        conversation: "c1",
        token: "t",
        theme: "dark",
        dir: "rtl",
        position: "start",
        prompts: "One? | Two?",
        images: "https://a.example  https://b.example",
        debug: "",
        open: "false",
      }),
      {
        conversation: "c1",
        token: "t",
        theme: "dark",
        dir: "rtl",
        position: "start",
        prompts: ["One?", "Two?"],
        images: ["https://a.example", "https://b.example"],
        debug: true,
        open: false,
      },
    );
  });

  test("ignore invalid values", () => {
    assert.deepEqual(fromAttributes({ theme: "pink", dir: "up", position: "top", conversation: "" }), {});
  });
});

test("filled replaces known placeholders only", () => {
  assert.equal(filled("{a} of {b}, {c}", { a: 1, b: "two" }), "1 of two, {c}");
});
