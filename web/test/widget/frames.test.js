// One change a frame, and none in a tab that nobody sees.

import assert from "node:assert/strict";
import { beforeEach, describe as group, test } from "node:test";

import { Frames } from "../../.build/widget/frames.js";

/** A browser of which only the frames and the visibility are there; `time` is its clock. */
let callbacks, listeners, time;

function frame() {
  const due = callbacks;
  callbacks = new Map();
  for (const callback of due.values()) callback();
}

function become(visibilityState) {
  globalThis.document.visibilityState = visibilityState;
  for (const listener of listeners) listener();
}

beforeEach(() => {
  callbacks = new Map();
  listeners = new Set();
  time = 1000;
  let names = 0;
  globalThis.requestAnimationFrame = (callback) => {
    callbacks.set((names += 1), callback);
    return names;
  };
  globalThis.cancelAnimationFrame = (name) => callbacks.delete(name);
  globalThis.document = {
    visibilityState: "visible",
    addEventListener: (_, listener) => listeners.add(listener),
    removeEventListener: (_, listener) => listeners.delete(listener),
  };
  Object.defineProperty(globalThis, "performance", { value: { now: () => time }, configurable: true });
});

group("frames", () => {
  test("however often is asked, it is drawn once", () => {
    let drawn = 0;
    const frames = new Frames(() => (drawn += 1));
    for (let asked = 0; asked < 100; asked += 1) frames.ask();
    assert.equal(drawn, 0);
    frame();
    frame();
    assert.equal(drawn, 1);
    frames.ask();
    frame();
    assert.equal(drawn, 2);
  });

  test("what comes in a hidden tab is drawn when it is looked at, once", () => {
    let drawn = 0;
    const frames = new Frames(() => (drawn += 1));
    become("hidden");
    for (let asked = 0; asked < 100; asked += 1) frames.ask();
    // A browser gives no frames to a tab that is hidden.
    assert.equal(drawn, 0);
    become("visible");
    assert.equal(drawn, 1);
    frame();
    assert.equal(drawn, 1);
    become("hidden");
    become("visible");
    assert.equal(drawn, 1);
  });

  test("who takes long to draw leaves frames to the reader", () => {
    let drawn = 0;
    const frames = new Frames(() => {
      drawn += 1;
      time += 30;
    });
    for (let count = 0; count < 60; count += 1) {
      frames.ask();
      frame();
      time += 16;
    }
    // 30 ms of work may be 30 % of the time: one drawing in 100 ms.
    assert.ok(drawn >= 8 && drawn <= 20, `${drawn} of 60 frames`);
    assert.ok((drawn * 30) / (time - 1000) < 0.4);
  });

  test("nothing is drawn after the end", () => {
    let drawn = 0;
    const frames = new Frames(() => (drawn += 1));
    frames.ask();
    frames.end();
    frame();
    become("visible");
    assert.equal(drawn, 0);
    assert.equal(listeners.size, 0);
  });
});
