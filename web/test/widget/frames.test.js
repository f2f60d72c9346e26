// Tests of frames.ts.

import assert from "node:assert/strict";
import { beforeEach, describe as group, test } from "node:test";

import { Frames } from "#src/widget/frames.js";

/** A fake browser with animation frames and visibility; `time` is its clock. */
let callbacks, listeners, time;

function frame() {
  const due = callbacks;
  callbacks = new Map();
  for (const callback of due.values()) callback();
}

function setVisibility(visibilityState) {
  /** @type {any} */ (globalThis.document).visibilityState = visibilityState;
  for (const listener of listeners) listener();
}

beforeEach(() => {
  callbacks = new Map();
  listeners = new Set();
  time = 1000;
  let ids = 0;
  globalThis.requestAnimationFrame = (callback) => {
    callbacks.set((ids += 1), callback);
    return ids;
  };
  globalThis.cancelAnimationFrame = (id) => callbacks.delete(id);
  globalThis.document = /** @type {any} */ ({
    visibilityState: "visible",
    addEventListener: (_, listener) => listeners.add(listener),
    removeEventListener: (_, listener) => listeners.delete(listener),
  });
  Object.defineProperty(globalThis, "performance", { value: { now: () => time }, configurable: true });
});

group("frames", () => {
  test("many requests cause one draw", () => {
    let draws = 0;
    const frames = new Frames(() => (draws += 1));
    for (let count = 0; count < 100; count += 1) frames.request();
    assert.equal(draws, 0);
    frame();
    frame();
    assert.equal(draws, 1);
    frames.request();
    frame();
    assert.equal(draws, 2);
  });

  test("a hidden tab draws once when it becomes visible", () => {
    let draws = 0;
    const frames = new Frames(() => (draws += 1));
    setVisibility("hidden");
    for (let count = 0; count < 100; count += 1) frames.request();
    // A hidden tab gets no animation frames.
    assert.equal(draws, 0);
    setVisibility("visible");
    assert.equal(draws, 1);
    frame();
    assert.equal(draws, 1);
    setVisibility("hidden");
    setVisibility("visible");
    assert.equal(draws, 1);
  });

  test("slow draws leave time for input", () => {
    let draws = 0;
    const frames = new Frames(() => {
      draws += 1;
      time += 30;
    });
    for (let count = 0; count < 60; count += 1) {
      frames.request();
      frame();
      time += 16;
    }
    // A draw of 30 ms may take 30 % of the time, so there is one in 100 ms.
    assert.ok(draws >= 8 && draws <= 20, `${draws} of 60 frames`);
    assert.ok((draws * 30) / (time - 1000) < 0.4);
  });

  test("no draw happens after end()", () => {
    let draws = 0;
    const frames = new Frames(() => (draws += 1));
    frames.request();
    frames.end();
    frame();
    setVisibility("visible");
    assert.equal(draws, 0);
    assert.equal(listeners.size, 0);
  });
});
