// Every state of the widget, without axe violations. Screenshots are in web/.screenshots/. The gateway is a script, because
// a real one cannot hold every state for a screenshot.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, describe as group, test } from "node:test";

import { browser, Gateway, missing, Pages, SCREENSHOTS } from "./fixture.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const ANSWER = `Light from the sun is scattered by the **air**, and *blue* is scattered most: its waves are short.

1. Sunlight holds every colour.
2. Air scatters short waves about \`5.5\` times as much as long ones.
3. So blue comes from every side, and the rest straight on.

| colour | wavelength | scattered |
|---|--:|--:|
| blue | 450 nm | 100 % |
| green | 530 nm | 52 % |
| red | 680 nm | 19 % |

\`\`\`python
def scattered(wavelength: float) -> float:
    """How much of the light leaves its way."""
    return (450 / wavelength) ** 4  # Rayleigh, 1871
\`\`\`

More in [an article](https://example.com/sky), and here is ![a prism](https://pictures.example/prism.png).`;

const ARABIC = `السماء زرقاء لأن **الهواء** يشتت الضوء *الأزرق* أكثر من غيره.

1. ضوء الشمس يحوي كل الألوان.
2. الموجات القصيرة تتشتت أكثر، نحو \`5.5\` مرات.

| اللون | الطول |
|---|--:|
| أزرق | 450 |
| أحمر | 680 |`;

const question = { id: "m1", role: "user", text: "Why is the sky blue?" };
const open = (fields) => ({
  response: "r1",
  cursor: "1-1",
  model: "default",
  attempt: 1,
  text: "",
  replies_to: "m1",
  ...fields,
});
const settled = (fields) => ({
  id: "m2",
  role: "assistant",
  response: "r1",
  replies_to: "m1",
  text: ANSWER,
  reason: "complete",
  ...fields,
});

/** A state: the frames after `watch`, and the closing of the socket. @type {Record<string, any>} */
const STATES = {
  empty: {},
  question: { messages: [question], responses: [open({ state: "queued" })] },
  waiting: {
    messages: [question],
    responses: [open({ state: "waiting" })],
    later: [{ type: "status", response: "r1", state: "waiting", retry_in: 8 }],
  },
  thinking: {
    messages: [question],
    responses: [open({ state: "running", reasoning: "The question is about scattering." })],
  },
  writing: { messages: [question], responses: [open({ state: "running", text: ANSWER.slice(0, 330) })] },
  recovering: { messages: [question], responses: [open({ state: "recovering", text: ANSWER.slice(0, 180) })] },
  answered: { messages: [question, settled()] },
  stopped: { messages: [question, settled({ text: ANSWER.slice(0, 120), reason: "stopped", retryable: true })] },
  failed: {
    messages: [
      question,
      settled({
        text: ANSWER.slice(0, 120),
        reason: "failed",
        retryable: true,
        error: { code: "demo_failed", message: "the model broke off." },
      }),
    ],
  },
  closed: { close: [4403, "this page may not connect"] },
  reconnecting: {
    messages: [question, settled({ text: ANSWER.slice(0, 330) })],
    close: [1012, "restart"],
    refuse: true,
  },
};

const LOOKS = {
  light: { context: { colorScheme: "light", viewport: { width: 900, height: 800 } } },
  dark: {
    context: { colorScheme: "dark", viewport: { width: 900, height: 800 } },
    only: ["empty", "writing", "answered", "stopped", "failed", "reconnecting"],
  },
  mobile: {
    context: { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 },
    only: ["empty", "answered", "recovering", "stopped"],
  },
  rtl: {
    context: { viewport: { width: 900, height: 800 } },
    dir: "rtl",
    lang: "ar",
    only: ["empty", "answered", "stopped"],
  },
};

const TEXTS = {
  title: "المحادثة",
  greeting: "كيف يمكنني مساعدتك؟",
  promise: "الإجابات لا تضيع: أعد تحميل الصفحة أو افتح نافذة أخرى وتستمر من حيث كانت.",
  placeholder: "اسأل شيئًا",
  stopped: "توقفت",
  retry: "حاول مرة أخرى",
  goOn: "أكمل من هنا",
  copy: "نسخ",
};

