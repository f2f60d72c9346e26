// Tests of token.ts: when a token expires.

import assert from "node:assert/strict";
import { test } from "node:test";

import { expiry } from "../../.build/client/token.js";

const token = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;

test("a token says when it expires", () => {
  assert.equal(expiry(token({ exp: 1_700_000_000 })), 1_700_000_000_000);
  assert.equal(expiry(token({ sub: "æ?>~ÿ", exp: 12 })), 12_000);
});

test("or it does not, whatever it is", () => {
  for (const each of [null, "", "opaque", "a.b.c", token({}), token({ exp: "soon" }), token(null)]) {
    assert.equal(expiry(each), undefined, String(each));
  }
});
