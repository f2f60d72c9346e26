// The page at /: the widget on the left, and the same conversation in three other clients and a frame log.

import { connect } from "./client/client.js";
import { FaultInjector } from "./fault_injector.js";
import { FrameLog } from "./frame_log.js";

/** @typedef {import("../client/client.js").Client} Client */
/** @typedef {import("../client/client.js").Conversation} Conversation */
/** @typedef {{faults: FaultInjector, client: Client, frame: HTMLElement | null, conversation?: Conversation, unsubscribe: () => void}} Screen */

const PROMPTS = [
  "Why is the sky blue?",
  "Compare three ways to keep a promise",
  "Write a function that waits",
  "/help",
];

/** Length of an answer at which the late tab opens. */
const LATE_CHARS = 280;

/** Interval between deliveries to the slow phone. */
const SLOW_MS = 900;

const element = /** @type {(id: string) => any} */ ((id) => document.getElementById(id));

// Move the token from the address, which users copy and share, to the storage of this tab.
const hash = new URLSearchParams(location.hash.slice(1));
if (hash.has("token")) {
  sessionStorage.setItem("token", hash.get("token") ?? "");
  hash.delete("token");
  history.replaceState(null, "", `#${hash}`);
}

/** Create a separate client with fault injection. @param {HTMLElement | null} frame @returns {Screen} */
function screen(frame) {
  const faults = new FaultInjector();
  const own = frame === null ? {} : { tab: null, browser: null };
  const client = connect({
    url: new URL(".", location.href.replace(/#.*/, "")),
    getToken: () => sessionStorage.getItem("token"),
    program: "page",
    shared: false,
    transport: "websocket",
    WebSocket: /** @type {any} */ (faults.WebSocket),
    ...own,
  });
  return { faults, client, frame, unsubscribe: () => {} };
}

const chat = screen(null);
const tab = screen(element("tab"));
const phone = screen(element("phone"));
phone.faults.bufferMs = SLOW_MS;
/** The client that opens during an answer. @type {Screen | null} */
let late = null;

const log = new FrameLog(element("frame-log").querySelector("ol"), element("frame-log").querySelector("output"));
chat.faults.onFrame = (frame, sent) => {
  log.add(frame, sent);
  if (frame.type === "ready") void loadGateway();
};

/** Show a chat in a container. @param {HTMLElement} container @param {object} settings */
function show(container, settings) {
  const chat = /** @type {any} */ (document.createElement("tokenwire-chat"));
  chat.settings = settings;
  container.replaceChildren(chat);
  return chat;
}

/** Show a conversation on a screen. @param {Screen} screen @param {string} id */
function follow(screen, id) {
  screen.unsubscribe();
  const conversation = (screen.conversation = screen.client.conversation(id));
  screen.unsubscribe = conversation.subscribe(schedule);
  if (screen.frame === null) return;
  const name = screen.frame.querySelector("h2")?.textContent;
  const texts = {
    title: `Conversation: ${name}`,
    greeting: "Waiting for a question",
    promise: "Questions from the chat appear here automatically.",
  };
  show(/** @type {HTMLElement} */ (screen.frame.querySelector(".view")), {
    client: screen.client,
    conversation: id,
    view: true,
    texts,
  });
}

// ---- Rendering ----------------------------------------------------------------------------------------------------

let scheduled = false;

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

/** Return the last answer of a screen. @param {Screen | null} screen */
const answerOf = (screen) => screen?.conversation?.messages.findLast((message) => message.role === "assistant");

/** The answer for which the late tab was opened, and the characters that it had missed. @type {{id: string, missed: number} | null} */
let opened = null;

function draw() {
  const now = answerOf(tab) ?? answerOf(chat);
  const length = Math.max(...[chat, tab, phone, late].map((each) => answerOf(each)?.text.length ?? 0));
  for (const each of [tab, phone, late]) {
    if (each?.frame == null) continue;
    const own = answerOf(each);
    const behind = own?.id === now?.id ? length - (own?.text.length ?? 0) : length;
    const status =
      now === undefined ? "idle" : behind > 0 ? `${behind} behind` : own?.state === "ended" ? "complete" : "up to date";
    write(
      each.frame.querySelector("output"),
      each === late && opened && own?.state !== "ended" ? `opened at ${opened.missed}` : status,
    );
    each.frame.classList.toggle("behind", behind > 0);
  }
  element("stop").disabled = tab.conversation?.answering === undefined;
  element("entry").hidden = !(chat.client.state.name === "closed" && chat.client.state.code === 4401);
  // Close the late tab at each new answer, and open it again once the answer is long enough.
  if (now === undefined || now.id === opened?.id) return;
  if (late !== null && now.state !== "ended") {
    late.unsubscribe();
    late.client.close();
    late.frame?.querySelector(".view")?.replaceChildren(waiting);
    write(late.frame?.querySelector("output"), "not open yet");
    late = null;
    opened = null;
  }
  if (late === null && (now.text.length >= LATE_CHARS || now.state === "ended")) {
    opened = { id: now.id, missed: now.text.length };
    late = screen(element("late"));
    follow(late, now === undefined ? "" : /** @type {Conversation} */ (tab.conversation).id);
  }
}

const waiting = element("late").querySelector(".later");

/** @param {Element | null | undefined} node @param {string} text */
function write(node, text) {
  if (node && node.textContent !== text) node.textContent = text;
}

// ---- Fault injection ----------------------------------------------------------------------------------------------

element("disconnect").addEventListener("click", () => {
  if (chat.faults.disconnected) {
    chat.faults.restore();
    chat.client.reconnect();
  } else {
    log.note("disconnected");
    chat.faults.disconnect();
  }
  element("disconnect").setAttribute("aria-pressed", String(chat.faults.disconnected));
  write(element("disconnect").querySelector(".words"), chat.faults.disconnected ? "Reconnect" : "Disconnect");
});

element("reload").addEventListener("click", () => location.reload());

element("stop").addEventListener("click", () => tab.conversation?.stop());

/** Process id of the gateway, if it may be killed. @type {number | undefined} */
let gateway;

/** Request the process id of the gateway. */
async function loadGateway() {
  try {
    const reply = await fetch("kill");
    gateway = reply.status === 200 ? (await reply.json()).gateway : undefined;
  } catch {
    // The gateway was killed, or the network is down.
    return;
  }
  element("kill").disabled = gateway === undefined;
  if (gateway !== undefined) write(element("kill").querySelector(".words"), `Kill this gateway (${gateway})`);
}

element("kill").addEventListener("click", async () => {
  element("kill").disabled = true;
  log.note(`gateway ${gateway} killed`);
  // The process ends before it can respond.
  await fetch("kill", { method: "POST" }).catch(() => {});
});

element("entry").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  sessionStorage.setItem("token", element("token").value.trim());
  element("token").value = "";
  for (const each of [chat, tab, phone, late]) each?.client.reconnect();
});

chat.client.subscribe(schedule);

await customElements.whenDefined("tokenwire-chat");
const widget = /** @type {any} */ (document.createElement("tokenwire-chat"));
widget.settings = {
  client: chat.client,
  title: "Ask Tokenwire",
  prompts: PROMPTS,
  debug: true,
  ...(hash.has("c") && { conversation: hash.get("c") }),
};
widget.addEventListener("tokenwire-conversation", (/** @type {CustomEvent<Conversation>} */ { detail: { id } }) => {
  opened = null;
  for (const each of [chat, tab, phone]) follow(each, id);
  if (late !== null) {
    late.unsubscribe();
    late.client.close();
    late = null;
    element("late").querySelector(".view").replaceChildren(waiting);
  }
  schedule();
});
element("chat").append(widget);
