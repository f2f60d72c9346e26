// The chat page: shows a transcript, and turns what the reader does into frames.
// The rules of this file: the document changes in `draw` only, at most once an animation frame; text becomes nodes and
// never HTML, so that nothing an answer says can do anything.

import { connect } from "./client/tokenwire.js";
import { GrowingText } from "./text.js";

/** @typedef {import("../client/client.js").Message} Message */
/** @typedef {import("../client/client.js").UserMessage} Question */
/** @typedef {import("../client/client.js").AssistantMessage} Answer */

const element = /** @type {(id: string) => any} */ ((id) => document.getElementById(id));
const log = element("log");
const list = element("messages");
const field = element("text");

// ---- What is known ------------------------------------------------------------------------------------------------

const client = connect({ url: new URL(".", location.href), getToken: () => sessionStorage.getItem("token"), program: "page" });

/** The conversation that is shown. @type {import("../client/client.js").Conversation} */
let chat;

/** Ends being told of the conversation. */
let leave = () => {};

/** The answers as they were when they were last spoken of, by their id. @type {Map<string, Answer>} */
let spoken = new Map();

/** When an answer was first seen to wait, in the time of `performance.now()`. @type {WeakMap<Answer, number>} */
const waitingSince = new WeakMap();

/** What a screen reader is to be told at the next drawing. @type {string[]} */
let saying = [];

/** Whether the reader is at the end, and is to be kept there. */
let following = true;

// ---- The line -----------------------------------------------------------------------------------------------------

let line = client.state;

function changed() {
  const { state } = chat;
  if (state.name !== line.name && state.name !== "connecting") saying.push(lineInWords(state));
  line = state;
  for (const now of chat.messages) {
    if (now.role !== "assistant") continue;
    const before = spoken.get(now.id);
    spoken.set(now.id, now);
    if (before === undefined || (before.state === now.state && before.reason === now.reason)) continue;
    if (now.state === "ended") saying.push(now.text, endInWords(now));
    else if (now.state !== "running") saying.push(stateInWords(now));
  }
  schedule();
}

/** @param {string} name */
function follow(name) {
  const before = leave;
  chat = client.conversation(name);
  spoken = new Map();
  following = true;
  element("second").href = `${location.pathname}${location.search}#c=${encodeURIComponent(name)}`;
  leave = chat.subscribe(changed);
  before();
  changed();
}

/** A name that nobody can guess. Not `randomUUID`, which pages without TLS do not have. */
function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Take the conversation, and perhaps a token, from the address of the page. Returns the token if there is a new one. */
function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const token = hash.get("token");
  let name = hash.get("c") ?? "";
  if (!/^[A-Za-z0-9_.:~-]{1,128}$/.test(name)) name = `c-${random()}`;
  // The token does not stay in the address, which people copy; it stays for a reload, and for a second tab.
  if (token !== null) sessionStorage.setItem("token", token);
  if (token !== null || name !== hash.get("c")) history.replaceState(null, "", `#c=${encodeURIComponent(name)}`);
  if (name !== chat?.id) follow(name);
  return token;
}

// ---- What the reader does -----------------------------------------------------------------------------------------

element("composer").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  const text = field.value;
  if (text.trim() === "") return;
  // The message itself shows what became of it.
  chat.send(text, client.models.length > 0 ? { model: element("model").value } : {}).catch(() => {});
  // Who asks wants to see the answer.
  following = true;
  field.value = "";
  grow();
});

field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  // An input method confirms its suggestion with Enter too (229 is how Safari says so).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  element("composer").requestSubmit();
});

function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}
field.addEventListener("input", grow);

element("stop").addEventListener("click", () => chat.stop());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) chat.stop();
});

element("new").addEventListener("click", () => {
  location.hash = `c=c-${random()}`;
  field.focus();
});

element("entry").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  const token = element("token").value.trim();
  sessionStorage.setItem("token", token);
  element("token").value = "";
  client.reconnect();
  field.focus();
});

