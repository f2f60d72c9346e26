// The chat page: shows a transcript, and turns what the reader does into frames.
// The rules of this file: the document changes in `draw` only, at most once an animation frame; text becomes nodes and
// never HTML, so that nothing an answer says can do anything.

import { Connection } from "./connection.js";
import { GrowingText } from "./text.js";
import { Transcript } from "./transcript.js";

/** @typedef {import("./transcript.js").Entry} Entry */

const element = /** @type {(id: string) => any} */ ((id) => document.getElementById(id));
const log = element("log");
const list = element("messages");
const field = element("text");

// ---- What is known ------------------------------------------------------------------------------------------------

/** The conversation that is shown. @type {Transcript} */
let transcript;

/** @type {import("./connection.js").Line} */
let line = { name: "connecting" };

/** Questions that the transcript does not have yet, by their key. @type {Map<string, Pending>} */
const pending = new Map();
/** @typedef {{frame: any, message?: string, refused?: string}} Pending */

/** Answers for which another one was asked, by the key of that. @type {Map<string, string>} */
const retried = new Map();

/** When an answer was first seen to wait, in the time of `performance.now()`. @type {WeakMap<Entry, number>} */
const waitingSince = new WeakMap();

/** The aliases of models that may be asked. @type {string[]} */
let models = [];

/** What went wrong with something that has no place among the messages. */
let notice = "";

/** What a screen reader is to be told at the next drawing. @type {string[]} */
let saying = [];

/** Whether the reader is at the end, and is to be kept there. */
let following = true;

// ---- The line -----------------------------------------------------------------------------------------------------

const address = new URL("v1/ws", location.href);
address.protocol = address.protocol.replace("http", "ws");
address.hash = "";

const connection = new Connection(address.href, {
  frame(frame) {
    const before = frame.response === undefined ? undefined : transcript.entry(frame.response);
    transcript.fold(frame);
    if (frame.type === "ready") {
      models = frame.models ?? [];
      if (frame.limits?.text) field.maxLength = frame.limits.text;
    } else if (frame.type === "watching") {
      notice = "";
    } else if (frame.type === "accepted") {
      const sent = pending.get(frame.key);
      // A duplicate may be too old for the snapshot to hold it.
      if (sent !== undefined && frame.duplicate) pending.delete(frame.key);
      else if (sent !== undefined) sent.message = frame.message;
      retried.delete(frame.key);
    } else if (frame.type === "error") {
      const sent = pending.get(frame.key);
      if (sent !== undefined) sent.refused = frame.message;
      else notice = frame.message;
      retried.delete(frame.key);
    }
    if (before !== undefined) announce(before, transcript.entry(frame.response));
    schedule();
  },
  line(next) {
    if (next.name !== line.name && next.name !== "connecting") saying.push(lineInWords(next));
    line = next;
    schedule();
  },
});

/** @param {Entry} before @param {Entry | undefined} now */
function announce(before, now) {
  if (now === undefined || (before.state === now.state && before.reason === now.reason)) return;
  if (now.state !== "ended") {
    if (now.state !== "running") saying.push(stateInWords(now));
    return;
  }
  saying.push(now.text, endInWords(now));
}

/** @param {string} name */
function follow(name) {
  transcript = new Transcript(name);
  notice = "";
  following = true;
  element("second").href = `${location.pathname}${location.search}#c=${encodeURIComponent(name)}`;
  connection.follow(transcript);
  schedule();
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
  if (name !== transcript?.conversation) follow(name);
  return token;
}

// ---- What the reader does -----------------------------------------------------------------------------------------

element("composer").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  const text = field.value;
  if (text.trim() === "") return;
  const frame = { type: "send", key: random(), conversation: transcript.conversation, text };
  ask(models.length > 0 ? { ...frame, model: element("model").value } : frame);
  field.value = "";
  grow();
});

/** @param {any} frame */
function ask(frame) {
  pending.set(frame.key, { frame });
  connection.ask(frame);
  notice = "";
  // Who asks wants to see the answer.
  following = true;
  schedule();
}

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

function stop() {
  const [first] = transcript.open();
  if (first !== undefined) connection.stop(first.id);
}
element("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) stop();
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
  connection.open(token);
  field.focus();
});

addEventListener("hashchange", () => {
  const token = readHash();
  if (token !== null) connection.open(token);
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
  if ("at" in line || transcript.open().some((entry) => entry.state === "waiting")) schedule();
}, 1000);

/** @typedef {{node: HTMLElement, shown: unknown, update: (entry: any) => void}} View */

/** What is on the page for each message, by the message's id or the key of what is being sent. @type {Map<string, View>} */
const views = new Map();

