// The chat page: shows a transcript, and turns what the reader does into frames.
// The rules of this file: the document changes in `draw` only, at most once an animation frame; text becomes nodes and
// never HTML, so that nothing an answer says can do anything.

import { Connection } from "./connection.js";
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
  const blocks = new Blocks(text);
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
    blocks.show(entry.text, open || entry.reason !== "complete");
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

// ---- Text as nodes ------------------------------------------------------------------------------------------------

/**
 * A block of text: a paragraph, a list ... `source` is where it came from, `open` whether it may still grow.
 *
 * @typedef {{kind: string, source: string, from: number, open: boolean, lines: string[], detail: string}} Block
 */

/** The deepest that quotes, lists and emphasis nest. An answer can be written to nest without end. */
const DEEPEST = 8;

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/s;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ROW = /^ {0,3}\|/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/s;
/** A line that is nothing but marks: what they mean is only known with what comes next. */
const ONLY_MARKS = /^(?:[-*+_`~#>|:= \t]+|[ \t]*\d{1,9}[.)]?[ \t]*)$/;

/** The blocks of a text that grows: what is drawn stays, but for the last block. */
class Blocks {
  /** @type {{block: Block, node: HTMLElement}[]} */
  #drawn = [];
  #text = "";

  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.parent = parent;
  }

  /** @param {string} text @param {boolean} open whether its end may be missing */
  show(text, open) {
    text = text.replaceAll("\r", "");
    const grown = text.startsWith(this.#text);
    this.#text = text;
    const tail = text.lastIndexOf("\n") + 1;
    const visible = open && ONLY_MARKS.test(text.slice(tail)) ? text.slice(0, tail) : text;
    const kept = grown ? Math.max(0, this.#drawn.length - 1) : 0;
    const from = Math.min(this.#drawn[kept]?.block.from ?? 0, visible.length);
    const blocks = parse(visible.slice(from), open, from);
    for (let index = 0; index < blocks.length; index += 1) {
      const block = blocks[index];
      const before = this.#drawn[kept + index];
      if (before === undefined) {
        const node = nodeOf(block, 0);
        this.parent.append(node);
        this.#drawn.push({ block, node });
        continue;
      }
      if (before.block.source !== block.source || before.block.open !== block.open) {
        if (before.block.kind === "code" && block.kind === "code") {
          // The same node, so that a reader who scrolled it sideways stays there.
          write(/** @type {Node} */ (before.node.firstChild), block.lines.join("\n"));
        } else {
          const node = nodeOf(block, 0);
          before.node.replaceWith(node);
          before.node = node;
        }
      }
      before.block = block;
    }
    for (const { node } of this.#drawn.splice(kept + blocks.length)) node.remove();
  }
}

/**
 * @param {string} text
 * @param {boolean} open
 * @param {number} offset of the text in the whole
 * @returns {Block[]}
 */
function parse(text, open, offset = 0) {
  /** @type {Block[]} */
  const blocks = [];
  const lines = text.split("\n");
  /** @type {number[]} */
  const starts = [];
  let position = offset;
  for (const each of lines) {
    starts.push(position);
    position += each.length + 1;
  }
  let begin = 0;
  while (begin < lines.length) {
    if (lines[begin].trim() === "") {
      begin += 1;
      continue;
    }
    const { kind, detail, content, next } = blockAt(lines, begin);
    const source = lines.slice(begin, next).join("\n");
    blocks.push({ kind, detail, lines: content, source, from: starts[begin], open: false });
    begin = next;
  }
  const last = blocks.at(-1);
  if (last !== undefined) last.open = open;
  return blocks;
}

/**
 * The block that begins at a line that is not blank.
 *
 * @param {string[]} lines
 * @param {number} begin
 * @returns {{kind: string, detail: string, content: string[], next: number}}
 */
function blockAt(lines, begin) {
  const first = lines[begin];
  const fence = FENCE.exec(first);
  if (fence) {
    const close = new RegExp(`^ {0,3}\\${fence[1][0]}{${fence[1].length},}[ \\t]*$`);
    let end = begin + 1;
    while (end < lines.length && !close.test(lines[end])) end += 1;
    return { kind: "code", detail: fence[2].trim(), content: lines.slice(begin + 1, end), next: end + 1 };
  }
  const heading = HEADING.exec(first);
  if (heading) {
    const words = (heading[2] ?? "").replace(/[ \t]+#+[ \t]*$/, "");
    return { kind: "heading", detail: String(heading[1].length), content: [words], next: begin + 1 };
  }
  if (RULE.test(first)) return { kind: "rule", detail: "", content: [], next: begin + 1 };
  const item = ITEM.exec(first);
  for (const [kind, mark] of /** @type {[string, RegExp][]} */ ([["quote", QUOTE], ["table", ROW]])) {
    if (!mark.test(first)) continue;
    let end = begin + 1;
    while (end < lines.length && mark.test(lines[end])) end += 1;
    const content = lines.slice(begin, end).map((each) => (kind === "quote" ? each.replace(QUOTE, "") : each));
    return { kind, detail: "", content, next: end };
  }
  if (item) {
    let end = begin + 1;
    while (end < lines.length && goesOn(lines, end, item)) end += 1;
    const ordered = item[2].length > 1;
    return { kind: ordered ? "ordered" : "bullets", detail: item[2], content: lines.slice(begin, end), next: end };
  }
  let end = begin + 1;
  while (end < lines.length && lines[end].trim() !== "" && !interrupts(lines[end])) end += 1;
  return { kind: "paragraph", detail: "", content: lines.slice(begin, end), next: end };
}

/** Whether a line ends the paragraph before it. @param {string} each */
function interrupts(each) {
  if ([FENCE, HEADING, RULE, QUOTE, ROW].some((mark) => mark.test(each))) return true;
  const item = ITEM.exec(each);
  // A number in running text may come to stand at the beginning of a line; only a 1 begins a list there.
  return item !== null && item[4] !== undefined && (item[2].length === 1 || parseInt(item[2], 10) === 1);
}

/**
 * Whether the line at `index` belongs to the list that `item` began.
 *
 * @param {string[]} lines
 * @param {number} index
 * @param {RegExpExecArray} item
 */
function goesOn(lines, index, item) {
  const each = lines[index];
  if (each.trim() === "") {
    const next = lines[index + 1] ?? "";
    return next.trim() !== "" && (indentOf(next) > item[1].length || isItemLike(next, item));
  }
  if (indentOf(each) > item[1].length || isItemLike(each, item)) return true;
  // A line that begins nothing else carries the item's paragraph on.
  return lines[index - 1].trim() !== "" && !interrupts(each) && !ITEM.test(each);
}

/** @param {string} each @param {RegExpExecArray} item */
function isItemLike(each, item) {
  const other = ITEM.exec(each);
  return other !== null && !RULE.test(each) && other[2].at(-1) === item[2].at(-1);
}

/** @param {string} each */
function indentOf(each) {
  return each.length - each.trimStart().length;
}

/**
 * @param {Block} block
 * @param {number} depth
 * @returns {HTMLElement}
 */
function nodeOf(block, depth) {
  switch (block.kind) {
    case "code":
      return make("pre", "", make("code", "", block.lines.join("\n")));
    case "heading":
      // The page has the first heading.
      return inline(make(`h${Math.min(6, Number(block.detail) + 1)}`), block.lines[0], block.open);
    case "rule":
      return make("hr");
    case "quote":
      return within(make("blockquote"), block.lines.join("\n"), block.open, depth);
    case "table":
      return make("div", "table", tableOf(block));
    case "bullets":
    case "ordered":
      return listOf(block, depth);
    default:
      return inline(make("p"), block.lines.map((each) => each.trimStart()).join("\n"), block.open);
  }
}

/**
 * Append the blocks of a text.
 *
 * @param {HTMLElement} parent
 * @param {string} text
 * @param {boolean} open
 * @param {number} depth
 */
function within(parent, text, open, depth) {
  if (depth >= DEEPEST) parent.append(text);
  else parent.append(...parse(text, open).map((block) => nodeOf(block, depth + 1)));
  return parent;
}

/** @param {Block} block @param {number} depth */
function listOf(block, depth) {
  const parent = make(block.kind === "ordered" ? "ol" : "ul");
  if (block.kind === "ordered") /** @type {HTMLOListElement} */ (parent).start = parseInt(block.detail, 10);
  const base = indentOf(block.lines[0]);
  /** @type {string[][]} */
  const items = [];
  let inner = 0;
  for (const each of block.lines) {
    const item = indentOf(each) <= base ? ITEM.exec(each) : null;
    if (item) {
      inner = item[1].length + item[2].length + Math.min(4, (item[3] ?? " ").length);
      items.push([item[4] ?? ""]);
    } else {
      items[items.length - 1].push(each.slice(Math.min(inner, indentOf(each))));
    }
  }
  items.forEach((content, index) => {
    const node = make("li");
    const open = block.open && index === items.length - 1;
    const blocks = depth >= DEEPEST ? [] : parse(content.join("\n"), open);
    // An item of one line is no paragraph, as the lines of a tight list stand close.
    const [first, ...rest] = blocks;
    if (first?.kind === "paragraph" && !content.includes("")) {
      inline(node, first.lines.map((each) => each.trimStart()).join("\n"), first.open);
      node.append(...rest.map((each) => nodeOf(each, depth + 1)));
    } else if (blocks.length > 0) {
      node.append(...blocks.map((each) => nodeOf(each, depth + 1)));
    } else {
      node.append(content.join("\n"));
    }
    parent.append(node);
  });
  return parent;
}

/** @param {Block} block */
function tableOf(block) {
  const table = make("table");
  // The line under the head only says that it is one; while it is being written, too.
  const rows = block.lines.filter((each, index) => index !== 1 || !/^[\s|:-]+$/.test(each));
  rows.forEach((each, index) => {
    const cells = each.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/);
    const last = block.open && index === rows.length - 1;
    const head = index === 0 && block.lines.length > 1;
    table.append(
      make("tr", "", ...cells.map((cell, column) =>
        inline(make(head ? "th" : "td"), cell.trim().replaceAll("\\|", "|"), last && column === cells.length - 1),
      )),
    );
  });
  return table;
}

/**
 * Append a line of text with its marks: code, bold, italic, links. What is open is shown as if it were closed, so that
 * marks do not flash up while a text is being written.
 *
 * @template {HTMLElement} Parent
 * @param {Parent} parent
 * @param {string} text
 * @param {boolean} open
 * @param {number} depth
 * @returns {Parent}
 */
function inline(parent, text, open, depth = 0) {
  let plain = "";
  let index = 0;
  /** Marks that are not closed in the rest of this text: to look once is enough, however many there are. */
  const unclosed = new Set();
  const flush = () => {
    if (plain !== "") parent.append(plain);
    plain = "";
  };
  /** @param {HTMLElement} node @param {number} length */
  const add = (node, length) => {
    flush();
    parent.append(node);
    index += length;
  };
  const special = /\n|\\|`|[*_]|!?\[|<?https?:\/\//g;
  while (index < text.length) {
    special.lastIndex = index;
    const found = special.exec(text)?.index ?? text.length;
    plain += text.slice(index, found);
    index = found;
    if (index === text.length) break;
    const rest = text.slice(index, index + 2100);
    const mark = rest[0];

    if (mark === "\\" && /^\\[!-/:-@[-`{-~]/.test(rest)) {
      plain += rest[1];
      index += 2;
      continue;
    }
    if (mark === "\n" || rest.startsWith("\\\n")) {
      // Two spaces or a backslash at the end of a line break it.
      const broken = mark === "\\" || plain.endsWith("  ");
      plain = plain.trimEnd();
      if (broken) {
        add(make("br"), mark === "\\" ? 2 : 1);
      } else {
        plain += "\n";
        index += 1;
      }
      continue;
    }
    if (mark === "`") {
      const ticks = /** @type {RegExpExecArray} */ (/^`+/.exec(rest))[0];
      const close = unclosed.has(ticks) ? -1 : closing(text, index + ticks.length, ticks);
      if (close !== -1 || open) {
        const end = close === -1 ? text.length : close;
        const code = text.slice(index + ticks.length, end).replaceAll("\n", " ");
        // One space on both sides is there to keep a backtick off the mark.
        const bare = /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code;
        const shown = close === -1 ? bare.replace(/`+$/, "") : bare;
        if (shown === "") index = end + ticks.length;
        else add(make("code", "", shown), end + ticks.length - index);
      } else {
        unclosed.add(ticks);
        plain += ticks;
        index += ticks.length;
      }
      continue;
    }
    if (mark === "*" || mark === "_") {
      const run = rest[1] === mark ? mark + mark : mark;
      const after = text[index + run.length];
      const intraword = mark === "_" && /\w/.test(text[index - 1] ?? "");
      const opens = after !== undefined && !/\s/.test(after) && !intraword && depth < DEEPEST;
      const close = opens && !unclosed.has(run) ? closing(text, index + run.length, run) : -1;
      if (opens && (close !== -1 || open)) {
        const end = close === -1 ? text.length : close;
        // Half of the closing mark may be there already.
        const inside = close === -1 ? text.slice(index + run.length).replace(/[*_]+$/, "") : text.slice(index + run.length, end);
        const node = inline(make(run.length === 2 ? "strong" : "em"), inside, close === -1, depth + 1);
        add(node, end + run.length - index);
      } else if (open && after === undefined && !intraword) {
        index += run.length;
      } else {
        if (opens) unclosed.add(run);
        plain += run;
        index += run.length;
      }
      continue;
    }
    if (mark === "[" || (mark === "!" && rest[1] === "[")) {
      const link = /^!?\[((?:[^[\]\\]|\\.)*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/.exec(rest);
      const half = open && index + rest.length >= text.length ? /^!?\[([^[\]]*)(?:\](?:\([^)\n]*)?)?$/.exec(rest) : null;
      if (link && depth < DEEPEST) {
        add(inline(linkTo(link[2]) ?? make("span"), link[1], false, depth + 1), link[0].length);
      } else if (half && depth < DEEPEST) {
        add(inline(make("span"), half[1], true, depth + 1), half[0].length);
      } else {
        plain += mark;
        index += 1;
      }
      continue;
    }
    const bare = /^<?(https?:\/\/[^\s<>`"]*[^\s<>`"'.,:;!?)\]*_])>?/.exec(rest);
    const node = bare && !/\w/.test(text[index - 1] ?? "") && !parent.closest("a") ? linkTo(bare[1]) : null;
    if (bare && node) {
      node.append(bare[1]);
      const brackets = bare[0].startsWith("<") ? 1 + Number(bare[0].endsWith(">")) : 0;
      add(node, bare[1].length + brackets);
      continue;
    }
    plain += mark;
    index += 1;
  }
  flush();
  return parent;
}

/**
 * Where a mark is closed: behind something that is no space, and, but for code, outside of code. -1 for nowhere.
 *
 * @param {string} text
 * @param {number} from
 * @param {string} run
 */
function closing(text, from, run) {
  const runs = run[0] === "`" ? /`+/g : /\\.|`+|\*+|_+/g;
  runs.lastIndex = from;
  for (let found = runs.exec(text); found !== null; found = runs.exec(text)) {
    const [marks] = found;
    if (run[0] === "`") {
      if (marks === run) return found.index;
    } else if (marks[0] === "`") {
      const end = closing(text, runs.lastIndex, marks);
      if (end !== -1) runs.lastIndex = end + marks.length;
    } else if (marks[0] === run[0]) {
      const spaced = /\s/.test(text[found.index - 1]);
      const intraword = run[0] === "_" && /\w/.test(text[runs.lastIndex] ?? "");
      if (spaced || intraword) continue;
      if (marks.length === run.length) return found.index;
      // `**bold *and italic***`: the inner one is closed first.
      if (marks.length === 3) return run.length === 1 ? found.index : found.index + 1;
    }
  }
  return -1;
}

/** An empty link, if it may be one: a page of the web, or a letter. @param {string} target @returns {HTMLElement | null} */
function linkTo(target) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const node = /** @type {HTMLAnchorElement} */ (make("a"));
  node.href = url.href;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
  return node;
}

// ---- Begin --------------------------------------------------------------------------------------------------------

const token = readHash() ?? sessionStorage.getItem("token") ?? "";
connection.open(token);
