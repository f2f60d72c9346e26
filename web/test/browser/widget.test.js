// The widget in a real Chromium, on a page of another origin under a strict policy, with a real gateway.

import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe as group, test } from "node:test";

import { browser, Gateway, missing, Pages, PICTURES, strict, until } from "./stage.js";

const QUESTION = "Why is the sky blue?";

const KEY = "a key that is long enough for these tests";

/** A JSON Web Token (RFC 7519) for an hour. */
function tokenFor(sub, conversations) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const content = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, conversations, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
  return `${content}.${createHmac("sha256", KEY).update(content).digest("base64url")}`;
}

/** The HTML of an element, with its attributes in order. Runs in the page. */
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
    mkdirSync(PICTURES, { recursive: true });
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin, TOKENWIRE_DEMO_RATE: "100" });
    chromium = await browser();
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
    pages?.stop();
  });

  /** The tag as a site writes it. */
  const tag = (conversation, more = "data-open") =>
    `<script nonce="n0nce" async src="${gateway.url}/widget.js" ${conversation ? `data-conversation="${conversation}"` : ""} ${more}></script>`;

  /** A page with the widget, and what went wrong on it. */
  async function opened(path, body, { context, ready = true, ...settings } = {}) {
    const tab = await (context ?? (await chromium.newContext())).newPage();
    tab.faults = [];
    tab.foreign = [];
    tab.on("pageerror", (error) => tab.faults.push(error.message));
    tab.on("console", (message) => message.type() === "error" && tab.faults.push(message.text()));
    tab.on("request", (request) => {
      const { origin } = new URL(request.url());
      if (origin !== gateway.url && origin !== pages.origin) tab.foreign.push(request.url());
    });
    await tab.goto(pages.add(path, body, { policy: strict(gateway.url), ...settings }));
    if (ready) await tab.locator("textarea").first().waitFor();
    return tab;
  }

  const ask = async (tab, text) => {
    await tab.locator("textarea").fill(text);
    await tab.keyboard.press("Enter");
  };
  const lastAnswer = (tab) => tab.locator(".answer .text").last();
  const words = (tab) => lastAnswer(tab).innerText();
  const ended = (tab) => tab.locator(".halt").waitFor({ state: "hidden" });
  const history = async (conversation) => (await fetch(`${gateway.url}/v1/conversations/${conversation}`)).json();

  test("shows an answer in two tabs and a late third, and a stop in one ends it in all", async () => {
    const one = await opened("/one", tag("tabs"));
    const two = await opened("/two", tag("tabs"));
    // Longer than any machine takes to open a third tab; it is stopped.
    await ask(one, "/long 4000");
    await two.locator(".question").waitFor();
    assert.equal(await two.locator(".question .text").innerText(), "/long 4000");
    await until(async () => (await words(two)).length > 200);
    const three = await opened("/three", tag("tabs"));
    await until(async () => (await words(three)).length > 200);
    // The composer of every tab has Stop while the answer runs.
    for (const tab of [one, two, three]) await tab.locator(".halt").waitFor();

    const from = performance.now();
    await three.locator(".halt").click();
    await Promise.all([one, two, three].map((tab) => tab.locator(".note", { hasText: "Stopped" }).waitFor()));
    const took = performance.now() - from;
    assert.ok(took < 1000, `${Math.round(took)} ms`);

    const [text, ...others] = await Promise.all([one, two, three].map(words));
    assert.ok(text.length > 200);
    assert.deepEqual(others, [text, text]);
    for (const tab of [one, two, three]) {
      await tab.locator(".pill", { hasText: "Try again" }).waitFor();
      await tab.locator(".pill", { hasText: "Go on from here" }).waitFor();
    }
    await two.locator(".pill", { hasText: "Try again" }).click();
    await one.locator(".halt").waitFor();
    await one.locator(".halt").click();
    await Promise.all([one, two, three].map(ended));
    assert.equal(await one.locator(".answer").count(), 1);
    for (const tab of [one, two, three]) assert.deepEqual([tab.faults, tab.foreign], [[], []]);
    await Promise.all([one, two, three].map((tab) => tab.context().close()));
  });

  test("goes on after a reload, with the text that the log has", async () => {
    const tab = await opened("/reload", tag("reload"));
    await ask(tab, QUESTION);
    await until(async () => (await words(tab)).length > 60);
    for (let round = 0; round < 3; round += 1) {
      const shown = (await words(tab)).length;
      await tab.reload();
      await until(async () => (await lastAnswer(tab).count()) > 0 && (await words(tab)).length >= shown - 3);
    }
    await ended(tab);
    const { messages } = await history("reload");
    assert.deepEqual(
      messages.map(({ role }) => role),
      ["user", "assistant"],
    );
    // What stands there is what the whole text looks like on a page that never saw it come.
    const fresh = await opened("/fresh", tag("reload"));
    await fresh.locator(".answer .text figure").waitFor();
    await fresh.locator(".answer .keyword, .answer .call").first().waitFor();
    const [said, wanted] = await Promise.all([tab, fresh].map((each) => lastAnswer(each).evaluate(sorted)));
    assert.equal(said, wanted);
    assert.ok(messages[1].text.length > 300);
    assert.deepEqual([tab.faults, tab.foreign], [[], []]);
    await tab.context().close();
    await fresh.context().close();
  });

  test("sends what was written offline once, when it is back", async () => {
    const tab = await opened("/offline", tag("offline"));
    await ask(tab, "/long 40");
    // What can be done with an answer shows that it has come, and ended.
    await tab.locator(".answer .actions .action").first().waitFor();
    await tab.context().setOffline(true);
    await tab.locator(".line", { hasText: "offline" }).waitFor();
    await ask(tab, "/long 30");
    await tab.locator(".note", { hasText: "Sent once the connection is back" }).waitFor();
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

  test("can be used with the keyboard alone, from opening to trying again", async () => {
    const tab = await opened("/keys", `${tag("keys", "")}`, { ready: false });
    await tab.locator(".launcher").waitFor();
    const { keyboard } = tab;
    /** The name of what has the focus, through shadow roots. */
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
      assert.fail(`${name} is not reached; the focus is on ${await focused()}`);
    };
    await tabTo("Open the chat");
    await keyboard.press("Enter");
    await until(async () => (await focused()) === "Ask something");
    await keyboard.type("/long 4000");
    await keyboard.press("Enter");
    await tab.locator(".halt").waitFor();
    await tabTo("Stop");
    await keyboard.press("Enter");
    await tab.locator(".note", { hasText: "Stopped" }).waitFor();
    await until(async () => (await focused()) === "Ask something");
    await tabTo("Try again", "Shift+Tab");
    await keyboard.press("Enter");
    await tab.locator(".halt").waitFor();
    await until(async () => (await focused()) === "Ask something");
    await keyboard.press("Escape");
    await tab.locator(".panel").waitFor({ state: "hidden" });
    assert.equal(await focused(), "Open the chat");
    await tab.context().close();
  });

  test("never pulls a reader down who has scrolled up", async () => {
    const tab = await opened("/scroll", tag("scroll"));
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
    await tab.locator(".to-end.fresh").click();
    await until(() => log.evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 60));
    await tab.locator(".to-end").waitFor({ state: "hidden" });
    await tab.locator(".halt").click();
    await tab.context().close();
  });

  test("counts the answers that came while it was closed", async () => {
    const [asker, reader] = [await opened("/asker", tag("unread")), await opened("/reader", tag("unread"))];
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

  test("says aloud that an answer begins, some sentences, and that it ended: not every word", async () => {
    const tab = await opened("/said", tag("said"));
    await tab.evaluate(() => {
      globalThis.said = [];
      new MutationObserver((records) => {
        for (const { target, addedNodes } of records) {
          if (target.localName === "tokenwire-announcer")
            for (const node of addedNodes) globalThis.said.push(node.textContent);
          for (const node of addedNodes)
            if (node.localName === "tokenwire-announcer") globalThis.said.push(node.textContent);
        }
      }).observe(document.body, { childList: true, subtree: true });
    });
    await ask(tab, QUESTION);
    await tab.locator(".halt").waitFor();
    assert.equal(await tab.locator(".log").getAttribute("aria-busy"), "true");
    await ended(tab);
    assert.equal(await tab.locator(".log").getAttribute("aria-busy"), "false");
    const said = await tab.evaluate(() => globalThis.said);
    assert.equal(said[0], "Answering.");
    assert.match(said.at(-1), /Answer complete\.$/);
    assert.ok(said.length <= 4, said.join("\n"));
    assert.doesNotMatch(said.join(" "), /[*`#|]|https?:/);
    assert.equal(await tab.locator("tokenwire-announcer").count(), 1);
    await tab.context().close();
  });

  test("stands twice on one page, inline and floating, on one socket", async () => {
    const body = `<tokenwire-chat data-conversation="inline"></tokenwire-chat><script nonce="n0nce">(window.Tokenwire ||= []).push(["init", {conversation: "float", open: true, title: "Second"}]);</script>${tag("", "data-manual")}`;
    const tab = await (await chromium.newContext()).newPage();
    const sockets = [];
    tab.on("websocket", (socket) => sockets.push(socket.url()));
    await tab.goto(pages.add("/two-chats", body, { policy: strict(gateway.url) }));
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

  test("asks with a click, copies, answers anew, and begins another chat", async () => {
    const context = await chromium.newContext();
    await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: pages.origin });
    const tab = await opened(
      "/buttons",
      tag("", 'data-open data-debug data-prompts="Why is the sky blue? | /long 15"'),
      { context },
    );
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
    await tab.locator(".action[aria-label='Another answer']").click();
    await until(async () => !(await first.isVisible()));
    await tab.locator(".action[aria-label='Another answer']").waitFor();
    assert.deepEqual([await tab.locator(".question").count(), await tab.locator(".answer").count()], [1, 1]);

    await tab.locator(".tool[aria-label='New chat']").click();
    await tab.locator(".empty").waitFor();
    await tab.locator(".prompt").nth(1).click();
    await until(async () => (await tab.locator(".question .text").innerText()) === "/long 15");
    assert.deepEqual([tab.faults, tab.foreign], [[], []]);
    await context.close();
  });

  test("shows thoughts, a busy model and a failure in words, and goes on from a failure", async () => {
    const tab = await opened("/words", tag("words"));
    await ask(tab, "/think why");
    await tab.locator(".reasoning summary").click();
    await tab.locator(".reasoning > div", { hasText: "First what matters" }).waitFor();
    await ended(tab);
    await ask(tab, "/busy why");
    await tab.locator(".note", { hasText: "The model is busy. Asking again in 1 s" }).waitFor();
    await until(async () => (await tab.locator(".answer").count()) === 2 && (await words(tab)).length > 20);
    await ended(tab);
    await ask(tab, "/fail why");
    await tab
      .locator(".note[data-tone='wrong']", { hasText: "The answer failed: The demo was told to fail." })
      .waitFor();
    const partial = await words(tab);
    assert.ok(partial.length > 20);
    await tab.locator(".pill:visible", { hasText: "Go on from here" }).click();
    await until(
      async () => (await tab.locator(".answer").count()) === 3 && (await words(tab)).length >= partial.length,
    );
    await tab.context().close();
  });

  test("changes the document at most once a frame", async () => {
    const tab = await opened("/frames", tag("frames"));
    await ask(tab, "/long 900");
    await until(async () => (await words(tab)).length > 200);
    const most = await tab
      .locator(".answer .text")
      .last()
      .evaluate(async (text) => {
        let frame = 0;
        const changes = new Map();
        // Records of one change come together: they are handed over at the end of the task that made them.
        const observer = new MutationObserver(() => changes.set(frame, (changes.get(frame) ?? 0) + 1));
        observer.observe(text, { childList: true, characterData: true, subtree: true });
        while (frame < 40) {
          await new Promise(requestAnimationFrame);
          frame += 1;
        }
        return Math.max(...changes.values());
      });
    // The frame in which the counting stands may see the change before it and its own.
    assert.ok(most >= 1 && most <= 2, `${most} changes in a frame`);
    await tab.locator(".halt").click();
    await tab.context().close();
  });

  test("opens with a token, and without one says that there is none", async () => {
    const guarded = await Gateway.start({
      TOKENWIRE_ORIGINS: pages.origin,
      TOKENWIRE_AUTH: "jwt",
      TOKENWIRE_JWT_KEY: KEY,
    });
    try {
      const chat = (token) =>
        `<script nonce="n0nce" async src="${guarded.url}/widget.js" data-open data-conversation="c1" ${token}></script>`;
      const policy = strict(guarded.url);
      const tab = await opened("/token", chat(`data-token="${tokenFor("ada", ["c1"])}"`), { policy });
      await ask(tab, "/long 5");
      await tab.locator(".answer .actions .action").first().waitFor();
      const other = await opened("/no-token", chat(""), { policy });
      await other.locator(".line", { hasText: "Your session has ended" }).waitFor();
      await tab.context().close();
      await other.context().close();
    } finally {
      await guarded.stop();
    }
  });

  test("is an element of the package, too, for a page that is bundled", async () => {
    // On a server, where there are no elements, it can be imported all the same.
    const { TokenwireChat } = await import("../../dist/chat.js");
    assert.equal(typeof TokenwireChat, "function");
    const script = `import { connect } from "/package/tokenwire.js"; import "/package/chat.js";
      const chat = document.createElement("tokenwire-chat");
      chat.settings = { url: "${gateway.url}", conversation: "package", title: "Ours" };
      chat.addEventListener("tokenwire-message", ({ detail }) => (globalThis.heard ??= []).push(detail.role));
      document.body.append(chat);
      globalThis.same = connect({ url: "${gateway.url}" }).conversation("package") === chat.conversation;`;
    const policy = `${strict(gateway.url)}; script-src 'nonce-n0nce' 'self'`.replace("script-src 'nonce-n0nce';", "");
    const tab = await opened("/package", `<script type="module" nonce="n0nce">${script}</script>`, { policy });
    assert.equal(await tab.evaluate(() => globalThis.same), true);
    await ask(tab, QUESTION);
    await tab.locator(".answer .keyword, .answer .call").first().waitFor();
    await ended(tab);
    await until(() => tab.evaluate(() => globalThis.heard?.join() === "user,assistant"));
    await tab.evaluate(() => document.querySelector("tokenwire-chat").remove());
    assert.deepEqual([tab.faults, tab.foreign], [[], []]);
    await tab.context().close();
  });

  test("is pinned whole by the hash on its tag: a chunk that is another is not run", async () => {
    const bytes = Buffer.from(await (await fetch(`${gateway.url}/widget.js`)).arrayBuffer());
    const integrity = `sha384-${createHash("sha384").update(bytes).digest("base64")}`;
    const pinned = tag("pinned", `data-open integrity="${integrity}" crossorigin="anonymous"`);
    const tab = await opened("/pinned", pinned);
    await tab.locator(".empty").waitFor();
    assert.deepEqual(tab.faults, []);
    await tab.context().close();

    const context = await chromium.newContext();
    await context.route(/\/widget\/panel-/, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `globalThis.hacked = 1;${await response.text()}` });
    });
    const other = await opened("/tampered", pinned, { context, ready: false });
    await other.locator(".launcher[aria-expanded='false']").waitFor();
    await until(() => other.faults.some((fault) => fault.includes("could not be loaded")));
    assert.equal(await other.evaluate(() => globalThis.hacked), undefined);
    assert.equal(await other.locator(".panel").count(), 0);
    await context.close();
  });

  test("keeps the styles of the page out, and its own in", async () => {
    const noisy = `<style nonce="n0nce">* { color: red !important; font-size: 40px !important; display: inline !important } button { background: blue !important }</style>`;
    const policy = `${strict(gateway.url)}; style-src 'nonce-n0nce'`;
    const tab = await opened("/noisy", `${noisy}${tag("noisy")}`, { policy });
    const look = await tab
      .locator(".launcher")
      .evaluate((node) => [getComputedStyle(node).backgroundColor, getComputedStyle(node).display]);
    assert.deepEqual(look, ["rgb(11, 107, 87)", "grid"]);
    await tab.context().close();
  });

  test("tells a page that may not use it, in words", async () => {
    const other = await Pages.start();
    const context = await chromium.newContext();
    const tab = await context.newPage();
    await tab.goto(other.add("/forbidden", tag("x"), { policy: strict(gateway.url) }));
    await tab.locator(".line", { hasText: "This website may not use this chat." }).waitFor();
    await tab.locator(".line .pill", { hasText: "Try now" }).waitFor();
    await context.close();
    other.stop();
  });

  test("comes to the demonstration's page of another origin with nothing but its tag, under that page's policy", async () => {
    const demo = readFileSync(new URL("../../demo/embed.html", import.meta.url), "utf8").replaceAll(
      "127.0.0.1:8000",
      new URL(gateway.url).host,
    );
    pages.all.set("/embed.html", { body: demo });
    const context = await chromium.newContext({ viewport: { width: 1100, height: 800 } });
    const tab = await context.newPage();
    const faults = [];
    tab.on("pageerror", (error) => faults.push(error.message));
    tab.on(
      "console",
      (message) => message.type() === "error" && !/favicon/.test(message.location().url) && faults.push(message.text()),
    );
    await tab.goto(`${pages.origin}/embed.html`);
    await tab.locator(".launcher").click();
    await tab.locator(".prompt", { hasText: "Who reads the log?" }).click();
    await tab.locator(".answer figure").waitFor();
    await tab.locator(".halt").waitFor({ state: "hidden" });
    await tab.screenshot({ path: join(PICTURES, "embed.png") });
    assert.deepEqual(faults, []);
    await context.close();
  });

  test("can be driven by the page", async () => {
    const tab = await opened("/driven", `${tag("driven", "")}`, { ready: false });
    await tab.locator(".launcher").waitFor();
    await tab.evaluate(() => {
      globalThis.heard = [];
      for (const name of ["ready", "open", "close", "message"])
        globalThis.Tokenwire.on(name, (detail) => globalThis.heard.push([name, detail?.role]));
      globalThis.Tokenwire.open();
      globalThis.Tokenwire.send("/long 10");
    });
    await until(() => tab.evaluate(() => globalThis.heard.some(([, role]) => role === "assistant")));
    await tab.evaluate(() => globalThis.Tokenwire.close());
    const heard = await tab.evaluate(() => globalThis.heard);
    assert.deepEqual(heard, [
      ["ready", undefined],
      ["open", undefined],
      ["message", "user"],
      ["message", "assistant"],
      ["close", undefined],
    ]);
    await tab.context().close();
  });
});
