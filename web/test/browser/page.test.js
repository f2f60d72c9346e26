// The page at /: the widget, three other clients and the frame log.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe as group, test } from "node:test";

import { browser, Gateway, missing, SCREENSHOTS, until } from "./fixture.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const LOOKS = {
  light: { colorScheme: "light", viewport: { width: 1440, height: 860 } },
  dark: { colorScheme: "dark", viewport: { width: 1440, height: 860 } },
  mobile: { viewport: { width: 390, height: 800 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

group("the page", { skip: missing }, () => {
  let gateway, chromium;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    gateway = await Gateway.start({ TOKENWIRE_DEMO_RATE: "60" });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
  });

  /** Open the page in a new browser context; record errors and warnings. */
  async function open(id, settings = {}, url = gateway.url) {
    const page = await (await chromium.newContext(settings)).newPage();
    page.errors = [];
    page.on("pageerror", (error) => page.errors.push(error.message));
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.errors.push(message.text()));
    await page.goto(`${url}/#c=${id}`);
    await page.locator("#chat textarea").waitFor();
    return page;
  }

  const ask = async (page, text) => {
    await page.locator("#chat textarea").fill(text);
    await page.locator("#chat textarea").press("Enter");
  };
  const answer = (page, selector) => page.locator(`${selector} .answer .text`).last().innerText();
  const ended = (page) => page.locator("#chat .stop").waitFor({ state: "hidden" });
  const allComplete = (page) =>
    until(async () =>
      (await page.locator("#tab output, #late output, #phone output").allTextContents()).every(
        (words) => words === "complete",
      ),
    );
  const history = async (id) => (await fetch(`${gateway.url}/v1/conversations/${id}`)).json();
  /** Return the rows of the frame log: type, sequence number, summary. */
  const rows = (page) =>
    page
      .locator("#frame-log li")
      .evaluateAll((all) =>
        all.map((row) => [
          row.querySelector(".type").textContent,
          Number(row.querySelector(".seq")?.textContent),
          row.querySelector(".summary")?.textContent,
        ]),
      );

  for (const [look, settings] of Object.entries(LOOKS)) {
    test(`shows one answer in every frame without axe violations, ${look}`, async () => {
      const page = await open(`frames-${look}`, settings);
      await page.locator("#tab .empty").waitFor();
      assert.equal(await page.locator("#late .later").count(), 1);
      await ask(page, "Why is the sky blue?");
      await page.locator("#late tokenwire-chat .answer figure").waitFor();
      await page.screenshot({ path: join(SCREENSHOTS, `page-${look}.png`), fullPage: look === "mobile" });
      await ended(page);
      await allComplete(page);
      const texts = await Promise.all(["#tab", "#late", "#phone"].map((selector) => answer(page, selector)));
      const expected = (await answer(page, "#chat")).replace(/\s+/g, "");
      for (const text of texts) assert.equal(text.replace(/\s+/g, ""), expected);
      const cursors = (await rows(page)).filter(([type]) => type === "delta").map(([, seq]) => seq);
      assert.ok(cursors.length > 20);
      assert.deepEqual(
        cursors,
        [...new Set(cursors)].sort((a, b) => a - b),
      );
      // Only one of the chats announces.
      assert.equal(await page.locator("tokenwire-announcer").count(), 1);
      assert.equal((await page.locator("tokenwire-announcer").innerText()).match(/Answer complete/g).length, 1);
      assert.deepEqual(page.errors, []);
      // The page's policy blocks the script of axe, so the debugger evaluates it.
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() =>
        globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
      );
      assert.deepEqual(
        violations.flatMap(({ id, nodes }) =>
          nodes.map(({ target, failureSummary }) => `${id}: ${target.join(" ")}: ${failureSummary}`),
        ),
        [],
      );
      await page.context().close();
    });
  }

  test("resumes with one delta after a disconnect", async () => {
    const page = await open("cut");
    await ask(page, "/long 500");
    await until(
      async () =>
        (await page.locator("#chat .answer .text").count()) === 1 && (await answer(page, "#chat")).length > 100,
    );
    await page.locator("#disconnect").click();
    await page.locator("#chat .connection", { hasText: "Connection lost" }).waitFor();
    const shown = (await answer(page, "#chat")).length;
    await until(async () => (await answer(page, "#tab")).length > shown + 300);
    assert.equal((await answer(page, "#chat")).length, shown);
    await page.screenshot({ path: join(SCREENSHOTS, "page-cut.png") });
    await page.locator("#disconnect").click();
    const after = await until(async () => {
      const all = await rows(page);
      const since = all.slice(all.findIndex(([type]) => type === "disconnected"));
      return since.some(([type]) => type === "delta") && since;
    });
    assert.deepEqual(
      after.slice(1, 3).map(([type]) => type),
      ["hello", "watch"],
    );
    assert.match(after[2][2], /^after .+, answer after /);
    assert.ok(after.find(([type]) => type === "delta")[2].length > 300);
    await ended(page);
    const { messages } = await history("cut");
    assert.equal((await answer(page, "#chat")).replace(/\s+/g, ""), messages[1].text.replace(/\s+|\*\*/g, ""));
    assert.deepEqual(page.errors, []);
    await page.context().close();
  });

  test("resumes after a reload and stops in every frame", async () => {
    const page = await open("reload");
    await ask(page, "/long 2000");
    await until(
      async () =>
        (await page.locator("#chat .answer .text").count()) === 1 && (await answer(page, "#chat")).length > 100,
    );
    const before = await answer(page, "#chat");
    await page.locator("#reload").click();
    await until(
      async () =>
        (await page.locator("#chat .answer .text").count()) === 1 &&
        (await answer(page, "#chat")).length > before.length,
    );
    assert.ok((await answer(page, "#chat")).startsWith(before.slice(0, -10)));
    await page.locator("#stop:enabled").click();
    for (const selector of ["#chat", "#tab", "#late", "#phone"])
      await page.locator(`${selector} .note`, { hasText: "Stopped" }).waitFor();
    assert.equal(await page.locator("#stop").isDisabled(), true);
    await page.context().close();
  });

  test("switches all frames to a new chat", async () => {
    const page = await (await chromium.newContext()).newPage();
    await page.goto(gateway.url);
    await ask(page, "/long 10");
    await ended(page);
    await allComplete(page);
    await page.locator("#chat [aria-label='New chat']").click();
    await page.locator("#tab .empty").waitFor();
    await page.locator("#late .later").waitFor();
    await ask(page, "/long 12");
    await ended(page);
    await allComplete(page);
    for (const selector of ["#chat", "#tab", "#late", "#phone"])
      assert.equal(await page.locator(`${selector} .question .text`).innerText(), "/long 12");
    await page.context().close();
  });

  test("resumes at the other gateway after a kill, twice", async () => {
    const folder = mkdtempSync(join(tmpdir(), "tokenwire-store-"));
    const cluster = await Gateway.start(
      { TOKENWIRE_STORE: `embedded://${folder}`, TOKENWIRE_DEMO_RATE: "80" },
      [],
      ["--gateways", "2"],
    );
    try {
      const page = await open("killed", {}, cluster.url);
      await ask(page, "/long 1500");
      const killed = [];
      for (let round = 0; round < 2; round += 1) {
        const length = (await page.locator("#chat .answer .text").count()) ? (await answer(page, "#chat")).length : 0;
        await until(
          async () =>
            (await page.locator("#chat .answer .text").count()) === 1 &&
            (await answer(page, "#chat")).length > length + 150,
        );
        await page.locator("#kill:enabled").click();
        killed.push(/\d+/.exec(await page.locator("#frame-log .note").last().innerText())[0]);
        await until(async () => {
          const words = await page.locator("#kill:enabled .words").allTextContents();
          return words.length === 1 && !words[0].includes(killed.at(-1));
        });
      }
      assert.notEqual(killed[0], killed[1]);
      await ended(page);
      await allComplete(page);
      const { messages } = await (await fetch(`${cluster.url}/v1/conversations/killed`)).json();
      const wanted = messages[1].text.replace(/\s+|\*\*/g, "");
      for (const selector of ["#chat", "#tab", "#late", "#phone"])
        assert.equal((await answer(page, selector)).replace(/\s+/g, ""), wanted);
      // The worker continued, so each gateway resumed from the cursor without a reset.
      assert.equal((await rows(page)).filter(([type]) => type === "reset").length, 0);
      await page.screenshot({ path: join(SCREENSHOTS, "page-killed.png") });
      await page.context().close();
    } finally {
      await cluster.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("shows a form if the gateway requires a token", async () => {
    const key = "a key that is long enough for these tests";
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const content = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: "u", conversations: ["mine"], exp: Math.floor(Date.now() / 1000) + 3600 })}`;
    const token = `${content}.${createHmac("sha256", key).update(content).digest("base64url")}`;
    const guarded = await Gateway.start({ TOKENWIRE_JWT_KEY: key });
    try {
      const page = await open("mine", {}, guarded.url);
      await page.locator("#token").fill(token);
      await page.locator("#entry button").click();
      await page.locator("#entry").waitFor({ state: "hidden" });
      await ask(page, "/long 10");
      await page.locator("#late .answer").waitFor();
      await ended(page);
      await page.context().close();
    } finally {
      await guarded.stop();
    }
  });
});
