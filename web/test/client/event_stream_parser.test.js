// Tests of event_stream_parser.ts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventStreamParser } from "#src/client/event_stream_parser.js";

const STREAM =
  'id: 2-1~r1=1-3\ndata: {"type":"delta","text":"a\\n\\nb: c"}\n\n:\n\ndata: {"type":"heartbeat"}\n\nid: 2-2\ndata: 1\ndata: 2\n\n';
const EVENTS = [
  { id: "2-1~r1=1-3", data: '{"type":"delta","text":"a\\n\\nb: c"}' },
  { data: "" },
  { data: '{"type":"heartbeat"}' },
  { id: "2-2", data: "12" },
];

test("events do not depend on where the stream is cut", () => {
  for (const stream of [STREAM, STREAM.replaceAll("\n", "\r\n")]) {
    for (let cut = 0; cut <= stream.length; cut += 1) {
      const parser = new EventStreamParser();
      assert.deepEqual([...parser.push(stream.slice(0, cut)), ...parser.push(stream.slice(cut))], EVENTS);
    }
  }
});

test("events are parsed from single characters", () => {
  const parser = new EventStreamParser();
  assert.deepEqual(
    Array.from(STREAM).flatMap((character) => parser.push(character)),
    EVENTS,
  );
});

test("an incomplete event is not returned", () => {
  assert.deepEqual(new EventStreamParser().push("id: 1\ndata: x\n"), []);
});
