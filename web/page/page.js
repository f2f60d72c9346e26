// The page at /: the widget on the left, and the same answer in four frames that are clients of their own.

import { connect } from "./client/tokenwire.js";
import { Line } from "./line.js";
import { Raw } from "./raw.js";

/** @typedef {import("../client/client.js").Client} Client */
/** @typedef {import("../client/client.js").Conversation} Conversation */
/** @typedef {{line: Line, client: Client, frame: HTMLElement | null, conversation?: Conversation, leave: () => void}} Screen */

const PROMPTS = [
  "Why is the sky blue?",
  "Compare three ways to keep a promise",
  "Write a function that waits",
  "/help",
];

/** Characters of an answer after which the late tab opens. */
const LATE = 280;

/** Milliseconds between what the slow line brings. */
const SLOW = 900;

const element = /** @type {(id: string) => any} */ ((id) => document.getElementById(id));

// The token does not stay in the address, which people copy; it stays for a reload, and for a second tab.
const hash = new URLSearchParams(location.hash.slice(1));
if (hash.has("token")) {
  sessionStorage.setItem("token", hash.get("token") ?? "");
  hash.delete("token");
  history.replaceState(null, "", `#${hash}`);
}

/** A client of its own, with a line of its own. @param {HTMLElement | null} frame @returns {Screen} */
function screen(frame) {
  const line = new Line();
  const own = frame === null ? {} : { tab: null, browser: null };
  const client = connect({
    url: new URL(".", location.href.replace(/#.*/, "")),
    getToken: () => sessionStorage.getItem("token"),
    program: "page",
    shared: false,
    transport: "websocket",
    WebSocket: /** @type {any} */ (line.WebSocket),
    ...own,
  });
  return { line, client, frame, leave: () => {} };
}

const chat = screen(null);
const tab = screen(element("tab"));
const phone = screen(element("phone"));
phone.line.gather = SLOW;
/** The one that opens in the middle. @type {Screen | null} */
let late = null;

const raw = new Raw(element("wire").querySelector("ol"), element("wire").querySelector("output"));
chat.line.passed = (frame, sent) => {
  raw.add(frame, sent);
  if (frame.type === "ready") void look();
};

/** Put a chat into a place of the page. @param {HTMLElement} place @param {object} settings */
function show(place, settings) {
  const chat = /** @type {any} */ (document.createElement("tokenwire-chat"));
  chat.settings = settings;
  place.replaceChildren(chat);
  return chat;
}

/** Let a screen show a conversation. @param {Screen} of @param {string} id */
function follow(of, id) {
  of.leave();
  const conversation = (of.conversation = of.client.conversation(id));
  of.leave = conversation.subscribe(schedule);
  if (of.frame === null) return;
  const name = of.frame.querySelector("h2")?.textContent;
  const texts = {
    title: `What is shown: ${name}`,
    greeting: "Nobody asks here",
    promise: "What is asked in the chat appears by itself.",
  };
  show(/** @type {HTMLElement} */ (of.frame.querySelector(".view")), {
    client: of.client,
    conversation: id,
    view: true,
    texts,
  });
}

// ---- What is shown ------------------------------------------------------------------------------------------------

let scheduled = false;

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

/** The last answer of a screen. @param {Screen | null} of */
const answerOf = (of) => of?.conversation?.messages.findLast((message) => message.role === "assistant");

/** How far the late tab had to catch up, and with which answer. @type {{id: string, missed: number} | null} */
let opened = null;

function draw() {
  const now = answerOf(tab) ?? answerOf(chat);
  const length = Math.max(...[chat, tab, phone, late].map((each) => answerOf(each)?.text.length ?? 0));
  for (const each of [tab, phone, late]) {
    if (each?.frame == null) continue;
    const own = answerOf(each);
    const behind = own?.id === now?.id ? length - (own?.text.length ?? 0) : length;
    const words =
      now === undefined ? "idle" : behind > 0 ? `${behind} behind` : own?.state === "ended" ? "whole" : "in step";
    write(
      each.frame.querySelector("output"),
      each === late && opened && own?.state !== "ended" ? `opened ${opened.missed} late` : words,
    );
    each.frame.classList.toggle("behind", behind > 0);
  }
  element("stop").disabled = tab.conversation?.answering === undefined;
  element("entry").hidden = !(chat.client.state.name === "closed" && chat.client.state.code === 4401);
  // A new answer: the late tab is closed, and opened when there is something that it has missed.
  if (now === undefined || now.id === opened?.id) return;
  if (late !== null && now.state !== "ended") {
    late.leave();
    late.client.close();
    late.frame?.querySelector(".view")?.replaceChildren(waiting);
    write(late.frame?.querySelector("output"), "not open yet");
    late = null;
    opened = null;
  }
  if (late === null && (now.text.length >= LATE || now.state === "ended")) {
    opened = { id: now.id, missed: now.text.length };
    late = screen(element("late"));
    follow(late, now === undefined ? "" : /** @type {Conversation} */ (tab.conversation).id);
  }
}

const waiting = element("late").querySelector(".later");

/** @param {Element | null | undefined} place @param {string} text */
function write(place, text) {
  if (place && place.textContent !== text) place.textContent = text;
}

// ---- What can go wrong --------------------------------------------------------------------------------------------

element("cut").addEventListener("click", () => {
  if (chat.line.down) {
    chat.line.mend();
    chat.client.reconnect();
  } else {
    raw.note("the network is cut");
    chat.line.cut();
  }
  element("cut").setAttribute("aria-pressed", String(chat.line.down));
  write(element("cut").querySelector(".words"), chat.line.down ? "Plug it in again" : "Cut the network");
});

element("reload").addEventListener("click", () => location.reload());

element("stop").addEventListener("click", () => tab.conversation?.stop());

/** The number of the process that serves this page, where it may be killed. @type {number | undefined} */
let gateway;

/** Ask whom one would kill. */
async function look() {
  try {
    const reply = await fetch("kill");
    gateway = reply.status === 200 ? (await reply.json()).gateway : undefined;
  } catch {
    // It has been killed, or the line is cut.
    return;
  }
  element("kill").disabled = gateway === undefined;
  if (gateway !== undefined) write(element("kill").querySelector(".words"), `Kill this gateway (${gateway})`);
}

element("kill").addEventListener("click", async () => {
  element("kill").disabled = true;
  raw.note(`gateway ${gateway} is killed`);
  // It dies before it can answer.
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
    late.leave();
    late.client.close();
    late = null;
    element("late").querySelector(".view").replaceChildren(waiting);
  }
  schedule();
});
element("chat").append(widget);
