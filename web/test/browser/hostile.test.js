// Attack texts in Chromium, on a page whose policy would allow scripts of the gateway. Every request is recorded.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { after, before, describe as group, test } from "node:test";

import { HOSTILE } from "../markdown/hostile.js";
import { browser, Gateway, missing, Pages } from "./fixture.js";

const CHUNK = readdirSync(new URL("../../served/widget", import.meta.url)).find((name) => name.startsWith("markdown-"));

group("hostile answers", { skip: missing }, () => {
  let gateway, pages, chromium;

  before(async () => {
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
    pages?.stop();
  });

  for (const [name, policy] of /** @type {[string, (() => string) | undefined][]} */ ([
    ["without a policy", undefined],
    [
      "under a strict policy",
      () => `default-src 'none'; script-src ${gateway.url}; require-trusted-types-for 'script'; trusted-types 'none'`,
    ],
  ])) {
    test(`run no script and send no request, ${name}`, async () => {
      const context = await chromium.newContext();
      const tab = await context.newPage();
      const requests = [];
      const errors = [];
      await context.route(/.*/, (route) => {
        const { origin } = new URL(route.request().url());
        if (origin === gateway.url || origin === pages.origin) return route.continue();
        requests.push(route.request().url());
        return route.abort();
      });
      tab.on("dialog", (dialog) => errors.push(`dialog ${dialog.message()}`));
      tab.on("pageerror", (error) => errors.push(error.message));
      tab.on("framenavigated", (frame) => frame !== tab.mainFrame() && errors.push(`frame ${frame.url()}`));
      tab.on("console", (message) => message.type() === "error" && errors.push(message.text()));
      const address = pages.add("/hostile", '<div id="here"></div>', { policy: policy?.() });
      await tab.goto(address);
      await tab.evaluate(
        async ([module, texts, everywhere]) => {
          const { markdown } = await import(module);
          const here = document.getElementById("here");
          // Split at every index. The element is removed again, but its effects would remain.
          for (const text of everywhere ? texts : []) {
            for (let at = 0; at <= text.length; at += 1) {
              const parent = document.createElement("div");
              here.append(parent);
              const view = markdown(parent, {});
              view.write(text.slice(0, at));
              view.write(text.slice(at));
              view.end();
              globalThis.splits = (globalThis.splits ?? 0) + 1;
              if (
                parent.querySelector(
                  "script, img, iframe, object, embed, link, style, form, input, svg, video, audio, base, meta, [style], [src], [srcset]",
                )
              )
                throw new Error(text);
              parent.remove();
            }
          }
          for (const text of texts) {
            const parent = document.createElement("div");
            here.append(parent);
            const view = markdown(parent, {});
            for (let at = 0; at < text.length; at += 3) view.write(text.slice(at, at + 3));
            view.end();
            // Hover over everything, like a curious user, without opening links.
            for (const element of parent.querySelectorAll("*")) {
              element.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
              if (!element.matches("button.image")) element.dispatchEvent(new FocusEvent("focus"));
            }
          }
        },
        [`${gateway.url}/widget/${CHUNK}`, HOSTILE, policy !== undefined],
      );
      // Every effect has started within two frames.
      await tab.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
      assert.equal(await tab.locator("#here > div").count(), HOSTILE.length);
      if (policy)
        assert.equal(
          await tab.evaluate(() => globalThis.splits),
          HOSTILE.reduce((sum, text) => sum + text.length + 1, 0),
        );
      assert.equal(await tab.evaluate(() => globalThis.hacked), undefined);
      assert.equal(tab.url(), address);
      assert.equal(
        await tab
          .locator(
            "#here :is(script, img, iframe, object, embed, link, style, form, input, svg, video, audio, base, meta)",
          )
          .count(),
        0,
      );
      assert.deepEqual([requests, errors], [[], []]);
      await context.close();
    });
  }
});
