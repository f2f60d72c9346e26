// The hook and the component in React's StrictMode, which mounts everything twice.

import assert from "node:assert/strict";
import { dirname } from "node:path";
import { after, before, describe as group, test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { browser, Gateway, missing, Pages, until } from "./fixture.js";

const APP = `
import { StrictMode, createElement as h, useState } from "react";
import { createRoot } from "react-dom/client";
import { connect } from "../../dist/tokenwire.js";
import { TokenwireChat, useConversation } from "../../dist/react.js";

const client = connect({ url: GATEWAY });
globalThis.renders = 0;

function Plain({ id }) {
  const conversation = client.conversation(id);
  const { messages, state, answering } = useConversation(conversation);
  globalThis.renders += 1;
  return h("section", { id: "plain", "data-state": state.name },
    h("button", { id: "ask", onClick: () => void conversation.send("/long 30") }, "Ask"),
    answering ? h("button", { id: "stop", onClick: () => conversation.stop() }, "Stop") : null,
    messages.map((message) => h("p", { key: message.key ?? message.id, className: message.role }, message.text)));
}

function App() {
  const [id, setId] = useState("hook");
  const [received, setReceived] = useState([]);
  return h("div", null,
    h(Plain, { id }),
    h("button", { id: "other", onClick: () => setId("other") }, "Other"),
    h(TokenwireChat, { url: GATEWAY, conversation: "component", title: "Ours", onMessage: ({ role }) => setReceived((before) => [...before, role]) }),
    h("output", null, received.join()));
}

createRoot(document.getElementById("root")).render(h(StrictMode, null, h(App)));
`;

group("react", { skip: missing }, () => {
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

  test("mounts twice, watches once and shows each text once", async () => {
    const { outputFiles } = await build({
      stdin: { contents: APP, resolveDir: dirname(fileURLToPath(import.meta.url)) },
      bundle: true,
      write: false,
      format: "esm",
      target: "es2022",
      define: { GATEWAY: JSON.stringify(gateway.url), "process.env.NODE_ENV": '"development"' },
    });
    pages.addScript("/app.js", outputFiles[0].text);
    const tab = await chromium.newPage();
    const errors = [];
    const sent = [];
    let sockets = 0;
    tab.on("pageerror", (error) => errors.push(error.message));
    tab.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    tab.on("websocket", (socket) => {
      sockets += 1;
      socket.on("framesent", ({ payload }) => sent.push(JSON.parse(payload)));
    });
    await tab.goto(pages.add("/react", '<div id="root"></div><script type="module" src="/app.js"></script>'));
    const watching = (id) => sent.filter(({ type, conversation }) => type === "watch" && conversation === id).length;

    await tab.locator("#plain[data-state='live']").waitFor();
    await tab.locator("#ask").click();
    await tab.locator("#plain .assistant").waitFor();
    await until(
      async () => (await tab.locator("#stop").count()) === 0 && (await tab.locator("#plain p").count()) === 2,
    );
    const [shown] = await tab.locator("#plain .assistant").allInnerTexts();
    const { messages } = await (await fetch(`${gateway.url}/v1/conversations/hook`)).json();
    assert.equal(shown.replace(/\s+/g, ""), messages[1].text.replace(/\s+/g, ""));
    assert.deepEqual([watching("hook"), sockets], [1, 1]);

    assert.equal(await tab.locator("tokenwire-chat").count(), 1);
    await tab.locator("tokenwire-chat textarea").fill("/long 10");
    await tab.locator("tokenwire-chat textarea").press("Enter");
    await tab.locator("output", { hasText: "user,assistant" }).waitFor();
    assert.equal(await tab.locator("output").innerText(), "user,assistant");
    assert.equal(watching("component"), 1);

    await tab.locator("#other").click();
    await until(
      () =>
        watching("other") === 1 && sent.some(({ type, conversation }) => type === "unwatch" && conversation === "hook"),
    );
    assert.equal(await tab.locator("#plain p").count(), 0);
    assert.equal(sockets, 1);
    assert.deepEqual(errors, []);
    await tab.close();
  });
});
