// The page at /, under its own policy: the widget, and the same answer in four frames that are clients of their own.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe as group, test } from "node:test";

import { browser, Gateway, missing, PICTURES, until } from "./stage.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const LOOKS = {
  light: { colorScheme: "light", viewport: { width: 1440, height: 860 } },
  dark: { colorScheme: "dark", viewport: { width: 1440, height: 860 } },
  mobile: { viewport: { width: 390, height: 800 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

group("the page", { skip: missing }, () => {
  let gateway, chromium;

  before(async () => {
    mkdirSync(PICTURES, { recursive: true });
    gateway = await Gateway.start({ TOKENWIRE_DEMO_RATE: "60" });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
  });

  /** The page in a browser of its own, and what its console complains of. */
  async function opened(id, settings = {}, url = gateway.url) {
    const page = await (await chromium.newContext(settings)).newPage();
    page.faults = [];
    page.on("pageerror", (error) => page.faults.push(error.message));
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.faults.push(message.text()));
    await page.goto(`${url}/#c=${id}`);
    await page.locator("#chat textarea").waitFor();
    return page;
  }

  const ask = async (page, text) => {
    await page.locator("#chat textarea").fill(text);
    await page.locator("#chat textarea").press("Enter");
  };
  const answer = (page, place) => page.locator(`${place} .answer .text`).last().innerText();
  const ended = (page) => page.locator("#chat .halt").waitFor({ state: "hidden" });
  const whole = (page) =>
    until(async () =>
      (await page.locator("#tab output, #late output, #phone output").allTextContents()).every(
        (words) => words === "whole",
      ),
    );
  const history = async (id) => (await fetch(`${gateway.url}/v1/conversations/${id}`)).json();
  /** Rows of the wire: type, the cursor's own number, the rest. */
  const rows = (page) =>
    page
      .locator("#wire li")
      .evaluateAll((all) =>
        all.map((row) => [
          row.querySelector(".type").textContent,
          Number(row.querySelector(".seq")?.textContent),
          row.querySelector(".said")?.textContent,
        ]),
      );

  for (const [look, settings] of Object.entries(LOOKS)) {
    test(`shows one answer in the chat and in every frame, with nothing for axe to find, ${look}`, async () => {
      const page = await opened(`frames-${look}`, settings);
      await page.locator("#tab .empty").waitFor();
      assert.equal(await page.locator("#late .later").count(), 1);
      await ask(page, "Why is the sky blue?");
      await page.locator("#late tokenwire-chat .answer figure").waitFor();
      await page.screenshot({ path: join(PICTURES, `page-${look}.png`), fullPage: look === "mobile" });
      await ended(page);
      await whole(page);
      const texts = await Promise.all(["#tab", "#late", "#phone"].map((place) => answer(page, place)));
      const said = (await answer(page, "#chat")).replace(/\s+/g, "");
      for (const text of texts) assert.equal(text.replace(/\s+/g, ""), said);
      const cursors = (await rows(page)).filter(([type]) => type === "delta").map(([, seq]) => seq);
      assert.ok(cursors.length > 20);
      assert.deepEqual(
        cursors,
        [...new Set(cursors)].sort((a, b) => a - b),
      );
      // One of these chats speaks.
      assert.equal(await page.locator("tokenwire-announcer").count(), 1);
      assert.equal((await page.locator("tokenwire-announcer").innerText()).match(/Answer complete/g).length, 1);
      assert.deepEqual(page.faults, []);
      // The page's policy lets no script of axe in; evaluated by the debugger, it is none of the page's.
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

  test("cut off, it goes on with one delta from where it was, and shows the text of the log", async () => {
    const page = await opened("cut");
    await ask(page, "/long 500");
    await until(
      async () =>
        (await page.locator("#chat .answer .text").count()) === 1 && (await answer(page, "#chat")).length > 100,
    );
    await page.locator("#cut").click();
    await page.locator("#chat .line", { hasText: "Connection lost" }).waitFor();
    const shown = (await answer(page, "#chat")).length;
    await until(async () => (await answer(page, "#tab")).length > shown + 300);
    assert.equal((await answer(page, "#chat")).length, shown);
    await page.screenshot({ path: join(PICTURES, "page-cut.png") });
    await page.locator("#cut").click();
    const after = await until(async () => {
      const all = await rows(page);
      const since = all.slice(all.findIndex(([type]) => type === "the network is cut"));
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
    assert.deepEqual(page.faults, []);
    await page.context().close();
  });

  test("reloaded in the middle, it goes on; stopped from another tab, it is stopped in all", async () => {
    const page = await opened("reload");
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
    for (const place of ["#chat", "#tab", "#late", "#phone"])
      await page.locator(`${place} .note`, { hasText: "Stopped" }).waitFor();
    assert.equal(await page.locator("#stop").isDisabled(), true);
    await page.context().close();
  });

  test("has another conversation in all frames after New chat", async () => {
    const page = await (await chromium.newContext()).newPage();
    await page.goto(gateway.url);
    await ask(page, "/long 10");
    await ended(page);
    await whole(page);
    await page.locator("#chat [aria-label='New chat']").click();
    await page.locator("#tab .empty").waitFor();
    await page.locator("#late .later").waitFor();
    await ask(page, "/long 12");
    await ended(page);
    await whole(page);
    for (const place of ["#chat", "#tab", "#late", "#phone"])
      assert.equal(await page.locator(`${place} .question .text`).innerText(), "/long 12");
    await page.context().close();
  });

  test("its gateway killed, it goes on at the other one, with nothing shown twice, and again when that one is killed", async () => {
    const folder = mkdtempSync(join(tmpdir(), "tokenwire-store-"));
    const house = await Gateway.start(
      { TOKENWIRE_STORE: `embedded://${folder}`, TOKENWIRE_DEMO_RATE: "80" },
      [],
      ["--gateways", "2"],
    );
    try {
      const page = await opened("killed", {}, house.url);
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
        killed.push(/\d+/.exec(await page.locator("#wire .note").last().innerText())[0]);
        await until(async () => {
          const words = await page.locator("#kill:enabled .words").allTextContents();
          return words.length === 1 && !words[0].includes(killed.at(-1));
        });
      }
      assert.notEqual(killed[0], killed[1]);
      await ended(page);
      await whole(page);
      const { messages } = await (await fetch(`${house.url}/v1/conversations/killed`)).json();
      const wanted = messages[1].text.replace(/\s+|\*\*/g, "");
      for (const place of ["#chat", "#tab", "#late", "#phone"])
        assert.equal((await answer(page, place)).replace(/\s+/g, ""), wanted);
      // The worker went on writing: each gateway resumed from the cursor, and none began anew.
      assert.equal((await rows(page)).filter(([type]) => type === "reset").length, 0);
      await page.screenshot({ path: join(PICTURES, "page-killed.png") });
      await page.context().close();
    } finally {
      await house.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("asks for a token where the gateway wants one", async () => {
    const key = "a key that is long enough for these tests";
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const content = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: "u", conversations: ["mine"], exp: Math.floor(Date.now() / 1000) + 3600 })}`;
    const token = `${content}.${createHmac("sha256", key).update(content).digest("base64url")}`;
    const guarded = await Gateway.start({ TOKENWIRE_JWT_KEY: key });
    try {
      const page = await opened("mine", {}, guarded.url);
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
