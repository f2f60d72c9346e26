// The README lists exactly the variables, parts, attributes and events of the code.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (name) => readFileSync(new URL(`../../widget/${name}`, import.meta.url), "utf8");
const README = read("README.md");
const STYLES = read("styles.ts");
const CODE = ["panel.ts", "launcher.ts", "composer.ts", "message_views.ts", "transcript_view.ts"].map(read).join("");

const found = (text, pattern) =>
  [...new Set([...text.matchAll(pattern)].flatMap((match) => match[1].split(" ")))].sort();

test("the README lists every variable", () => {
  assert.deepEqual(found(README, /`(--tokenwire-[\w-]+)`/g), found(STYLES, /var\((--tokenwire-[\w-]+)/g));
});

test("the README lists every part", () => {
  const parts = /`::part\(\)`s: ([\s\S]*?)\.\n/.exec(README)[1];
  assert.deepEqual(found(parts, /`([\w-]+)`/g), found(CODE, /part(?:: |\.add\()"([\w\s-]+)"/g));
});

test("the README lists every attribute", () => {
  const settings = read("settings.ts");
  const lists = [
    /for \(const name of \[(.*?)\]/.exec(settings)[1],
    /const \{ (.*?) \} = data/.exec(settings)[1].replace(/\w+/g, '"$&"'),
  ].join();
  assert.deepEqual(found(README, /`data-(\w+)`/g), [...found(lists, /"(\w+)"/g), "manual"].sort());
});

test("the README lists every event", () => {
  const events = /export type EventName = (.*);/.exec(read("launcher.ts"))[1];
  const listed = /Events:\s([\s\S]*?)\.\n/.exec(README)[1];
  assert.deepEqual(found(listed, /`(\w+)`/g), found(events, /"(\w+)"/g));
});
