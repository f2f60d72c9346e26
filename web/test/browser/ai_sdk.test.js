// `useChat` of the AI SDK over Tokenwire, in React's StrictMode.

import assert from "node:assert/strict";
import { dirname } from "node:path";
import { after, before, describe as group, test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { browser, Gateway, missing, Pages, until } from "./fixture.js";

const APP = `
import { Chat, useChat } from "@ai-sdk/react";
import { StrictMode, createElement as h, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { TokenwireTransport } from "../../dist/ai-sdk.js";
import { connect } from "../../dist/tokenwire.js";

const transport = new TokenwireTransport(connect({ url: GATEWAY }));
const id = new URL(location).searchParams.get("id");

function App() {
  const [chat] = useState(() => new Chat({ id, transport }));
  useEffect(() => transport.follow(chat), [chat]);
  const { messages, sendMessage, regenerate, stop, status, error } = useChat({ chat });
  const last = messages.at(-1);
  return h("main", { "data-status": status },
    h("button", { id: "ask", onClick: () => void sendMessage({ text: document.querySelector("input").value }) }, "Ask"),
    h("button", { id: "edit", onClick: () => void sendMessage({ text: document.querySelector("input").value, messageId: messages.findLast(({ role }) => role === "user").id }) }, "Edit"),
    h("button", { id: "stop", onClick: () => void stop() }, "Stop"),
    h("button", { id: "again", onClick: () => void regenerate() }, "Again"),
    h("input"),
    h("output", null, error?.message),
    messages.map(({ id, role, parts, metadata }) => h("p", { key: id, className: role, "data-reason": metadata?.reason }, parts.map(({ type, text }) => (type === "text" ? text : "")).join(""))));
}

createRoot(document.getElementById("root")).render(h(StrictMode, null, h(App)));
`;

group("useChat", { skip: missing }, () => {
  let gateway, pages, chromium, application;

  before(async () => {
    pages = await Pages.start();
    gateway = await Gateway.start({ TOKENWIRE_ORIGINS: pages.origin, TOKENWIRE_DEMO_RATE: "100" });
    chromium = await browser();
    const { outputFiles } = await build({
      stdin: { contents: APP, resolveDir: dirname(fileURLToPath(import.meta.url)) },
      bundle: true,
      write: false,
      format: "esm",
      target: "es2022",
      define: { GATEWAY: JSON.stringify(gateway.url), "process.env.NODE_ENV": '"development"' },
    });
    pages.addScript("/chat.js", outputFiles[0].text);
    application = pages.add("/chat", '<div id="root"></div><script type="module" src="/chat.js"></script>');
  });
  after(async () => {
    await chromium?.close();
    await gateway?.stop();
    pages?.stop();
  });

  async function open(id) {
    const tab = await (await chromium.newContext()).newPage();
    tab.errors = [];
    tab.sockets = [];
    tab.on("pageerror", (error) => tab.errors.push(error.message));
    tab.on("console", (message) => message.type() === "error" && tab.errors.push(message.text()));
    tab.on("websocket", (socket) => tab.sockets.push(socket.url()));
    await tab.goto(`${application}?id=${id}`);
    await tab.locator("main[data-status='ready'], main[data-status='streaming']").waitFor();
    return tab;
  }

  const ask = async (tab, text, button = "#ask") => {
    await tab.locator("input").fill(text);
    await tab.locator(button).click();
  };
  const status = (tab, wanted) => tab.locator(`main[data-status='${wanted}']`).waitFor();
  const texts = (tab) => tab.locator("#root p").allTextContents();
  const answer = (tab) => tab.locator(".assistant").last().textContent();
  const history = async (id) => (await fetch(`${gateway.url}/v1/conversations/${id}`)).json();
  const close = (...tabs) => Promise.all(tabs.map((tab) => tab.context().close()));

  test("shows an answer in three tabs", async () => {
    const [one, two] = [await open("tabs"), await open("tabs")];
    await ask(one, "/long 1500");
    // The idle tab shows the question, and then the same tokens.
    await two.locator(".user", { hasText: "/long 1500" }).waitFor();
    await status(two, "streaming");
    await until(async () => (await two.locator(".assistant").count()) === 1 && (await answer(two)).length > 100);
    const late = await open("tabs");
    await status(late, "streaming");
    await until(async () => (await late.locator(".assistant").count()) === 1 && (await answer(late)).length > 100);
    for (const tab of [one, two, late]) await status(tab, "ready");
    const { messages } = await history("tabs");
    const wanted = messages.map(({ text }) => text);
    assert.equal(wanted.length, 2);
    for (const tab of [one, two, late]) {
      await until(async () => JSON.stringify(await texts(tab)) === JSON.stringify(wanted));
      assert.deepEqual([tab.errors, tab.sockets.length], [[], 1]);
    }
    // A second question, from the late tab.
    await ask(late, "/long 20");
    await until(async () => (await texts(one)).length === 4);
    for (const tab of [one, two, late]) await status(tab, "ready");
    const again = (await history("tabs")).messages.map(({ text }) => text);
    for (const tab of [one, two, late])
      await until(async () => JSON.stringify(await texts(tab)) === JSON.stringify(again));
    await close(one, two, late);
  });

  test("stops in every tab and regenerates the answer", async () => {
    const [one, two] = [await open("stop"), await open("stop")];
    await ask(one, "/long 3000");
    await until(async () => (await two.locator(".assistant").count()) === 1 && (await answer(two)).length > 100);
    await two.locator("#stop").click();
    await Promise.all([one, two].map((tab) => tab.locator(".assistant[data-reason='stopped']").waitFor()));
    await status(one, "ready");
    const kept = (await history("stop")).messages[1].text;
    for (const tab of [one, two]) await until(async () => (await answer(tab)) === kept);

    await one.locator("#again").click();
    await status(two, "streaming");
    await until(async () => (await one.locator(".assistant").count()) === 1 && (await answer(one)).length > 50);
    assert.equal(await two.locator(".assistant").count(), 1);
    await one.locator("#stop").click();
    await status(two, "ready");
    await status(one, "ready");
    assert.deepEqual([one.errors, two.errors], [[], []]);
    await close(one, two);
  });

  test("resumes after a reload and a disconnect", async () => {
    const tab = await open("reload");
    await ask(tab, "/long 1200");
    await until(async () => (await tab.locator(".assistant").count()) === 1 && (await answer(tab)).length > 100);
    await tab.reload();
    await status(tab, "streaming");
    await tab.context().setOffline(true);
    await tab.context().setOffline(false);
    await status(tab, "ready");
    const { messages } = await history("reload");
    await until(async () => JSON.stringify(await texts(tab)) === JSON.stringify(messages.map(({ text }) => text)));
    assert.equal(messages.length, 2);
    await close(tab);
  });

  test("shows an error and replaces an edited question", async () => {
    const tab = await open("edit");
    await ask(tab, "/fail");
    await status(tab, "error");
    assert.match(await tab.locator("output").textContent(), /\w/);
    assert.ok((await answer(tab)).length > 20);
    await ask(tab, "/long 10", "#edit");
    await status(tab, "ready");
    await until(async () => (await texts(tab))[0] === "/long 10");
    assert.equal((await texts(tab)).length, 2);
    const other = await open("edit");
    await until(async () => (await texts(other)).join() === (await texts(tab)).join());
    await close(tab, other);
  });
});