group("every state", { skip: missing }, () => {
  let gateway, pages, chromium;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
    pages?.stop();
  });

  /** Open a page with a scripted gateway in this state. */
  async function openState(context, { messages = [], responses = [], later = [], close, refuse }, look, dir, lang) {
    const tab = await context.newPage();
    let sockets = 0;
    await tab.routeWebSocket(/\/v1\/ws$/, (socket) => {
      sockets += 1;
      if (refuse && sockets > 1) return void socket.close({ code: 1013, reason: "too many" });
      socket.onMessage((data) => {
        const frame = JSON.parse(data);
        const send = (...frames) => frames.forEach((each) => socket.send(JSON.stringify(each)));
        if (frame.type === "hello") {
          if (close?.[0] >= 4000) return void socket.close({ code: close[0], reason: close[1] });
          send({ type: "ready", session: "s1", heartbeat: 20, limits: { text: 32_000 }, models: ["default"] });
        }
        if (frame.type !== "watch") return;
        const { conversation } = frame;
        send(
          { type: "watching", conversation, cursor: "0-0", resumed: false },
          { type: "snapshot", conversation, cursor: "3-1", messages, responses },
          ...later,
        );
        if (close) setTimeout(() => socket.close({ code: close[0], reason: close[1] }), 400);
      });
    });
    await tab.route(/\/v1\/conversations\//, (route) => (refuse ? route.abort() : route.fallback()));
    const settings = {
      open: true,
      conversation: "states",
      title: "Ask Tokenwire",
      prompts: ["Why is the sky blue?", "Compare three ways to keep a promise", "Write a function that waits"],
      ...look,
    };
    // Without a policy, because the test injects the script of axe.
    const body = `<script>(window.Tokenwire ||= []).push(["init", ${JSON.stringify(settings)}])</script><script async data-manual src="${gateway.url}/widget.js"></script>`;
    await tab.goto(pages.add("/state", body, { dir, lang }));
    await tab.locator("textarea").waitFor();
    return tab;
  }

  for (const [look, { context: settings, only, dir = "ltr", lang = "en" }] of Object.entries(LOOKS)) {
    for (const [name, state] of Object.entries(STATES)) {
      if (only && !only.includes(name)) continue;
      test(`${name}, ${look}`, async () => {
        const context = await chromium.newContext(settings);
        const arabic =
          dir === "rtl"
            ? {
                ...state,
                messages: state.messages?.map((message) => ({
                  ...message,
                  text: message.role === "user" ? "لماذا السماء زرقاء؟" : ARABIC,
                })),
              }
            : state;
        const tab = await openState(
          context,
          arabic,
          dir === "rtl" ? { texts: TEXTS, title: TEXTS.title, prompts: ["لماذا السماء زرقاء؟"] } : {},
          dir,
          lang,
        );
        const expected = {
          empty: ".empty",
          closed: '.connection[data-tone="wrong"]',
          reconnecting: '.connection[data-tone="warning"]',
        }[name];
        await tab.locator(expected ?? ".question").waitFor();
        if (["writing", "answered"].includes(name)) await tab.locator(".answer table").waitFor();
        if (name === "answered" && dir === "ltr") await tab.locator(".answer .keyword").first().waitFor();
        // Wait for the opening animation.
        await tab
          .locator(".panel")
          .evaluate((panel) => Promise.all(panel.getAnimations().map(({ finished }) => finished)));
        await tab.screenshot({ path: join(SCREENSHOTS, `${look}-${name}.png`) });
        await tab.evaluate(AXE);
        const examine = () =>
          tab.evaluate(() =>
            globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
          );
        const describe = (violations) =>
          violations.flatMap(({ id, nodes }) =>
            nodes.map(({ target, failureSummary }) => `${id}: ${target.join(" ")}: ${failureSummary}`),
          );
        // An element that fades in has too little contrast at first.
        const deadline = Date.now() + 3000;
        let { violations, passes } = await examine();
        while (violations.length > 0 && Date.now() < deadline) ({ violations, passes } = await examine());
        const found = describe(violations);
        assert.deepEqual(found, []);
        assert.ok(passes.length > 10);
        await context.close();
      });
    }
  }
});
