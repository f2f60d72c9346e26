// Tests of token.ts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { tokenExpiry } from "#src/client/token.js";

const token = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;

test("the exp claim is returned in milliseconds", () => {
  assert.equal(tokenExpiry(token({ exp: 1_700_000_000 })), 1_700_000_000_000);
  assert.equal(tokenExpiry(token({ sub: "æ?>~ÿ", exp: 12 })), 12_000);
});

test("a token without a readable exp claim has no expiry", () => {
  for (const each of [null, "", "opaque", "a.b.c", token({}), token({ exp: "soon" }), token(null)]) {
    assert.equal(tokenExpiry(each), undefined, String(each));
  }
});