addEventListener("hashchange", () => {
  const token = readHash();
  if (token !== null) client.reconnect();
});

let top = 0;
log.addEventListener(
  "scroll",
  () => {
    const before = following;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 4;
    if (atEnd) following = true;
    // Growing text moves the end away, but only a reader moves up.
    else if (log.scrollTop < top) following = false;
    top = log.scrollTop;
    if (before !== following) schedule();
  },
  { passive: true },
);
element("latest").addEventListener("click", () => {
  following = true;
  field.focus();
  schedule();
});
new ResizeObserver(() => {
  if (following) log.scrollTop = log.scrollHeight;
}).observe(log);

// ---- Drawing ------------------------------------------------------------------------------------------------------

let scheduled = false;

/** Draw in the next animation frame, whatever comes until then. */
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

// Seconds are counted down in words.
setInterval(() => {
  if ("at" in line || chat.answering?.state === "waiting") schedule();
}, 1000);

/** @typedef {{node: HTMLElement, shown: unknown, update: (entry: any) => void}} View */

/** What is on the page for each message, by the message's id or the key of what is being sent. @type {Map<string, View>} */
const views = new Map();

function draw() {
  const { messages } = chat;
  const drawn = new Set();
  let place = list.firstElementChild;
  for (const message of messages) {
    // A message that was sent here keeps its place on the page when the gateway gives it an id.
    const id = message.role === "user" ? (message.key ?? message.id) : message.id;
    let view = views.get(id);
    if (view === undefined) views.set(id, (view = message.role === "user" ? questionView() : answerView()));
    // What counts seconds, or depends on the line, is drawn again.
    if (view.shown !== message || message.state === "waiting" || message.state === "sending") view.update(message);
    view.shown = message;
    drawn.add(id);
    if (view.node === place) place = place.nextElementSibling;
    else list.insertBefore(view.node, place);
  }
  for (const [id, view] of views) {
    if (drawn.has(id)) continue;
    view.node.remove();
    views.delete(id);
  }

  element("empty").hidden = !chat.known || messages.length > 0;
  element("more").hidden = !chat.more;
  element("stop").hidden = chat.answering === undefined;
  element("latest").hidden = following;
  element("entry").hidden = line.name !== "closed" || line.code !== 4401;
  if (client.limits.text) field.maxLength = client.limits.text;
  drawModels();
  write(element("line"), lineInWords(line));
  element("line").dataset.line = line.name;
  element("notice").hidden = chat.fault === null;
  write(element("notice"), chat.fault?.message ?? "");
  if (saying.length > 0) write(element("said"), saying.join("\n"));
  saying = [];
  if (following) log.scrollTop = log.scrollHeight;
}

function drawModels() {
  const picker = element("model");
  const { models } = client;
  element("models").hidden = models.length < 2;
  if (Array.from(picker.options, (option) => option.value).join() === models.join()) return;
  picker.replaceChildren(...models.map((alias) => new Option(alias, alias, alias === "default")));
}

/** @param {Node} node @param {string} text */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @param {string} tag
 * @param {string} [kind]
 * @param {(Node | string)[]} content
 */
function make(tag, kind, ...content) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...content);
  return node;
}

