// Tests of transport_choice.ts: fallback after failures, and detection of a buffering proxy.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { chooseTransport } from "#src/client/transport_choice.js";

const ABNORMAL_CLOSURE = 1006;

/** Receive deltas at these times; return whether the transport was switched. */
const switches = (choice, times) => times.map((time) => choice.delta(time)).includes(true);

/** Arrival times of `count` batches of `size` deltas, `every` milliseconds apart. */
function batches(count, size, every, begin = 1000) {
  return Array.from({ length: count * size }, (_, index) => begin + every * Math.floor(index / size) + (index % size));
}

describe("after failed attempts", () => {
  test("each transport is tried twice in turn", () => {
    const choice = chooseTransport("auto");
    const tried = Array.from({ length: 7 }, () => {
      const { transport } = choice;
      choice.failed(ABNORMAL_CLOSURE);
      return transport;
    });
    assert.deepEqual(tried, ["websocket", "websocket", "events", "events", "websocket", "websocket", "events"]);
  });

  test("a ready connection resets the count of failures", () => {
    const choice = chooseTransport("auto");
    choice.failed(ABNORMAL_CLOSURE);
    choice.ready();
    choice.failed(ABNORMAL_CLOSURE);
    assert.equal(choice.transport, "websocket");
  });

  test("a close code of the gateway does not count as a failure", () => {
    const choice = chooseTransport("auto");
    for (const code of [1012, 1013, 4401, 1013, 1013]) choice.failed(code);
    assert.equal(choice.transport, "websocket");
  });

  test("a network change returns to WebSocket", () => {
    const choice = chooseTransport("auto");
    choice.failed(ABNORMAL_CLOSURE);
    choice.failed(ABNORMAL_CLOSURE);
    assert.equal(choice.transport, "events");
    choice.reset();
    assert.equal(choice.transport, "websocket");
  });

  test("an explicit transport is never switched", () => {
    for (const wanted of /** @type {const} */ (["websocket", "events"])) {
      const choice = chooseTransport(wanted);
      for (let attempt = 0; attempt < 5; attempt += 1) choice.failed(ABNORMAL_CLOSURE);
      choice.reset();
      assert.equal(switches(choice, batches(5, 9, 900)), false);
      assert.equal(choice.transport, wanted);
    }
  });
});

describe("a buffering proxy", () => {
  test("is detected at the third batch after a silence", () => {
    const choice = chooseTransport("auto");
    assert.equal(switches(choice, batches(2, 20, 900)), false);
    assert.equal(switches(choice, batches(1, 20, 900, 2800)), true);
    assert.equal(choice.transport, "events");
  });

  test("is not detected in single deltas or in a fast answer", () => {
    for (const [size, every] of [
      [1, 5],
      [1, 25],
      [1, 500],
      [1, 3000],
      [2, 600],
      [3, 2000],
      [9, 100],
    ]) {
      assert.equal(switches(chooseTransport("auto"), batches(300, size, every)), false, `${size} each ${every} ms`);
    }
  });

  test("is not detected in occasional network stalls", () => {
    const choice = chooseTransport("auto");
    for (let round = 0; round < 10; round += 1) {
      const begin = 10_000 * round;
      assert.equal(switches(choice, [...batches(2, 30, 900, begin), ...batches(50, 1, 25, begin + 1000)]), false);
    }
  });

  test("on both transports causes only one switch", () => {
    const choice = chooseTransport("auto");
    assert.equal(switches(choice, batches(3, 20, 900)), true);
    choice.ready();
    assert.equal(switches(choice, batches(9, 20, 900, 50_000)), false);
    assert.equal(choice.transport, "events");
  });
});
