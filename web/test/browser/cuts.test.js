// The widget behind a line that is cut at random bytes, over and over. `CUTS=100` is the long form.

import assert from "node:assert/strict";
import { after, before, describe as group, test } from "node:test";

import { tidy, Wire } from "../live/house.js";
import { browser, Gateway, missing, Pages, until } from "./stage.js";

const CUTS = Number(process.env.CUTS ?? 12);

group("a line that is cut", { skip: missing }, () => {
  let gateway, pages, chromium;

  before(async () => {
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin, TOKENWIRE_DEMO_RATE: "100" });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await tidy();
    await gateway?.stop();
    pages?.stop();
  });

  test(`${CUTS} times at random bytes shows the text of the log, takes nothing back, and offers Stop while it runs`, {
    timeout: 600_000,
  }, async (context) => {
    const wire = await Wire.to(gateway.url);
    let cuts = 0;
    wire.onCut = () => {
      cuts += 1;
      // The handshake and the greeting have about 700 bytes: some cuts are in them.
      wire.left = cuts < CUTS ? Math.floor(Math.random() * (cuts % 4 ? 6000 : 900)) : Infinity;
    };
    const tab = await chromium.newPage();
    // What a reader would see go, or come twice: each text that is shown begins with the one that was shown before.
    await tab.addInitScript(() => {
      globalThis.taken = [];
      globalThis.unstoppable = 0;
      globalThis.grew = 0;
      const before = new WeakMap();
      const look = () => {
        requestAnimationFrame(look);
        const root = document.querySelector("tokenwire-widget")?.shadowRoot;
        for (const node of root?.querySelectorAll(".answer") ?? []) {
          const text = node.querySelector(".text")?.innerText.replace(/\s+/g, "") ?? "";
          const last = before.get(node) ?? "";
          // The last characters may be a mark that is not one yet.
          if (!text.startsWith(last.slice(0, -6))) globalThis.taken.push([last.slice(-40), text.slice(-40)]);
          if (text.length > last.length) globalThis.grew += 1;
          before.set(node, text);
        }
        const answers = [...(root?.querySelectorAll(".answer") ?? [])];
        const runs = answers.at(-1)?.matches(".writing");
        if (runs && root.querySelector(".halt").hidden) globalThis.unstoppable += 1;
      };
      requestAnimationFrame(look);
    });
    // The page itself comes on a line that nobody cuts; the chat's own is the one that is.
    await tab.goto(
      pages.add(
        "/cuts",
        `<script async src="${gateway.url}/widget.js" data-url="${wire.url}" data-conversation="cuts" data-open></script>`,
      ),
    );
    await tab.locator("textarea").waitFor();
    await until(async () => tab.locator(".dot[data-tone='good']").count());
    wire.left = 2000;
    let asked = 0;
    while (cuts < CUTS) {
      asked += 1;
      await tab.locator("textarea").fill(`/long 300 After ${cuts} cuts`);
      await tab.locator("textarea").press("Enter");
      const settled = async () =>
        (await tab.locator(".answer").count()) === asked &&
        !(await tab.locator(".halt").isVisible()) &&
        (await history()).length === 2 * asked;
      await until(settled, 60_000).catch(async (error) => {
        const [line, shown] = [await tab.locator(".line").textContent(), await tab.locator(".answer").count()];
        assert.fail(
          `${error.message}: ${JSON.stringify({ cuts, asked, shown, line, settled: (await history()).length, upgrades: wire.upgrades })}`,
        );
      });
    }
    async function history() {
      return (await (await fetch(`${gateway.url}/v1/conversations/cuts`)).json()).messages;
    }
    const messages = await history();
    const plain = (text) => text.replace(/\s+|\*\*/g, "");
    const wanted = messages.filter(({ role }) => role === "assistant").map(({ text }) => plain(text));
    await until(
      async () =>
        JSON.stringify((await tab.locator(".answer .text").allInnerTexts()).map(plain)) === JSON.stringify(wanted),
    );
    assert.deepEqual(await tab.evaluate(() => [globalThis.taken, globalThis.unstoppable]), [[], 0]);
    assert.ok((await tab.evaluate(() => globalThis.grew)) > 5 * asked, "it was watched while it grew");
    context.diagnostic(`${cuts} cuts in ${asked} answers`);
    await tab.close();
  });
});