/** @param {string} label @param {() => void} act */
function button(label, act) {
  const node = /** @type {HTMLButtonElement} */ (make("button", "", label));
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

/** @returns {View} */
function questionView() {
  const text = make("div", "text");
  const words = make("span");
  const state = make("p", "state", words);
  const node = make("li", "question", make("span", "unseen", "You asked: "), text, state);
  /** @type {Question} */
  let now;
  const again = button("Send again", () => chat.resend(now.id));
  const edit = button("Edit", () => {
    field.value = [chat.withdraw(now.id), field.value].filter(Boolean).join("\n");
    grow();
    field.focus();
  });
  const update = (/** @type {Question} */ question) => {
    now = question;
    write(text, question.text);
    node.classList.toggle("pending", question.state !== "sent");
    const sending = line.name === "live" ? "Sending" : "Not sent yet";
    write(words, question.state === "sent" ? "" : question.error ? `Not sent: ${question.error.message}` : sending);
    state.hidden = question.state === "sent";
    state.classList.toggle("wrong", question.state === "refused");
    attach(state, again, question.state === "refused");
    attach(state, edit, question.state === "refused");
  };
  return { node, shown: null, update };
}

/** @returns {View} */
function answerView() {
  const thought = make("div");
  const reasoning = make("details", "reasoning", make("summary", "", "What the model thought"), thought);
  const text = make("div", "text");
  const words = make("span");
  const state = make("p", "state", words);
  const node = make("li", "answer", make("span", "unseen", "Answer: "), reasoning, text, state);
  const growing = new GrowingText(text);
  let id = "";
  const retry = button("Retry", () => void chat.retry(id).catch(() => {}));
  const cancel = button("Cancel", () => chat.stop(id));
  const update = (/** @type {Answer} */ entry) => {
    id = entry.id;
    const open = entry.state !== "ended";
    write(thought, entry.reasoning ?? "");
    reasoning.hidden = !entry.reasoning;
    // A text that was cut off ends in half a mark as well as one that is being written.
    growing.show(entry.text, open || entry.reason !== "complete");
    text.hidden = entry.text === "";
    write(words, open ? stateInWords(entry) : entry.retrying ? "Asking again" : endInWords(entry));
    state.hidden = words.textContent === "";
    state.classList.toggle("busy", open || entry.retrying === true);
    state.classList.toggle("wrong", entry.reason === "failed" && !entry.retrying);
    attach(state, retry, entry.retryable === true && !entry.retrying);
    attach(state, cancel, entry.state === "queued");
  };
  return { node, shown: null, update };
}

/** @param {Element} parent @param {Element} child @param {boolean} wanted */
function attach(parent, child, wanted) {
  if (wanted === (child.parentNode === parent)) return;
  if (wanted) parent.append(child);
  else child.remove();
}

// ---- In words -----------------------------------------------------------------------------------------------------

/** @param {import("../client/client.js").ConversationState} line */
function lineInWords(line) {
  switch (line.name) {
    case "offline":
      return "offline";
    case "reconnecting":
      return `reconnecting in ${seconds(line.at - Date.now())} s (attempt ${line.attempt})`;
    case "closed":
      return `not connected: ${line.reason || `refused (${line.code})`}`;
    case "behind":
      return "catching up";
    default:
      return line.name;
  }
}

/** What an answer without an end is doing. @param {Answer} entry */
function stateInWords(entry) {
  switch (entry.state) {
    case "queued":
      return "Queued";
    case "waiting": {
      const since = waitingSince.get(entry) ?? performance.now();
      waitingSince.set(entry, since);
      const left = seconds(since + 1000 * (entry.retryIn ?? 0) - performance.now());
      return `The model is busy, waiting ${left} s`;
    }
    case "recovering":
      return "Recovering";
    default:
      return entry.text === "" ? "Thinking" : "Writing";
  }
}

/** How an answer ended; nothing to say of one that is complete. @param {Answer} entry */
function endInWords(entry) {
  switch (entry.reason) {
    case "complete":
      return "";
    case "failed":
      return `Failed: ${entry.error?.message ?? "the answer broke off."}`;
    case "stopped":
      return "Stopped";
    case "length":
      return "Ended at its length limit";
    case "refused":
      return "The model declined to answer";
    case "filtered":
    case "guarded":
      return "Withheld";
    default:
      return `Ended: ${entry.reason}`;
  }
}

/** Milliseconds as whole seconds to count down. @param {number} milliseconds */
function seconds(milliseconds) {
  return Math.max(0, Math.ceil(milliseconds / 1000));
}

// ---- Begin --------------------------------------------------------------------------------------------------------

readHash();
