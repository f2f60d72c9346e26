// Tests of backoff.ts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { backoffDelay, MAX_BOUND_S, MIN_BOUND_S, reconnects } from "#src/client/backoff.js";

const ALMOST_ONE = 1 - Number.EPSILON / 2;

test("the bound starts at the minimum and doubles with each attempt", () => {
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5, 6].map((attempt) => backoffDelay(attempt, 0.5)),
    [0.125, 0.25, 0.5, 1, 2, 4, 8],
  );
  assert.ok(backoffDelay(0, ALMOST_ONE) < MIN_BOUND_S);
});

test("the bound stays at the maximum after many attempts", () => {
  for (const attempt of [7, 8, 20, 1000, 5000]) {
    assert.equal(backoffDelay(attempt, 0.5), MAX_BOUND_S / 2);
    assert.ok(backoffDelay(attempt, ALMOST_ONE) < MAX_BOUND_S);
  }
});

test("the jitter covers the range from zero to the bound", () => {
  for (let attempt = 0; attempt < 10; attempt += 1) assert.equal(backoffDelay(attempt, 0), 0);
  assert.equal(backoffDelay(3, 0.25), backoffDelay(3, 0.75) / 3);
});

test("close codes 4000 to 4999 prevent a reconnect", () => {
  for (const code of [4000, 4400, 4401, 4403, 4408, 4429, 4999]) assert.equal(reconnects(code), false, String(code));
});

test("every other close code allows a reconnect", () => {
  for (const code of [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 3000, 3999, 5000]) {
    assert.equal(reconnects(code), true, String(code));
  }
});
