// What is said of the line, of an answer and of a question, and what is said aloud.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";

import { fromAttributes } from "../../.build/widget/settings.js";
import { Speech, spoken } from "../../.build/widget/speech.js";
import { filled, TEXTS } from "../../.build/widget/texts.js";
import { ofAnswer, ofLine, ofQuestion } from "../../.build/widget/words.js";
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

group("the line", () => {
  const said = (state, fault = null) => ofLine(state, fault, 10_000, TEXTS);

  test("has nothing to say while it is live", () => {
    assert.equal(said({ name: "live", transport: "websocket" }), null);
  });

  test("says when it is tried again, and that it is being tried", () => {
    assert.equal(said({ name: "reconnecting", attempt: 2, at: 13_200 }).text, "Connection lost. Trying again in 4 s");
    assert.equal(said({ name: "reconnecting", attempt: 2, at: 9_000 }).text, "Connection lost. Trying again");
    assert.equal(said({ name: "offline", attempt: 1, at: 13_000 }).tone, "warning");
  });

  test("says that nothing is lost", () => {
    assert.deepEqual(said({ name: "resumed" }), { text: TEXTS.resumed, tone: "good", busy: false });
  });

  test("says why it is closed", () => {
    assert.equal(said({ name: "closed", code: 4403, reason: "no" }).text, TEXTS.forbiddenPage);
    assert.equal(said({ name: "closed", code: 4401, reason: "" }).text, TEXTS.expired);
    assert.equal(
      said({ name: "closed", code: 4400, reason: "not this protocol" }).text,
      "The chat is not available: not this protocol",
    );
    assert.equal(said({ name: "closed", code: 4429, reason: "" }).text, "The chat is not available: 4429");
    assert.equal(said({ name: "live", transport: "websocket" }, { code: "forbidden", message: "No." }).text, "No.");
  });
});

group("an answer", () => {
  const said = (fields, left = 0) => ofAnswer(answer(fields), TEXTS, left)?.text ?? null;

  test("says what it does, where its text does not", () => {
    assert.equal(said({ state: "queued" }), TEXTS.queued);
    assert.equal(said({ state: "waiting", retryIn: 4 }, 4), "The model is busy. Asking again in 4 s");
    assert.equal(said({ state: "waiting", retryIn: 4 }, -3), "The model is busy. Asking again in 1 s");
    assert.equal(said({ state: "waiting" }), "The service does not answer. This goes on when it does");
    assert.equal(said({ state: "recovering", text: "half" }), TEXTS.recovering);
    assert.equal(said({ state: "running" }), TEXTS.thinking);
    assert.equal(said({ state: "running", text: "half" }), null);
    assert.equal(said({ state: "running", text: "half", stopping: true }), TEXTS.stopping);
  });

  test("says how it ended, unless it is whole", () => {
    assert.equal(said({ state: "ended", reason: "complete" }), null);
    assert.equal(said({ state: "ended", reason: "complete", stopping: true }), null);
    assert.equal(
      said({ state: "ended", reason: "failed", error: { code: "x", message: "the model is gone" } }),
      "The answer failed: the model is gone",
    );
    assert.equal(said({ state: "ended", reason: "failed" }), TEXTS.failedBare);
    for (const reason of ["stopped", "guarded", "length", "refused", "filtered", "tool_calls", "a_new_one"]) {
      assert.ok(said({ state: "ended", reason }), reason);
    }
  });
});

test("a question says that it was not sent, and why", () => {
  const asked = (state, error) => ({ role: "user", id: "k", key: "k", text: "?", state, error });
  assert.equal(ofQuestion(asked("sent"), true, TEXTS), null);
  assert.equal(ofQuestion(asked("sending"), true, TEXTS), null);
  assert.equal(ofQuestion(asked("sending"), false, TEXTS).text, TEXTS.sending);
  assert.equal(
    ofQuestion(asked("refused", { code: "too_many", message: "Too many." }), true, TEXTS).text,
    "Not sent: Too many.",
  );
});

group("what is said aloud", () => {
  test("is whole sentences, at most every few seconds, and each of them once", () => {
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

  test("has no marks, addresses and code in it", () => {
    const said = spoken(
      "# A *title*\n\n- **one** `two`\n\n[words](https://a.example)\n\n```js\nlet a;\n```\n\n| a | b |\n|---|---|\n| c | d |\n",
      "Code.",
    );
    assert.doesNotMatch(said, /[*`#|[\]]|https|let a/);
    assert.match(said, /A title/);
    assert.match(said, /words/);
    assert.match(said, /Code\./);
  });

  test("tells a stop and a failure from an end", () => {
    assert.equal(new Speech(TEXTS, 0).end("", "stopped"), TEXTS.saidStopped);
    assert.equal(new Speech(TEXTS, 0).end("", "failed"), TEXTS.saidFailed);
    const speech = new Speech(TEXTS, 0);
    speech.end("a", "complete");
    speech.again();
    assert.equal(speech.end("b", "complete"), "b Answer complete.");
  });
});

group("the settings of a tag", () => {
  test("are read from its attributes", () => {
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

  test("are left out where they mean nothing", () => {
    assert.deepEqual(fromAttributes({ theme: "pink", dir: "up", position: "top", conversation: "" }), {});
  });
});

test("a text names what it is about, and keeps what nobody has filled in", () => {
  assert.equal(filled("{a} of {b}, {c}", { a: 1, b: "two" }), "1 of two, {c}");
});
