// Tests of connection_core.ts: events in, effects and states out.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { ConnectionCore } from "#src/client/connection_core.js";
import { chooseTransport } from "#src/client/transport_choice.js";

const ABNORMAL_CLOSURE = 1006;
const READY = { type: "ready", heartbeat: 20 };

/** A core with a clock that the test sets, and a log of its effects. */
class Harness {
  now = 1000;
  random = 0.5;
  online = true;
  visible = true;
  connected = false;

  constructor(/** @type {any} */ { transport = "websocket", refreshable = false } = {}) {
    this.core = new ConnectionCore(chooseTransport(transport), refreshable);
  }

  get state() {
    return this.core.state;
  }

  handle(event) {
    const { now, random, online, visible, connected } = this;
    const effects = this.core.handle(event, { now, wallClock: 1e12 + now, random, online, visible, connected });
    if (effects.transport) this.connected = effects.transport === "open";
    return effects;
  }

  receive(frame) {
    return this.handle({ type: "received", frame });
  }

  closed(code, reason = "") {
    return this.handle({ type: "closed", code, reason });
  }

  /** Connect and receive `ready`. */
  live() {
    this.handle({ type: "begin" });
    this.receive(READY);
    return this;
  }
}

const OPEN = { transport: "open", timer: 10_000 };

describe("begin", () => {
  test("opens a transport once", () => {
    const harness = new Harness();
    assert.deepEqual(harness.handle({ type: "begin" }), OPEN);
    assert.deepEqual(harness.state, { name: "connecting" });
    assert.deepEqual(harness.handle({ type: "begin" }), {});
  });

  test("does nothing after the end", () => {
    const harness = new Harness();
    assert.deepEqual(harness.handle({ type: "end" }), { transport: "close" });
    for (const type of ["begin", "reconnect", "online"]) assert.deepEqual(harness.handle({ type }), {});
    assert.deepEqual(harness.state, { name: "closed", code: 1000, reason: "" });
  });
});

describe("liveness", () => {
  test("a connection without ready is lost after ten seconds", () => {
    const harness = new Harness();
    harness.handle({ type: "begin" });
    harness.now += 10_000;
    assert.deepEqual(harness.handle({ type: "timer" }), { transport: "close", timer: 125 });
    assert.equal(harness.state.name, "reconnecting");
  });

  test("ready starts the heartbeat timeout", () => {
    const harness = new Harness();
    harness.handle({ type: "begin" });
    assert.deepEqual(harness.receive(READY), { timer: 50_000 });
    assert.deepEqual(harness.state, { name: "live", transport: "websocket" });
  });

  test("data moves the next check", () => {
    const harness = new Harness().live();
    harness.now += 30_000;
    assert.deepEqual(harness.receive(null), {});
    harness.now += 20_000;
    assert.deepEqual(harness.handle({ type: "timer" }), { timer: 30_000 });
    harness.now += 30_000;
    assert.equal(harness.handle({ type: "timer" }).transport, "close");
  });

  test("a visible page uses the shorter timeout", () => {
    const harness = new Harness().live();
    harness.now += 24_999;
    assert.deepEqual(harness.handle({ type: "visible" }), { timer: 1 });
    harness.now += 1;
    assert.equal(harness.handle({ type: "visible" }).transport, "close");
  });
});

