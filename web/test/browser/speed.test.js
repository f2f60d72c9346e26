// What a long answer costs the page: 45 kB are there, and 200 tokens a second more, on a processor slowed down four times.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { after, before, describe as group, test } from "node:test";

import { ANSWERS } from "../markdown/texts.js";
import { Gateway, Pages, browser, missing } from "./stage.js";

const CHUNK = readdirSync(new URL("../../dist/widget", import.meta.url)).find((name) => name.startsWith("markdown-"));

group("a long answer", { skip: missing }, () => {
  let gateway, pages, chromium;

  before(async () => {
    pages = await Pages.start();
    gateway = await Gateway.start();
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
    pages?.stop();
  });

  test("costs a frame no more at its end than at its beginning", async (context) => {
    const tab = await chromium.newPage();
    await tab.goto(pages.add("/speed", '<div id="here"></div>'));
    const devtools = await tab.context().newCDPSession(tab);
    await devtools.send("Emulation.setCPUThrottlingRate", { rate: 4 });
    const measured = await tab.evaluate(
      async ([module, text]) => {
        const { markdown } = await import(module);
        const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
        /** Milliseconds of work and between frames, while tokens of four characters come at 200 a second. */
        const stream = async (parent, view, more) => {
          const work = [];
          const gaps = [];
          let at = 0;
          let last = await frame();
          const from = performance.now();
          while (at < more.length) {
            const due = Math.floor(((performance.now() - from) / 1000) * 200) * 4;
            const begun = performance.now();
            if (due > at) view.write(more.slice(at, due));
            at = Math.max(at, due);
            // Layout is part of what a token costs.
            parent.getBoundingClientRect();
            work.push(performance.now() - begun);
            const now = await frame();
            gaps.push(now - last);
            last = now;
          }
          const sorted = (list) => list.sort((a, b) => a - b);
          const at_ = (list, share) => sorted(list)[Math.floor(share * (list.length - 1))];
          return { work: at_(work, 0.5), worst: at_(work, 0.95), gap: at_(gaps, 0.5), frames: (1000 * gaps.length) / (performance.now() - from) };
        };
        const here = document.getElementById("here");
        const begin = (length) => {
          const parent = document.createElement("div");
          here.replaceChildren(parent);
          const view = markdown(parent, {});
          while (length > 0) {
            view.write(text);
            length -= text.length;
          }
          return [parent, view];
        };
        const more = text.slice(0, 2400);
        await stream(...begin(1), more);
        const short = await stream(...begin(1), more);
        const long = await stream(...begin(48_000), more);
        return { short, long };
      },
      [`${gateway.url}/widget/${CHUNK}`, `${ANSWERS[0]}\n\n${ANSWERS[1]}\n\n`],
    );
    context.diagnostic(JSON.stringify(measured));
    const { short, long } = measured;
    assert.ok(long.work < 3 * short.work + 2, JSON.stringify(measured));
    assert.ok(long.work < 16, JSON.stringify(measured));
    await tab.close();
  });
});
