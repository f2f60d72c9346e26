// The widget behind a proxy that disconnects at random bytes. `TOKENWIRE_DISCONNECTS=100` is the long form.

import assert from "node:assert/strict";
import { after, before, describe as group, test } from "node:test";

import { closeAll, FaultProxy } from "../live/cluster.js";
import { browser, Gateway, missing, Pages, until } from "./fixture.js";

const DISCONNECTS = Number(process.env.TOKENWIRE_DISCONNECTS ?? 12);

group("the widget behind a failing connection", { skip: missing }, () => {
  let gateway, pages, chromium;

  before(async () => {
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin, TOKENWIRE_DEMO_RATE: "100" });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await closeAll();
    await gateway?.stop();
    pages?.stop();
  });

  test(`shows complete answers despite ${DISCONNECTS} disconnects`, {
    timeout: 600_000,
  }, async (context) => {
    const proxy = await FaultProxy.start(gateway.url);
    let disconnects = 0;
    proxy.onDisconnect = () => {
      disconnects += 1;
      // Handshake and `ready` have about 700 bytes, so some disconnects happen there.
      proxy.bytesLeft =
        disconnects < DISCONNECTS ? Math.floor(Math.random() * (disconnects % 4 ? 6000 : 900)) : Infinity;
    };
    const tab = await chromium.newPage();
    // Detect removed or repeated text: each shown text must start with the one before.
    await tab.addInitScript(() => {
      globalThis.removed = [];
      globalThis.withoutStop = 0;
      globalThis.grew = 0;
      const before = new WeakMap();
      const check = () => {
        requestAnimationFrame(check);
        const root = document.querySelector("tokenwire-widget")?.shadowRoot;
        for (const node of root?.querySelectorAll(".answer") ?? []) {
          const shownText = /** @type {HTMLElement | null} */ (node.querySelector(".text"));
          const text = shownText?.innerText.replace(/\s+/g, "") ?? "";
          const last = before.get(node) ?? "";
          // The last characters may be incomplete markup.
          if (!text.startsWith(last.slice(0, -6))) globalThis.removed.push([last.slice(-40), text.slice(-40)]);
          if (text.length > last.length) globalThis.grew += 1;
          before.set(node, text);
        }
        const answers = [...(root?.querySelectorAll(".answer") ?? [])];
        const runs = answers.at(-1)?.matches(".writing");
        if (runs && /** @type {HTMLElement} */ (root.querySelector(".stop")).hidden) globalThis.withoutStop += 1;
      };
      requestAnimationFrame(check);
    });
    // Only the connection of the chat goes through the proxy.
    await tab.goto(
      pages.add(
        "/disconnects",
        `<script async src="${gateway.url}/widget.js" data-url="${proxy.url}" data-conversation="disconnects" data-open></script>`,
      ),
    );
    await tab.locator("textarea").waitFor();
    await until(async () => tab.locator(".dot[data-tone='good']").count());
    proxy.bytesLeft = 2000;
    let questions = 0;
    while (disconnects < DISCONNECTS) {
      questions += 1;
      await tab.locator("textarea").fill(`/long 300 After ${disconnects} disconnects`);
      await tab.locator("textarea").press("Enter");
      const settled = async () =>
        (await tab.locator(".answer").count()) === questions &&
        !(await tab.locator(".stop").isVisible()) &&
        (await history()).length === 2 * questions;
      await until(settled, 60_000).catch(async (error) => {
        const [status, shown] = [await tab.locator(".connection").textContent(), await tab.locator(".answer").count()];
        assert.fail(
          `${error.message}: ${JSON.stringify({ disconnects, questions, shown, status, settled: (await history()).length, upgrades: proxy.upgrades })}`,
        );
      });
    }
    async function history() {
      return (await (await fetch(`${gateway.url}/v1/conversations/disconnects`)).json()).messages;
    }
    const messages = await history();
    const plain = (text) => text.replace(/\s+|\*\*/g, "");
    const wanted = messages.filter(({ role }) => role === "assistant").map(({ text }) => plain(text));
    await until(
      async () =>
        JSON.stringify((await tab.locator(".answer .text").allInnerTexts()).map(plain)) === JSON.stringify(wanted),
    );
    assert.deepEqual(await tab.evaluate(() => [globalThis.removed, globalThis.withoutStop]), [[], 0]);
    assert.ok((await tab.evaluate(() => globalThis.grew)) > 5 * questions, "the text was observed while it grew");
    context.diagnostic(`${disconnects} disconnects in ${questions} answers`);
    await tab.close();
  });
});
