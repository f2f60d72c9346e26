// Tests of outbox.ts.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Outbox } from "#src/client/outbox.js";

const send = (key, text = key) => /** @type {any} */ ({ type: "send", key, conversation: "c", text });
const accepted = (key, message, more = {}) =>
  /** @type {any} */ ({
    type: "accepted",
    key,
    message,
    response: `r-${key}`,
    duplicate: false,
    ...more,
  });
const refusal = { code: "busy", message: "Another answer is open." };

/** Return an outbox with these requests, and their results by key. @returns {{outbox: any, results: any}} */
function outboxOf(...frames) {
  const outbox = new Outbox();
  const results = {};
  for (const frame of frames) outbox.add({ frame, settle: (result) => (results[frame.key] = result) });
  return { outbox, results };
}
const none = (/** @type {string} */ _id) => false;
const shown = (outbox, inHistory = none) => outbox.messages(inHistory).map(({ id, state }) => `${id} ${state}`);

describe("a message", () => {
  test("is repeated in order until it is answered", () => {
    const { outbox, results } = outboxOf(send("k1"), send("k2"));
    assert.deepEqual(outbox.frames(), [send("k1"), send("k2")]);
    assert.deepEqual(outbox.frames(), [send("k1"), send("k2")]);
    outbox.accept(accepted("k1", "m1"));
    assert.deepEqual(outbox.frames(), [send("k2")]);
    assert.deepEqual(results, { k1: { message: "m1", response: "r-k1", duplicate: false } });
  });

  test("is shown until the history contains it", () => {
    const { outbox } = outboxOf(send("k1"));
    assert.deepEqual(shown(outbox), ["k1 sending"]);
    outbox.accept(accepted("k1", "m1"));
    assert.deepEqual(shown(outbox), ["k1 sending"]);
    assert.deepEqual(
      shown(outbox, (id) => id === "m1"),
      [],
    );
  });

  test("is shown once if the history contains it before accepted", () => {
    const { outbox } = outboxOf(send("k1", "same"), send("k2", "same"));
    assert.equal(outbox.match({ id: "m1", role: "user", text: "other" }), undefined);
    assert.equal(outbox.match({ id: "m2", role: "user", text: "same" }), "k1");
    assert.equal(outbox.match({ id: "m2", role: "user", text: "same" }), "k1");
    assert.deepEqual(
      shown(outbox, (id) => id === "m2"),
      ["k2 sending"],
    );
    // Both are unanswered, so the next connection sends them again.
    assert.equal(outbox.frames().length, 2);
  });

  test("is separated from an equal message of another tab by accepted", () => {
    const { outbox } = outboxOf(send("k1", "same"));
    outbox.match({ id: "other", role: "user", text: "same" });
    assert.equal(outbox.accept(accepted("k1", "m1")).message, "other");
    assert.deepEqual(
      shown(outbox, (id) => id === "other"),
      ["k1 sending"],
    );
  });

  test("is shown with the reason and not repeated after a refusal", () => {
    const { outbox, results } = outboxOf(send("k1"));
    outbox.refuse("k1", refusal);
    assert.deepEqual(outbox.messages(none), [
      { role: "user", id: "k1", key: "k1", text: "k1", state: "refused", error: refusal },
    ]);
    assert.deepEqual(outbox.frames(), []);
    assert.deepEqual(results.k1, refusal);
    assert.equal(outbox.remove("k1").frame.text, "k1");
    assert.deepEqual(shown(outbox), []);
  });

  test("ignores a second answer", () => {
    const { outbox, results } = outboxOf(send("k1"));
    assert.notEqual(outbox.accept(accepted("k1", "m1")), undefined);
    assert.equal(outbox.accept(accepted("k1", "m2")), undefined);
    outbox.refuse("k1", refusal);
    assert.equal(results.k1.message, "m1");
    assert.equal(outbox.accept(accepted("unknown", "m3")), undefined);
  });

  test("without a readable key: every unanswered request is refused", () => {
    const { outbox, results } = outboxOf(send("k1"), send("k2"), send("k3"));
    outbox.accept(accepted("k1", "m1"));
    assert.equal(outbox.refuse(undefined, refusal).length, 2);
    assert.deepEqual([results.k2, results.k3], [refusal, refusal]);
  });

  test("is saved for a reload while it is unanswered", () => {
    const { outbox } = outboxOf(send("k1"), send("k2"), { type: "retry", response: "r", key: "k3" }, send("k4"));
    outbox.accept(accepted("k1", "m1"));
    outbox.refuse("k2", refusal);
    outbox.stop({ type: "stop", response: "r" });
    assert.deepEqual(outbox.save(), [send("k4")]);
  });
});

test("a retry is removed by its answer and never shown", () => {
  const retry = { type: "retry", response: "r", key: "k1" };
  for (const answer of [(outbox) => outbox.accept(accepted("k1", "m1")), (outbox) => outbox.refuse("k1", refusal)]) {
    const { outbox, results } = outboxOf(retry);
    assert.deepEqual(outbox.frames(), [retry]);
    assert.deepEqual(shown(outbox), []);
    answer(outbox);
    assert.equal(outbox.has("k1"), false);
    assert.notEqual(results.k1, undefined);
  }
});

test("a stop is repeated before all messages until the response ends", () => {
  const { outbox } = outboxOf(send("k1"));
  /** @type {import("#src/client/wire.js").Stop} */
  const stop = { type: "stop", response: "r", reason: "guarded" };
  outbox.stop(stop);
  assert.deepEqual(outbox.frames(), [stop, send("k1")]);
  outbox.ended("other");
  outbox.ended("r");
  assert.deepEqual(outbox.frames(), [send("k1")]);
});
