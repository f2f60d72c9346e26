// Tests of outbox.ts: what is sent keeps its key until it is answered, and is shown once.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Outbox } from "../../.build/client/outbox.js";

const send = (key, text = key) => ({ type: "send", key, conversation: "c", text });
const accepted = (key, message, more = {}) => ({ type: "accepted", key, message, response: `r-${key}`, duplicate: false, ...more });
const refusal = { code: "busy", message: "An answer is being written." };

/** An outbox that was asked for these, and what has become of each. */
function outboxOf(...frames) {
  const outbox = new Outbox();
  const became = {};
  for (const frame of frames) outbox.ask({ frame, settle: (what) => (became[frame.key] = what) });
  return { outbox, became };
}
const none = () => false;
const shown = (outbox, inHistory = none) => outbox.messages(inHistory).map(({ id, state }) => `${id} ${state}`);

describe("a message", () => {
  test("is said until it is answered, in turn, with its key", () => {
    const { outbox, became } = outboxOf(send("k1"), send("k2"));
    assert.deepEqual(outbox.frames(), [send("k1"), send("k2")]);
    assert.deepEqual(outbox.frames(), [send("k1"), send("k2")]);
    outbox.accept(accepted("k1", "m1"));
    assert.deepEqual(outbox.frames(), [send("k2")]);
    assert.deepEqual(became, { k1: { message: "m1", response: "r-k1", duplicate: false } });
  });

  test("is shown behind the history until that has it", () => {
    const { outbox } = outboxOf(send("k1"));
    assert.deepEqual(shown(outbox), ["k1 sending"]);
    outbox.accept(accepted("k1", "m1"));
    assert.deepEqual(shown(outbox), ["k1 sending"]);
    assert.deepEqual(shown(outbox, (id) => id === "m1"), []);
  });

  test("that appears in the history before it is accepted is not shown twice", () => {
    const { outbox } = outboxOf(send("k1", "same"), send("k2", "same"));
    assert.equal(outbox.said({ id: "m1", role: "user", text: "other" }), undefined);
    assert.equal(outbox.said({ id: "m2", role: "user", text: "same" }), "k1");
    assert.equal(outbox.said({ id: "m2", role: "user", text: "same" }), "k1");
    assert.deepEqual(shown(outbox, (id) => id === "m2"), ["k2 sending"]);
    // It is still unanswered, so it is said again on the next line.
    assert.equal(outbox.frames().length, 2);
  });

  test("that another tab wrote in the same words is told apart in the end", () => {
    const { outbox } = outboxOf(send("k1", "same"));
    outbox.said({ id: "other", role: "user", text: "same" });
    assert.equal(outbox.accept(accepted("k1", "m1")).message, "other");
    assert.deepEqual(shown(outbox, (id) => id === "other"), ["k1 sending"]);
  });

  test("that was refused is shown with the reason, and not said again", () => {
    const { outbox, became } = outboxOf(send("k1"));
    outbox.refuse("k1", refusal);
    assert.deepEqual(outbox.messages(none), [{ role: "user", id: "k1", key: "k1", text: "k1", state: "refused", error: refusal }]);
    assert.deepEqual(outbox.frames(), []);
    assert.deepEqual(became.k1, refusal);
    assert.equal(outbox.drop("k1").frame.text, "k1");
    assert.deepEqual(shown(outbox), []);
  });

  test("is answered once", () => {
    const { outbox, became } = outboxOf(send("k1"));
    assert.notEqual(outbox.accept(accepted("k1", "m1")), undefined);
    assert.equal(outbox.accept(accepted("k1", "m2")), undefined);
    outbox.refuse("k1", refusal);
    assert.equal(became.k1.message, "m1");
    assert.equal(outbox.accept(accepted("unknown", "m3")), undefined);
  });

  test("without a key that could be read is any of those without an answer", () => {
    const { outbox, became } = outboxOf(send("k1"), send("k2"), send("k3"));
    outbox.accept(accepted("k1", "m1"));
    assert.equal(outbox.refuse(undefined, refusal).length, 2);
    assert.deepEqual([became.k2, became.k3], [refusal, refusal]);
  });

  test("that no gateway has answered is kept for a reload", () => {
    const { outbox } = outboxOf(send("k1"), send("k2"), { type: "retry", response: "r", key: "k3" }, send("k4"));
    outbox.accept(accepted("k1", "m1"));
    outbox.refuse("k2", refusal);
    outbox.stop({ type: "stop", response: "r" });
    assert.deepEqual(outbox.save(), [send("k4")]);
  });
});

test("a retry is forgotten once it is answered, and never shown", () => {
  const retry = { type: "retry", response: "r", key: "k1" };
  for (const answer of [(outbox) => outbox.accept(accepted("k1", "m1")), (outbox) => outbox.refuse("k1", refusal)]) {
    const { outbox, became } = outboxOf(retry);
    assert.deepEqual(outbox.frames(), [retry]);
    assert.deepEqual(shown(outbox), []);
    answer(outbox);
    assert.equal(outbox.has("k1"), false);
    assert.notEqual(became.k1, undefined);
  }
});

test("a stop is said, before all messages, until the response has ended", () => {
  const { outbox } = outboxOf(send("k1"));
  const stop = { type: "stop", response: "r", reason: "guarded" };
  outbox.stop(stop);
  assert.deepEqual(outbox.frames(), [stop, send("k1")]);
  outbox.ended("other");
  outbox.ended("r");
  assert.deepEqual(outbox.frames(), [send("k1")]);
});