function draw() {
  const entries = transcript.entries();
  const drawn = new Set();
  let place = list.firstElementChild;

  /** @param {string} id @param {unknown} shown @param {() => View} create @param {boolean} again */
  const show = (id, shown, create, again) => {
    let view = views.get(id);
    if (view === undefined) views.set(id, (view = create()));
    if (view.shown !== shown || again) view.update(shown);
    view.shown = shown;
    drawn.add(id);
    if (view.node === place) place = place.nextElementSibling;
    else list.insertBefore(view.node, place);
  };

  for (const entry of entries) {
    if (entry.role === "user") show(entry.id, entry, questionView, false);
    else show(entry.id, entry, answerView, entry.state === "waiting" || entry.retryable === true);
  }
  for (const [key, sent] of pending) {
    if (sent.message !== undefined && transcript.entry(sent.message) !== undefined) pending.delete(key);
    else if (sent.frame.conversation === transcript.conversation) show(key, sent, pendingView, true);
  }
  for (const [id, view] of views) {
    if (drawn.has(id)) continue;
    view.node.remove();
    views.delete(id);
  }

  element("empty").hidden = !transcript.known || drawn.size > 0;
  element("more").hidden = !transcript.more;
  element("stop").hidden = transcript.open().length === 0;
  element("latest").hidden = following;
  element("entry").hidden = line.name !== "closed" || line.code !== 4401;
  drawModels();
  write(element("line"), lineInWords(line));
  element("line").dataset.line = line.name;
  element("notice").hidden = notice === "";
  write(element("notice"), notice);
  if (saying.length > 0) write(element("said"), saying.join("\n"));
  saying = [];
  if (following) log.scrollTop = log.scrollHeight;
}

function drawModels() {
  const picker = element("model");
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
  const update = (/** @type {Entry} */ entry) => write(text, entry.text);
  return { node: make("li", "question", make("span", "unseen", "You asked: "), text), shown: null, update };
}

/** @returns {View} */
function pendingView() {
  const text = make("div", "text");
  const words = make("span");
  const state = make("p", "state", words);
  const node = make("li", "question pending", text, state);
  /** @type {Pending} */
  let now;
  const again = button("Send again", () => {
    now.refused = undefined;
    ask(now.frame);
  });
  const edit = button("Edit", () => {
    pending.delete(now.frame.key);
    field.value = [now.frame.text, field.value].filter(Boolean).join("\n");
    grow();
    field.focus();
    schedule();
  });
  const update = (/** @type {Pending} */ sent) => {
    now = sent;
    write(text, sent.frame.text);
    const sending = line.name === "live" ? "Sending" : "Not sent yet";
    write(words, sent.refused === undefined ? sending : `Not sent: ${sent.refused}`);
    state.classList.toggle("wrong", sent.refused !== undefined);
    if (sent.refused === undefined) [again, edit].forEach((action) => action.remove());
    else if (!again.isConnected) state.append(again, edit);
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
  const retry = button("Retry", () => {
    const key = random();
    retried.set(key, id);
    connection.ask({ type: "retry", response: id, key });
    schedule();
  });
  const cancel = button("Cancel", () => connection.stop(id));
  const update = (/** @type {Entry} */ entry) => {
    id = entry.id;
    const open = entry.state !== "ended";
    write(thought, entry.reasoning ?? "");
    reasoning.hidden = !entry.reasoning;
    // A text that was cut off ends in half a mark as well as one that is being written.
    growing.show(entry.text, open || entry.reason !== "complete");
    text.hidden = entry.text === "";
    const asked = [...retried.values()].includes(entry.id);
    write(words, open ? stateInWords(entry) : asked ? "Asking again" : endInWords(entry));
    state.hidden = words.textContent === "";
    state.classList.toggle("busy", open || asked);
    state.classList.toggle("wrong", entry.reason === "failed" && !asked);
    attach(state, retry, entry.retryable === true && !asked);
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

/** @param {import("./connection.js").Line} line */
function lineInWords(line) {
  switch (line.name) {
    case "offline":
      return "offline";
    case "waiting":
      return `reconnecting in ${seconds(line.at - performance.now())} s (attempt ${line.attempt})`;
    case "closed":
      return `not connected: ${line.reason || `refused (${line.code})`}`;
    default:
      return line.name;
  }
}

/** What an answer without an end is doing. @param {Entry} entry */
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

/** How an answer ended; nothing to say of one that is complete. @param {Entry} entry */
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

const token = readHash() ?? sessionStorage.getItem("token") ?? "";
connection.open(token);
