// Tests of guard.ts.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { firstTokens, refinedQuestion } from "#src/client/guard.js";

describe("firstTokens", () => {
  test("returns null until there are enough tokens", () => {
    assert.equal(firstTokens("One two", 3), null);
    assert.equal(firstTokens("One two three four", 3), "One two three");
    assert.equal(firstTokens("One, two", 3), "One, two");
    assert.equal(firstTokens("", 1), null);
  });

  test("splits long words and scripts without spaces", () => {
    assert.equal(firstTokens("Donaudampfschiff", 2), "Donaudampfsc");
    assert.equal(firstTokens("少即是多", 3), "少即是");
    assert.equal(firstTokens("🧵🧵", 2), "🧵🧵");
  });

  test("returns a stable result while the text grows", () => {
    const text =
      "Think of an answer as a **log**: words are only ever appended, 記録, and every reader keeps a place in it.";
    const first = firstTokens(text, 12);
    for (let length = 0; length <= text.length; length += 1) {
      const now = firstTokens(text.slice(0, length), 12);
      // An incomplete last word may shorten the result, but never lengthens it.
      if (now !== null) assert.ok(first.startsWith(now));
    }
  });
});

describe("refinedQuestion", () => {
  test("returns undefined for every verdict but stop", () => {
    for (const verdict of [
      "ok",
      undefined,
      null,
      true,
      "stop",
      {},
      { stop: false },
      { refine: "x" },
      { stop: "yes" },
    ]) {
      assert.equal(refinedQuestion(/** @type {any} */ (verdict), "q"), undefined, JSON.stringify(verdict));
    }
  });

  test("returns null for a stop without refine", () => assert.equal(refinedQuestion({ stop: true }, "q"), null));

  test("returns the new text, or the question with instructions", () => {
    assert.deepEqual(refinedQuestion({ stop: true, refine: "better" }, "q"), { text: "better" });
    assert.deepEqual(refinedQuestion({ stop: true, refine: { instructions: "Stay on topic." } }, "q"), {
      text: "q",
      instructions: "Stay on topic.",
    });
    assert.deepEqual(refinedQuestion({ stop: true, refine: { text: "t" } }, "q"), { text: "t" });
  });
});