describe("after a close", () => {
  test("the delay doubles until watching arrives", () => {
    const harness = new Harness().live();
    const delays = [];
    for (let round = 0; round < 4; round += 1) {
      delays.push(harness.closed(1012).timer);
      assert.deepEqual(harness.handle({ type: "timer" }), OPEN);
      harness.receive(READY);
    }
    assert.deepEqual(delays, [125, 250, 500, 1000]);
    harness.receive({ type: "watching" });
    assert.equal(harness.closed(1012).timer, 125);
  });

  test("the state has the attempt and the time of the next one", () => {
    const harness = new Harness().live();
    harness.closed(1012);
    assert.deepEqual(harness.state, { name: "reconnecting", attempt: 1, at: 1e12 + 1125 });
  });

  test("the state is offline while the browser is", () => {
    const harness = new Harness().live();
    harness.online = false;
    assert.equal(harness.handle({ type: "offline" }).transport, "close");
    assert.equal(harness.state.name, "offline");
    assert.deepEqual(harness.handle({ type: "offline" }), {});
  });

  test("a 4xxx code is final until reconnect", () => {
    const harness = new Harness().live();
    assert.deepEqual(harness.closed(4403, "origin"), { transport: "close" });
    assert.deepEqual(harness.state, { name: "closed", code: 4403, reason: "origin" });
    for (const type of ["online", "visible", "offline"]) assert.deepEqual(harness.handle({ type }), {});
    assert.deepEqual(harness.handle({ type: "reconnect" }), OPEN);
  });

  test("a rejected token is replaced once", () => {
    const harness = new Harness({ refreshable: true });
    harness.handle({ type: "begin" });
    assert.equal(harness.closed(4401).timer, 125);
    harness.handle({ type: "timer" });
    assert.equal(harness.closed(4401).timer, undefined);
    assert.equal(harness.state.name, "closed");
  });

  test("a rejected fixed token is final", () => {
    const harness = new Harness();
    harness.handle({ type: "begin" });
    assert.equal(harness.closed(4401).timer, undefined);
  });

  test("online and visible connect immediately", () => {
    for (const type of ["online", "visible"]) {
      const harness = new Harness().live();
      harness.closed(ABNORMAL_CLOSURE);
      assert.deepEqual(harness.handle({ type }), OPEN);
    }
  });
});

describe("a request of the gateway", () => {
  test("moving reconnects at a random time within the limit", () => {
    const harness = new Harness().live();
    assert.deepEqual(harness.receive({ type: "moving", within: 8 }), { timer: 4000 });
    assert.deepEqual(harness.handle({ type: "visible" }), {});
    harness.now += 4000;
    assert.deepEqual(harness.handle({ type: "timer" }), OPEN);
  });

  test("moving keeps its time if the connection closes before", () => {
    const harness = new Harness().live();
    harness.receive({ type: "moving", within: 8 });
    harness.now += 1000;
    assert.equal(harness.closed(1012).timer, 3000);
  });

  for (const code of ["overloaded", "too_many", "too_fast"]) {
    test(`${code} sets the time of the reconnect`, () => {
      const harness = new Harness();
      harness.handle({ type: "begin" });
      assert.deepEqual(harness.receive({ type: "error", code, retry_after: 7 }), {});
      assert.equal(harness.closed(1013).timer, 7000);
    });
  }

  test("a refused watch of an open connection sets no time, and the connection is still checked", () => {
    const harness = new Harness().live();
    harness.receive({ type: "error", code: "overloaded", conversation: "c1", retry_after: 7 });
    assert.notDeepEqual(harness.handle({ type: "timer" }), {});
    assert.notEqual(harness.closed(1006).timer, 7000);
  });

  test("a refused request of an open connection sets no time", () => {
    const harness = new Harness().live();
    harness.receive({ type: "error", code: "too_fast", retry_after: 7 });
    assert.notEqual(harness.closed(1006).timer, 7000);
  });
});

describe("a transport switch", () => {
  test("follows two failed attempts", () => {
    const harness = new Harness({ transport: "auto" });
    harness.handle({ type: "begin" });
    for (let attempt = 0; attempt < 2; attempt += 1) {
      harness.closed(ABNORMAL_CLOSURE);
      harness.handle({ type: "timer" });
    }
    harness.receive(READY);
    assert.deepEqual(harness.state, { name: "live", transport: "events" });
  });

  test("opens another transport if a proxy buffers, but not on a hidden page", () => {
    for (const visible of [true, false]) {
      const harness = new Harness({ transport: "auto" }).live();
      harness.visible = visible;
      const opened = [];
      for (let batch = 0; batch < 3; batch += 1) {
        harness.now += 900;
        for (let count = 0; count < 4; count += 1) opened.push(harness.receive({ type: "delta" }).transport);
      }
      assert.equal(opened.at(-1), visible ? "open" : undefined);
    }
  });
});
