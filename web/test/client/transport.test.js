// Tests of transport.ts: when the other way to the gateway is tried, and what shows that a proxy gathers.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { choose } from "../../.build/client/transport.js";

const LOST = 1006;

/** Let deltas come at these times; returns whether one of them showed a proxy. */
const hear = (choice, times) => times.map((time) => choice.heard(time)).includes(true);

/** The times of pieces of `size` deltas each, `every` milliseconds apart. */
function pieces(count, size, every, begin = 1000) {
  return Array.from({ length: count * size }, (_, index) => begin + every * Math.floor(index / size) + (index % size));
}

describe("where it can not connect", () => {
  test("a WebSocket is tried twice, then events, and so on in turn", () => {
    const choice = choose("auto");
    const tried = Array.from({ length: 7 }, () => {
      const { transport } = choice;
      choice.failed(LOST);
      return transport;
    });
    assert.deepEqual(tried, ["websocket", "websocket", "events", "events", "websocket", "websocket", "events"]);
  });

  test("what has worked once is tried twice again", () => {
    const choice = choose("auto");
    choice.failed(LOST);
    choice.greeted();
    choice.failed(LOST);
    assert.equal(choice.transport, "websocket");
  });

  test("a code that the gateway gave shows that the way is open", () => {
    const choice = choose("auto");
    for (const code of [1012, 1013, 4401, 1013, 1013]) choice.failed(code);
    assert.equal(choice.transport, "websocket");
  });

  test("another network begins with a WebSocket", () => {
    const choice = choose("auto");
    choice.failed(LOST);
    choice.failed(LOST);
    assert.equal(choice.transport, "events");
    choice.reset();
    assert.equal(choice.transport, "websocket");
  });

  test("who wants one of them gets no other", () => {
    for (const wanted of ["websocket", "events"]) {
      const choice = choose(wanted);
      for (let attempt = 0; attempt < 5; attempt += 1) choice.failed(LOST);
      choice.reset();
      assert.equal(hear(choice, pieces(5, 9, 900)), false);
      assert.equal(choice.transport, wanted);
    }
  });
});

describe("a proxy that gathers", () => {
  test("shows in the third piece of many deltas after a silence", () => {
    const choice = choose("auto");
    assert.equal(hear(choice, pieces(2, 20, 900)), false);
    assert.equal(hear(choice, pieces(1, 20, 900, 2800)), true);
    assert.equal(choice.transport, "events");
  });

  test("does not show in tokens that come one by one, however slowly, nor in a fast answer", () => {
    for (const [size, every] of [[1, 5], [1, 25], [1, 500], [1, 3000], [2, 600], [3, 2000], [9, 100]]) {
      assert.equal(hear(choose("auto"), pieces(300, size, every)), false, `${size} each ${every} ms`);
    }
  });

  test("does not show in a stutter of the network between answers that flow", () => {
    const choice = choose("auto");
    for (let round = 0; round < 10; round += 1) {
      const begin = 10_000 * round;
      assert.equal(hear(choice, [...pieces(2, 30, 900, begin), ...pieces(50, 1, 25, begin + 1000)]), false);
    }
  });

  test("on both ways is borne", () => {
    const choice = choose("auto");
    assert.equal(hear(choice, pieces(3, 20, 900)), true);
    choice.greeted();
    assert.equal(hear(choice, pieces(9, 20, 900, 50_000)), false);
    assert.equal(choice.transport, "events");
  });
});
