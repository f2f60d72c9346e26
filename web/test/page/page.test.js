// The page at / in a real Chromium: what a person sees of the client, under the page's own strict policy.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, describe, test } from "node:test";

import { chromium } from "playwright-core";

import { endProcesses, name, Process } from "../live/house.js";

const CHROMIUM = [process.env.TOKENWIRE_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path && existsSync(path));

describe("the page", { skip: CHROMIUM === undefined && "there is no Chromium: name one in TOKENWIRE_CHROMIUM" }, () => {
  let gateway;
  let browser;
  const problems = [];

  before(async () => {
    gateway = await Process.start("run", "--store", "memory://", "--demo-rate", "60");
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  });
  after(async () => {
    await browser?.close();
    await endProcesses();
    assert.deepEqual(problems, []);
  });

  /** A tab of its own; whatever its console complains of is a failure. */
  async function open(id, context) {
    const page = await (context ?? (await browser.newContext())).newPage();
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    await page.goto(`${gateway.url}/#c=${id}`);
    return page;
  }

  async function ask(page, text) {
    await page.fill("#text", text);
    await page.press("#text", "Enter");
  }

  /** Wait until the only answer has so many characters, and return them. */
  async function answer(page, length = 1) {
    await page.waitForFunction((least) => (document.querySelector(".answer .text")?.textContent?.length ?? 0) >= least, length);
    return page.textContent(".answer .text");
  }

  async function ended(page) {
    await page.waitForSelector("#stop", { state: "hidden" });
    return page.textContent(".answer .text");
  }

  test("shows a question and its answer in every tab, whole, also in one that comes late", async () => {
    const id = name();
    const [one, two] = [await open(id), await open(id)];
    await two.waitForSelector("#empty:not([hidden])");
    await ask(one, "Why is the sky blue?");
    await answer(two, 20);
    const late = await open(id);
    await one.waitForSelector("#stop:not([hidden])");
    const texts = [];
    for (const page of [one, two, late]) texts.push(await ended(page));
    assert.equal(new Set(texts).size, 1);
    assert.ok(texts[0].length > 200);
    for (const page of [one, two, late]) {
      assert.equal(await page.locator(".question").count(), 1);
      assert.equal(await page.locator(".answer").count(), 1);
      await page.close();
    }
  });

  test("a reload in the middle shows at once what was there, and the answer goes on", async () => {
    const page = await open(name());
    await ask(page, "/long 150");
    const before = await answer(page, 200);
    await page.reload();
    // Before anything can have come from the gateway.
    assert.ok((await answer(page)).startsWith(before.slice(0, 150)));
    assert.ok((await ended(page)).length > before.length);
    await page.close();
  });

  test("what is written offline waits for the line, and is sent once", async () => {
    const context = await browser.newContext();
    const page = await open(name(), context);
    await page.waitForSelector('#line[data-line="live"]');
    await context.setOffline(true);
    await page.waitForSelector('#line[data-line="offline"]');
    await ask(page, "/limit");
    await page.waitForSelector(".question.pending");
    assert.match(await page.textContent(".question"), /Not sent yet/);
    await context.setOffline(false);
    await answer(page, 20);
    await ended(page);
    assert.equal(await page.locator(".question").count(), 1);
    assert.equal(await page.locator(".answer").count(), 1);
    problems.splice(0, problems.length, ...problems.filter((text) => !/ERR_INTERNET_DISCONNECTED/.test(text)));
    await context.close();
  });

  test("a stop in one tab is one in the other, with the text kept and a retry", async () => {
    const id = name();
    const [one, two] = [await open(id), await open(id)];
    await ask(one, "/long 2000");
    await answer(two, 50);
    await two.click("#stop");
    const kept = await ended(one);
    assert.equal(await ended(two), kept);
    assert.ok(kept.length >= 50);
    await one.click("text=Retry");
    await one.waitForSelector("#stop:not([hidden])");
    await two.waitForSelector("#stop:not([hidden])");
    await one.keyboard.press("Escape");
    await ended(two);
    assert.equal(await two.locator(".answer").count(), 1);
    await one.close();
    await two.close();
  });

  test("what is refused says why and can be edited", async () => {
    const page = await open(name());
    await page.waitForSelector('#line[data-line="live"]');
    // The page asks for a model that it was told of; another one is as if the operator had taken it away.
    await page.evaluate(() => document.querySelector("#model").add(new Option("gone", "gone", true, true)));
    await ask(page, "Who are you?");
    await page.waitForSelector("text=There is no such model.");
    await page.click("text=Edit");
    assert.equal(await page.inputValue("#text"), "Who are you?");
    assert.equal(await page.locator(".question").count(), 0);
    await page.close();
  });
});
