// The widget in Chromium, on a page of another origin with a strict policy, with a real gateway.

import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe as group, test } from "node:test";

import { browser, Gateway, missing, Pages, SCREENSHOTS, strictPolicy, until } from "./fixture.js";

const QUESTION = "Why is the sky blue?";

const KEY = "a key that is long enough for these tests";

/** Return a JSON Web Token (RFC 7519) that is valid for an hour. */
function tokenFor(sub, conversations) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const content = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, conversations, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
  return `${content}.${createHmac("sha256", KEY).update(content).digest("base64url")}`;
}

/** Return the HTML of an element with sorted attributes. Runs in the page. */
function sorted(element) {
  const shape = (node) => {
    if (node.nodeType === 3) return node.data;
    const attributes = [...node.attributes].map(({ name, value }) => ` ${name}=${JSON.stringify(value)}`).sort();
    return `<${node.localName}${attributes.join("")}>${[...node.childNodes].map(shape).join("")}</${node.localName}>`;
  };
  return shape(element);
}

group("the widget", { skip: missing }, () => {
  let gateway, pages, chromium;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin, TOKENWIRE_DEMO_RATE: "100" });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
    pages?.stop();
  });

  /** Return the script tag. */
  const tag = (conversation, more = "data-open") =>
    `<script nonce="n0nce" async src="${gateway.url}/widget.js" ${conversation ? `data-conversation="${conversation}"` : ""} ${more}></script>`;

  /** Open a page with the widget; record its errors and requests to other origins. */
  async function open(path, body, /** @type {any} */ { context, ready = true, ...settings } = {}) {
    const tab = await (context ?? (await chromium.newContext())).newPage();
    tab.errors = [];
    tab.foreign = [];
    tab.on("pageerror", (error) => tab.errors.push(error.message));
    tab.on("console", (message) => message.type() === "error" && tab.errors.push(message.text()));
    tab.on("request", (request) => {
      const { origin } = new URL(request.url());
      if (origin !== gateway.url && origin !== pages.origin) tab.foreign.push(request.url());
    });
    await tab.goto(pages.add(path, body, { policy: strictPolicy(gateway.url), ...settings }));
    if (ready) await tab.locator("textarea").first().waitFor();
    return tab;
  }

  const ask = async (tab, text) => {
    await tab.locator("textarea").fill(text);
    await tab.keyboard.press("Enter");
  };
  const lastAnswer = (tab) => tab.locator(".answer .text").last();
  const answerText = (tab) => lastAnswer(tab).innerText();
  const ended = (tab) => tab.locator(".stop").waitFor({ state: "hidden" });
  const history = async (conversation) => (await fetch(`${gateway.url}/v1/conversations/${conversation}`)).json();

  test("shows and stops an answer in three tabs", async () => {
    const one = await open("/one", tag("tabs"));
    const two = await open("/two", tag("tabs"));
    // Long enough to open a third tab on a slow machine.
    await ask(one, "/long 4000");
    await two.locator(".question").waitFor();
    assert.equal(await two.locator(".question .text").innerText(), "/long 4000");
    await until(async () => (await answerText(two)).length > 200);
    const three = await open("/three", tag("tabs"));
    await until(async () => (await answerText(three)).length > 200);
    // Every tab shows Stop while the answer is open.
    for (const tab of [one, two, three]) await tab.locator(".stop").waitFor();

    await three.locator(".stop").click();
    await Promise.all([one, two, three].map((tab) => tab.locator(".note", { hasText: "Stopped" }).waitFor()));

    const [text, ...others] = await Promise.all([one, two, three].map(answerText));
    assert.ok(text.length > 200);
    assert.deepEqual(others, [text, text]);
    for (const tab of [one, two, three]) {
      await tab.locator(".pill", { hasText: "Try again" }).waitFor();
      await tab.locator(".pill", { hasText: "Continue" }).waitFor();
    }
    await two.locator(".pill", { hasText: "Try again" }).click();
    await one.locator(".stop").waitFor();
    await one.locator(".stop").click();
    await Promise.all([one, two, three].map(ended));
    assert.equal(await one.locator(".answer").count(), 1);
    for (const tab of [one, two, three]) assert.deepEqual([tab.errors, tab.foreign], [[], []]);
    await Promise.all([one, two, three].map((tab) => tab.context().close()));
  });

  test("resumes an answer after reloads", async () => {
    const tab = await open("/reload", tag("reload"));
    await ask(tab, QUESTION);
    await until(async () => (await answerText(tab)).length > 60);
    for (let round = 0; round < 3; round += 1) {
      const shown = (await answerText(tab)).length;
      await tab.reload();
      await until(async () => (await lastAnswer(tab).count()) > 0 && (await answerText(tab)).length >= shown - 3);
    }
    await ended(tab);
    const { messages } = await history("reload");
    assert.deepEqual(
      messages.map(({ role }) => role),
      ["user", "assistant"],
    );
    // The result equals a page that loaded the complete text.
    const fresh = await open("/fresh", tag("reload"));
    await fresh.locator(".answer .text figure").waitFor();
    await fresh.locator(".answer .keyword, .answer .call").first().waitFor();
    const [resumed, complete] = await Promise.all([tab, fresh].map((each) => lastAnswer(each).evaluate(sorted)));
    assert.equal(resumed, complete);
    assert.ok(messages[1].text.length > 300);
    assert.deepEqual([tab.errors, tab.foreign], [[], []]);
    await tab.context().close();
    await fresh.context().close();
  });

  test("sends a message that was written offline once", async () => {
    const tab = await open("/offline", tag("offline"));
    await ask(tab, "/long 40");
    // The buttons of an answer appear after its end.
    await tab.locator(".answer .actions .action").first().waitFor();
    await tab.context().setOffline(true);
    await tab.locator(".connection", { hasText: "offline" }).waitFor();
    await ask(tab, "/long 30");
    await tab.locator(".note", { hasText: "Sent after the reconnect" }).waitFor();
    await tab.context().setOffline(false);
    await until(async () => (await tab.locator(".answer").count()) === 2);
    await ended(tab);
    const { messages } = await history("offline");
    assert.deepEqual(
      messages.map(({ text }) => text).filter((text) => text.startsWith("/")),
      ["/long 40", "/long 30"],
    );
    await tab.context().close();
  });

  test("can be used with the keyboard alone", async () => {
    const tab = await open("/keys", `${tag("keys", "")}`, { ready: false });
    await tab.locator(".launcher").waitFor();
    const { keyboard } = tab;
    /** Return the name of the focused element, also in shadow roots. */
    const focused = () =>
      tab.evaluate(() => {
        let element = document.activeElement;
        while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
        return element?.ariaLabel || element?.getAttribute("aria-label") || element?.textContent || element?.localName;
      });
    const tabTo = async (name, key = "Tab") => {
      for (let presses = 0; presses < 25; presses += 1) {
        if ((await focused()) === name) return;
        await keyboard.press(key);
      }
      assert.fail(`Tab did not reach ${name}; the focus is on ${await focused()}`);
    };
    await tabTo("Open the chat");
    await keyboard.press("Enter");
    await until(async () => (await focused()) === "Ask something");
    await keyboard.type("/long 4000");
    await keyboard.press("Enter");
    await tab.locator(".stop").waitFor();
    await tabTo("Stop");
    await keyboard.press("Enter");
    await tab.locator(".note", { hasText: "Stopped" }).waitFor();
    await until(async () => (await focused()) === "Ask something");
    await tabTo("Try again", "Shift+Tab");
    await keyboard.press("Enter");
    await tab.locator(".stop").waitFor();
    await until(async () => (await focused()) === "Ask something");
    await keyboard.press("Escape");
    await tab.locator(".panel").waitFor({ state: "hidden" });
    assert.equal(await focused(), "Open the chat");
    await tab.context().close();
  });

  test("keeps the scroll position after the user scrolled up", async () => {
    const tab = await open("/scroll", tag("scroll"));
    await ask(tab, "/long 4000");
    const log = tab.locator(".log");
    await until(() => log.evaluate((node) => node.scrollHeight > node.clientHeight + 400));
    assert.ok(await log.evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 60));
    await log.hover();
    await tab.mouse.wheel(0, -300);
    await tab.locator(".to-end").waitFor();
    const [top, height] = await log.evaluate((node) => [node.scrollTop, node.scrollHeight]);
    await until(() => log.evaluate((node, before) => node.scrollHeight > before + 200, height));
    assert.equal(await log.evaluate((node) => node.scrollTop), top);
    await tab.locator(".to-end.has-new").click();
    await until(() => log.evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 60));
    await tab.locator(".to-end").waitFor({ state: "hidden" });
    await tab.locator(".stop").click();
    await tab.context().close();
  });

  test("counts unread answers while closed", async () => {
    const [asker, reader] = [await open("/asker", tag("unread")), await open("/reader", tag("unread"))];
    await reader.locator(".log").waitFor();
    await reader.keyboard.press("Escape");
    await reader.locator(".panel").waitFor({ state: "hidden" });
    await ask(asker, "/long 20");
    await reader.locator(".badge", { hasText: "1" }).waitFor();
    assert.equal(await reader.locator(".launcher").getAttribute("aria-label"), "Open the chat, 1 unread");
    await reader.locator(".launcher").click();
    await reader.locator(".badge").waitFor({ state: "hidden" });
    await asker.context().close();
    await reader.context().close();
  });

  test("announces the start, sentences and end of an answer", async () => {
    const tab = await open("/announcements", tag("announcements"));
    await tab.evaluate(() => {
      globalThis.announcements = [];
      new MutationObserver((/** @type {any[]} */ records) => {
        for (const { target, addedNodes } of records) {
          if (target.localName === "tokenwire-announcer")
            for (const node of addedNodes) globalThis.announcements.push(node.textContent);
          for (const node of addedNodes)
            if (node.localName === "tokenwire-announcer") globalThis.announcements.push(node.textContent);
        }
      }).observe(document.body, { childList: true, subtree: true });
    });
    await ask(tab, QUESTION);
    await tab.locator(".stop").waitFor();
    assert.equal(await tab.locator(".log").getAttribute("aria-busy"), "true");
    await ended(tab);
    assert.equal(await tab.locator(".log").getAttribute("aria-busy"), "false");
    const announcements = await tab.evaluate(() => globalThis.announcements);
    assert.equal(announcements[0], "Answering.");
    assert.match(announcements.at(-1), /Answer complete\.$/);
    assert.ok(announcements.length <= 4, announcements.join("\n"));
    assert.doesNotMatch(announcements.join(" "), /[*`#|]|https?:/);
    assert.equal(await tab.locator("tokenwire-announcer").count(), 1);
    await tab.context().close();
  });

  test("uses one socket for an inline and a floating chat", async () => {
    const body = `<tokenwire-chat data-conversation="inline"></tokenwire-chat><script nonce="n0nce">(window.Tokenwire ||= []).push(["init", {conversation: "float", open: true, title: "Second"}]);</script>${tag("", "data-manual")}`;
    const tab = await (await chromium.newContext()).newPage();
    const sockets = [];
    tab.on("websocket", (socket) => sockets.push(socket.url()));
    await tab.goto(pages.add("/two-chats", body, { policy: strictPolicy(gateway.url) }));
    const inline = tab.locator("tokenwire-chat");
    const floating = tab.locator("tokenwire-widget");
    await inline.locator("textarea").fill("/long 20");
    await inline.locator("textarea").press("Enter");
    await floating.locator("textarea").fill("/think hello");
    await floating.locator("textarea").press("Enter");
    await inline.locator(".answer .actions .action").first().waitFor();
    await floating.locator(".answer .actions .action").first().waitFor();
    assert.equal(await inline.locator(".question .text").innerText(), "/long 20");
    assert.equal(await floating.locator(".question .text").innerText(), "/think hello");
    await floating.locator(".reasoning summary").waitFor();
    assert.equal(sockets.length, 1);
    await tab.context().close();
  });

  test("handles prompts, copy, regenerate and new chat", async () => {
    const context = await chromium.newContext();
    await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: pages.origin });
    const tab = await open("/buttons", tag("", 'data-open data-debug data-prompts="Why is the sky blue? | /long 15"'), {
      context,
    });
    await tab.locator(".prompt").nth(0).click();
    await tab.locator(".action[aria-label='Copy']").waitFor();
    const clipboard = () => tab.evaluate(() => navigator.clipboard.readText());
    await tab.locator(".action[aria-label='Copy']").click();
    await tab.locator(".action.done[aria-label='Copied']").waitFor();
    assert.match(await clipboard(), /^#/);
    await tab.locator(".copy-code").first().click();
    await tab.locator(".copy-code.copied").waitFor();
    assert.equal(await clipboard(), await tab.locator(".answer pre code").first().textContent());
    assert.match(
      await tab.locator(".facts").innerText(),
      /^first token \d+ ms · \d+ characters in \d+ frames · .* complete$/,
    );

    const first = await tab.locator(".answer").elementHandle();
    await tab.locator(".action[aria-label='Regenerate']").click();
    await until(async () => !(await first.isVisible()));
    await tab.locator(".action[aria-label='Regenerate']").waitFor();
    assert.deepEqual([await tab.locator(".question").count(), await tab.locator(".answer").count()], [1, 1]);

    await tab.locator(".tool[aria-label='New chat']").click();
    await tab.locator(".empty").waitFor();
    await tab.locator(".prompt").nth(1).click();
    await until(async () => (await tab.locator(".question .text").innerText()) === "/long 15");
    assert.deepEqual([tab.errors, tab.foreign], [[], []]);
    await context.close();
  });

  test("shows reasoning, a busy model and a failure", async () => {
    const tab = await open("/words", tag("words"));
    await ask(tab, "/think why");
    await tab.locator(".reasoning summary").click();
    await tab.locator(".reasoning > div", { hasText: "First what matters" }).waitFor();
    await ended(tab);
    await ask(tab, "/busy why");
    await tab.locator(".note", { hasText: "The model is busy. Retrying in 1 s" }).waitFor();
    await until(async () => (await tab.locator(".answer").count()) === 2 && (await answerText(tab)).length > 20);
    await ended(tab);
    await ask(tab, "/fail why");
    await tab.locator(".note[data-tone='wrong']", { hasText: "The answer failed: " }).waitFor();
    const partial = await answerText(tab);
    assert.ok(partial.length > 20);
    await tab.locator(".pill:visible", { hasText: "Continue" }).click();
    await until(
      async () => (await tab.locator(".answer").count()) === 3 && (await answerText(tab)).length >= partial.length,
    );
    await tab.context().close();
  });

  test("changes the DOM at most once for each animation frame", async () => {
    const tab = await open("/frames", tag("frames"));
    await ask(tab, "/long 900");
    await until(async () => (await answerText(tab)).length > 200);
    const changesPerFrame = await tab
      .locator(".answer .text")
      .last()
      .evaluate(async (text) => {
        let frame = 0;
        const changes = new Map();
        // An observer gets all records of one task together.
        const observer = new MutationObserver(() => changes.set(frame, (changes.get(frame) ?? 0) + 1));
        observer.observe(text, { childList: true, characterData: true, subtree: true });
        while (frame < 40) {
          await new Promise(requestAnimationFrame);
          frame += 1;
        }
        return Math.max(...changes.values());
      });
    // A frame can contain its own change and the one before.
    assert.ok(changesPerFrame >= 1 && changesPerFrame <= 2, `${changesPerFrame} changes in one frame`);
    await tab.locator(".stop").click();
    await tab.context().close();
  });

  test("requires a token if the gateway does", async () => {
    const guarded = await Gateway.start({
      TOKENWIRE_ORIGINS: pages.origin,
      TOKENWIRE_AUTH: "jwt",
      TOKENWIRE_JWT_KEY: KEY,
    });
    try {
      const chat = (token) =>
        `<script nonce="n0nce" async src="${guarded.url}/widget.js" data-open data-conversation="c1" ${token}></script>`;
      const policy = strictPolicy(guarded.url);
      const tab = await open("/token", chat(`data-token="${tokenFor("ada", ["c1"])}"`), { policy });
      await ask(tab, "/long 5");
      await tab.locator(".answer .actions .action").first().waitFor();
      const other = await open("/no-token", chat(""), { policy });
      await other.locator(".connection", { hasText: "Your session has expired" }).waitFor();
      await tab.context().close();
      await other.context().close();
    } finally {
      await guarded.stop();
    }
  });

  test("works as an element of the npm package", async () => {
    // The module can be imported in Node, where there are no elements.
    const { TokenwireChat } = await import("#dist/chat.js");
    assert.equal(typeof TokenwireChat, "function");
    const script = `import { connect } from "/package/tokenwire.js"; import "/package/chat.js";
      const chat = document.createElement("tokenwire-chat");
      chat.settings = { url: "${gateway.url}", conversation: "package", title: "Ours" };
      chat.addEventListener("tokenwire-message", ({ detail }) => (globalThis.received ??= []).push(detail.role));
      document.body.append(chat);
      globalThis.same = connect({ url: "${gateway.url}" }).conversation("package") === chat.conversation;`;
    const policy = `${strictPolicy(gateway.url)}; script-src 'nonce-n0nce' 'self'`.replace(
      "script-src 'nonce-n0nce';",
      "",
    );
    const tab = await open("/package", `<script type="module" nonce="n0nce">${script}</script>`, { policy });
    assert.equal(await tab.evaluate(() => globalThis.same), true);
    await ask(tab, QUESTION);
    await tab.locator(".answer .keyword, .answer .call").first().waitFor();
    await ended(tab);
    await until(() => tab.evaluate(() => globalThis.received?.join() === "user,assistant"));
    await tab.evaluate(() => document.querySelector("tokenwire-chat").remove());
    assert.deepEqual([tab.errors, tab.foreign], [[], []]);
    await tab.context().close();
  });

  test("does not run a modified chunk with integrity on its tag", async () => {
    const bytes = Buffer.from(await (await fetch(`${gateway.url}/widget.js`)).arrayBuffer());
    const integrity = `sha384-${createHash("sha384").update(bytes).digest("base64")}`;
    const pinned = tag("pinned", `data-open integrity="${integrity}" crossorigin="anonymous"`);
    const tab = await open("/pinned", pinned);
    await tab.locator(".empty").waitFor();
    assert.deepEqual(tab.errors, []);
    await tab.context().close();

    const context = await chromium.newContext();
    await context.route(/\/widget\/panel-/, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `globalThis.hacked = 1;${await response.text()}` });
    });
    const other = await open("/tampered", pinned, { context, ready: false });
    await other.locator(".launcher[aria-expanded='false']").waitFor();
    await until(() => other.errors.some((fault) => fault.includes("could not be loaded")));
    assert.equal(await other.evaluate(() => globalThis.hacked), undefined);
    assert.equal(await other.locator(".panel").count(), 0);
    await context.close();
  });

  test("believes only the script element that runs", async () => {
    // Elements of a comment take the names of the document's and the window's properties.
    const clobbering = `<img name="currentScript" src="https://attacker.example/x/picture" alt=""><a id="Tokenwire"></a>`;
    const tab = await open("/clobbered", `${clobbering}${tag("clobbered", "data-open")}`);
    await tab.locator(".empty").waitFor();
    assert.deepEqual(tab.foreign, ["https://attacker.example/x/picture"]);
    await tab.context().close();
  });

  test("is isolated from the styles of the page", async () => {
    const noisy = `<style nonce="n0nce">* { color: red !important; font-size: 40px !important; display: inline !important } button { background: blue !important }</style>`;
    const policy = `${strictPolicy(gateway.url)}; style-src 'nonce-n0nce'`;
    const tab = await open("/noisy", `${noisy}${tag("noisy")}`, { policy });
    const look = await tab
      .locator(".launcher")
      .evaluate((node) => [getComputedStyle(node).backgroundColor, getComputedStyle(node).display]);
    assert.deepEqual(look, ["rgb(11, 107, 87)", "grid"]);
    await tab.context().close();
  });

  test("shows an error on a page of a forbidden origin", async () => {
    const other = await Pages.start();
    const context = await chromium.newContext();
    const tab = await context.newPage();
    await tab.goto(other.add("/forbidden", tag("x"), { policy: strictPolicy(gateway.url) }));
    await tab.locator(".connection", { hasText: "This website is not allowed to use this chat." }).waitFor();
    await tab.locator(".connection .pill", { hasText: "Try now" }).waitFor();
    await context.close();
    other.stop();
  });

  test("runs on the demo page of another origin", async () => {
    const demo = readFileSync(new URL("../../demo/embed.html", import.meta.url), "utf8").replaceAll(
      "127.0.0.1:8000",
      new URL(gateway.url).host,
    );
    pages.all.set("/embed.html", { body: demo });
    const context = await chromium.newContext({ viewport: { width: 1100, height: 800 } });
    const tab = await context.newPage();
    const errors = [];
    tab.on("pageerror", (error) => errors.push(error.message));
    tab.on(
      "console",
      (message) => message.type() === "error" && !/favicon/.test(message.location().url) && errors.push(message.text()),
    );
    await tab.goto(`${pages.origin}/embed.html`);
    await tab.locator(".launcher").click();
    await tab.locator(".prompt", { hasText: "What is a log?" }).click();
    await tab.locator(".answer figure").waitFor();
    await tab.locator(".stop").waitFor({ state: "hidden" });
    await tab.screenshot({ path: join(SCREENSHOTS, "embed.png") });
    assert.deepEqual(errors, []);
    await context.close();
  });

  test("is controlled by the JavaScript API", async () => {
    const tab = await open("/driven", `${tag("driven", "")}`, { ready: false });
    await tab.locator(".launcher").waitFor();
    await tab.evaluate(() => {
      globalThis.received = [];
      for (const name of ["ready", "open", "close", "message"])
        globalThis.Tokenwire.on(name, (detail) => globalThis.received.push([name, detail?.role]));
      globalThis.Tokenwire.open();
      globalThis.Tokenwire.send("/long 10");
    });
    await until(() => tab.evaluate(() => globalThis.received.some(([, role]) => role === "assistant")));
    await tab.evaluate(() => globalThis.Tokenwire.close());
    const received = await tab.evaluate(() => globalThis.received);
    assert.deepEqual(received, [
      ["ready", undefined],
      ["open", undefined],
      ["message", "user"],
      ["message", "assistant"],
      ["close", undefined],
    ]);
    await tab.context().close();
  });
});
