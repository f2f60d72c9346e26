// Tests of backoff.ts: how long a client waits, and when it does not come back.

import assert from "node:assert/strict";
import { test } from "node:test";

import { BASE, CAP, delay, reconnects } from "../../.build/client/backoff.js";

const ALMOST_ONE = 1 - Number.EPSILON / 2;

test("the first wait is at most the base, and each further one may take twice as long", () => {
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5, 6].map((attempt) => delay(attempt, 0.5)),
    [0.125, 0.25, 0.5, 1, 2, 4, 8],
  );
  assert.ok(delay(0, ALMOST_ONE) < BASE);
});

test("no wait exceeds the cap, however many attempts there were", () => {
  for (const attempt of [7, 8, 20, 1000, 5000]) {
    assert.equal(delay(attempt, 0.5), CAP / 2);
    assert.ok(delay(attempt, ALMOST_ONE) < CAP);
  }
});

test("the jitter is full: any time from none to the bound", () => {
  for (let attempt = 0; attempt < 10; attempt += 1) assert.equal(delay(attempt, 0), 0);
  assert.equal(delay(3, 0.25), delay(3, 0.75) / 3);
});

test("codes from 4000 to 4999 say that a client would be refused again", () => {
  for (const code of [4000, 4400, 4401, 4403, 4408, 4429, 4999]) assert.equal(reconnects(code), false, String(code));
});

test("after every other code a client comes back", () => {
  for (const code of [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 3000, 3999, 5000]) {
    assert.equal(reconnects(code), true, String(code));
  }
});
