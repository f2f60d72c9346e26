// Tests of guard.ts: what the opening of an answer is, and what a verdict asks for.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { opening, refined } from "../../.build/client/guard.js";

describe("an opening", () => {
  test("is the first tokens, once they are there", () => {
    assert.equal(opening("One two", 3), null);
    assert.equal(opening("One two three four", 3), "One two three");
    assert.equal(opening("One, two", 3), "One, two");
    assert.equal(opening("", 1), null);
  });

  test("counts long words, and scripts without spaces, by more than one", () => {
    assert.equal(opening("Donaudampfschiff", 2), "Donaudampfsc");
    assert.equal(opening("少即是多", 3), "少即是");
    assert.equal(opening("🧵🧵", 2), "🧵🧵");
  });

  test("does not change when more comes", () => {
    const text = "Think of an answer as a **log**: words are only ever appended, 記録, and every reader keeps a place in it.";
    const first = opening(text, 12);
    for (let length = 0; length <= text.length; length += 1) {
      const now = opening(text.slice(0, length), 12);
      // A word that is still growing may end the opening early, never late.
      if (now !== null) assert.ok(first.startsWith(now));
    }
  });
});

describe("a verdict", () => {
  test("lets the answer go on unless it clearly says stop", () => {
    for (const verdict of ["ok", undefined, null, true, "stop", {}, { stop: false }, { refine: "x" }, { stop: "yes" }]) {
      assert.equal(refined(verdict, "q"), undefined, JSON.stringify(verdict));
    }
  });

  test("may stop and ask nothing", () => assert.equal(refined({ stop: true }, "q"), null));

  test("may ask in other words, or the same with instructions", () => {
    assert.deepEqual(refined({ stop: true, refine: "better" }, "q"), { text: "better" });
    assert.deepEqual(refined({ stop: true, refine: { instructions: "Stay on topic." } }, "q"), { text: "q", instructions: "Stay on topic." });
    assert.deepEqual(refined({ stop: true, refine: { text: "t" } }, "q"), { text: "t" });
  });
});
