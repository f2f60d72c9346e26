// The operators' page: requests the state of the fleet once a second. The responses contain no texts of users.

/** @typedef {{name: string, age: number, cpu: number, memory: number, leaving?: boolean}} Process */
/** @typedef {Process & {connections: number, viewers: number, behind: number, received: number, delivered: number}} GatewayProcess */
/** @typedef {Process & {running: number, concurrency: number, rate: number, models?: string[]}} WorkerProcess */
/**
 * @typedef {{response: string, conversation: string, state: string, age: number, attempt: number,
 *   entries: number | null, size: number | null, rate: number | null, viewers: number, behind: number, lag: number,
 *   worker: string | null}} OpenResponse
 */
/** @typedef {{cursor: string, kind: string, size: number, about?: string}} Entry */
/** @typedef {{running: number, waiting: number, lag: number}} Queue */
/** @typedef {{at: number, gateways: GatewayProcess[], workers: WorkerProcess[], responses: OpenResponse[], queue: Queue}} Fleet */

/**
 * @template Row
 * @typedef {[title: string, content: (row: Row) => string | number | Node, style?: "id" | "left"]} Column
 */

const INTERVAL_MS = 1000;
const MAX_ROWS = 250;
const KEY = "tokenwire-operator";

const element = /** @type {(id: string) => any} */ ((id) => document.getElementById(id));
const state = element("state");
let token = sessionStorage.getItem(KEY) ?? "";
/** Id of the response whose log is shown. @type {string | null} */
let followed = null;
let cursor = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

class TokenRejected extends Error {}
class StoreUnavailable extends Error {}

/** Return the JSON of a path; null if it does not exist. @param {string} path @returns {Promise<any>} */
async function ask(path) {
  const reply = await fetch(path, { headers: { authorization: `Bearer ${token}` }, cache: "no-store" });
  if (reply.status === 401) throw new TokenRejected();
  if (reply.status === 503) throw new StoreUnavailable();
  if (reply.status === 404) return null;
  if (!reply.ok) throw new Error(String(reply.status));
  return reply.json();
}

// Formats durations and sizes like `tokenwire top`.
/** @param {number | null | undefined} value */
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 60) return `${value.toFixed(1)}s`;
  const minutes = Math.floor(value / 60);
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  if (minutes < 60) return `${minutes}m${two(Math.floor(value % 60))}`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}h${two(minutes % 60)}` : `${Math.floor(hours / 24)}d${two(hours % 24)}`;
}

/** @param {number | null | undefined} value */
function size(value) {
  if (value === null || value === undefined) return "–";
  for (const unit of ["", "k", "M"]) {
    if (value < 1000) return `${value.toFixed(0)}${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)}G`;
}

const count = (/** @type {number | undefined} */ value) => Math.round(value ?? 0).toLocaleString("en");

/** Escape control characters, bidirectional ones for instance. @param {string} text */
const visible = (text) =>
  text.replace(
    /[\p{Cc}\p{Cf}]/gu,
    (character) => `\\u{${/** @type {number} */ (character.codePointAt(0)).toString(16)}}`,
  );

/** @param {string} value @param {string} name */
function figure(value, name, mark = "") {
  const box = document.createElement("div");
  box.className = `figure ${mark}`;
  const number = document.createElement("b");
  number.textContent = value;
  const label = document.createElement("small");
  label.textContent = name;
  box.append(number, label);
  return box;
}

/**
 * Replace the content of a table.
 *
 * @template Row
 * @param {HTMLTableElement} node
 * @param {Column<Row>[]} columns
 * @param {Row[]} rows
 * @param {(row: Row) => string} mark returns the class of a row
 */
function table(node, columns, rows, mark, key = false) {
  const head = document.createElement("thead");
  const titles = head.insertRow();
  for (const [title, , style] of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = title;
    cell.className = style === "id" || style === "left" ? "left" : "";
    titles.append(cell);
  }
  const body = document.createElement("tbody");
  for (const row of rows) {
    const cells = body.insertRow();
    cells.className = mark(row);
    for (const [, content, style = ""] of columns) {
      const cell = cells.insertCell();
      const shown = content(row);
      cell.className = style === "id" ? "id left" : style;
      if (shown instanceof Node) cell.append(shown);
      else cell.textContent = visible(String(shown));
    }
  }
  // Restore the focus after the rows were replaced.
  const focused = node.contains(document.activeElement)
    ? /** @type {HTMLElement} */ (document.activeElement).dataset.key
    : null;
  node.replaceChildren(head, body);
  if (focused && key) focusKey(focused, node);
}

/** Focus the button of a response. @param {string} key @param {ParentNode} root */
function focusKey(key, root) {
  /** @type {HTMLElement | null} */ (root.querySelector(`[data-key="${CSS.escape(key)}"]`))?.focus();
}

/** Return a share of one core as a percentage and a bar. @param {number} value */
function share(value) {
  const text = `${Math.round(value * 100)} % `;
  const meter = document.createElement("meter");
  meter.min = 0;
  meter.max = 1;
  meter.high = 0.8;
  meter.low = 0.6;
  meter.optimum = 0;
  meter.value = value;
  meter.title = `${text}of a core`;
  const both = document.createDocumentFragment();
  both.append(text, meter);
  return both;
}

/** Return a button that shows the log of a response. @param {string} response */
function link(response) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = response;
  button.dataset.key = response;
  button.addEventListener("click", () => follow(response));
  return button;
}

/** @type {Column<GatewayProcess>[]} */
const GATEWAY = [
  ["name", (row) => row.name, "id"],
  ["up", (row) => seconds(row.age)],
  ["CPU", (row) => share(row.cpu)],
  ["memory", (row) => size(row.memory)],
  ["connected", (row) => count(row.connections)],
  ["viewers", (row) => count(row.viewers)],
  ["lagging", (row) => count(row.behind)],
  ["in/s", (row) => count(row.received)],
  ["out/s", (row) => count(row.delivered)],
];
/** @type {Column<WorkerProcess>[]} */
const WORKER = [
  ["name", (row) => row.name, "id"],
  ["up", (row) => seconds(row.age)],
  ["CPU", (row) => share(row.cpu)],
  ["memory", (row) => size(row.memory)],
  ["running", (row) => `${count(row.running)} / ${count(row.concurrency)}`],
  ["text/s", (row) => size(row.rate)],
  ["models", (row) => (row.models ?? []).join(" "), "left"],
];
/** @type {Column<OpenResponse>[]} */
const RESPONSE = [
  ["response", (row) => link(row.response), "id"],
  ["state", (row) => row.state, "left"],
  ["age", (row) => seconds(row.age)],
  ["try", (row) => row.attempt],
  ["entries", (row) => (row.entries === null ? "–" : count(row.entries))],
  ["text", (row) => size(row.size)],
  ["text/s", (row) => size(row.rate)],
  ["viewers", (row) => count(row.viewers)],
  ["lagging", (row) => count(row.behind)],
  ["lag", (row) => count(row.lag)],
  ["worker", (row) => row.worker ?? "–", "id"],
  ["conversation", (row) => row.conversation, "id"],
];
/** @type {Column<Entry>[]} */
const ENTRY = [
  ["cursor", (row) => row.cursor, "id"],
  ["kind", (row) => row.kind, "left"],
  ["bytes", (row) => count(row.size)],
  ["", (row) => row.about ?? "", "left"],
];

/** @template Row @param {Row[]} rows @param {(row: Row) => number | undefined} value */
const sum = (rows, value) => rows.reduce((total, row) => total + (value(row) ?? 0), 0);

/** @param {Fleet} fleet */
function show(fleet) {
  const { gateways, workers, responses, queue } = fleet;
  const behind = sum(gateways, (row) => row.behind);
  const received = sum(gateways, (row) => row.received);
  const delivered = sum(gateways, (row) => row.delivered);
  const delayed = queue.waiting > 0 && queue.lag > 2;
  element("figures").replaceChildren(
    figure(count(queue.running), "answers running"),
    figure(
      count(queue.waiting),
      queue.waiting ? `waiting, the oldest for ${seconds(queue.lag)}` : "waiting",
      queue.lag > 10 ? "wrong" : delayed ? "warning" : "",
    ),
    figure(count(sum(gateways, (row) => row.connections)), "connected"),
    figure(count(sum(gateways, (row) => row.viewers)), "viewers"),
    figure(count(behind), "lagging viewers", behind ? "warning" : ""),
    figure(count(delivered), "entries out / s"),
    figure(received ? `× ${(delivered / received).toFixed(1)}` : "–", "fan-out"),
    figure(count(gateways.length), "gateways", gateways.length ? "" : "wrong"),
    figure(count(workers.length), "workers", workers.length ? "" : "wrong"),
  );
  const leaving = (/** @type {Process} */ row) => (row.leaving ? "warning" : "");
  table(element("gateways"), GATEWAY, gateways, leaving);
  table(element("workers"), WORKER, workers, leaving);
  const open = (/** @type {OpenResponse} */ row) => (row.response === followed ? "open" : "");
  const mark = (/** @type {OpenResponse} */ row) =>
    `${row.worker === null && row.state !== "queued" ? "wrong" : row.behind ? "warning" : ""} ${open(row)}`;
  table(element("responses"), RESPONSE, responses.slice(0, MAX_ROWS), mark, true);
  const more = responses.length - MAX_ROWS;
  element("more").textContent = more > 0 ? `and ${more} more` : responses.length ? "" : "There are no open responses.";
  state.textContent = `as of ${new Date(fleet.at * 1000).toLocaleTimeString("en-GB")}`;
  state.className = "";
}

/** @param {string} response */
function follow(response) {
  followed = response;
  cursor = "";
  element("log-title").textContent = response;
  element("about").textContent = "";
  element("entries").replaceChildren();
  shown = [];
  element("log").hidden = false;
  element("close").focus();
  refresh();
}

/** Entries of the shown log. @type {Entry[]} */
let shown = [];

/** Append the new entries of a log. @param {string} response */
async function loadEntries(response) {
  const log = await ask(`responses/${encodeURIComponent(response)}${cursor ? `?after=${cursor}` : ""}`);
  if (response !== followed) return;
  if (log === null) {
    element("about").textContent = "The log of this response has expired.";
    return;
  }
  shown = [...shown, ...log.entries];
  cursor = shown.at(-1)?.cursor ?? "";
  const bytes = shown.filter((entry) => entry.kind === "text").reduce((total, entry) => total + entry.size, 0);
  element("about").textContent =
    `${count(shown.length)} entries, ${size(bytes)} of text. The text itself is not shown.`;
  table(element("entries"), ENTRY, shown.slice(-200).reverse(), () => "");
}

async function refresh() {
  clearTimeout(timer);
  try {
    const fleet = await ask("fleet");
    element("entry").hidden = true;
    element("main").hidden = element("sign-out").hidden = false;
    show(fleet);
    if (followed) await loadEntries(followed);
  } catch (error) {
    if (error instanceof TokenRejected) {
      signOut(token ? "This token is not valid." : "");
      return;
    }
    state.textContent =
      error instanceof StoreUnavailable
        ? "The store is unavailable. The data below is old."
        : "The gateway does not respond. The data below is old.";
    state.className = "lost";
  }
  // A hidden tab sends no requests.
  if (document.visibilityState === "visible") timer = setTimeout(refresh, INTERVAL_MS);
}

/** @param {string} why */
function signOut(why) {
  clearTimeout(timer);
  token = "";
  sessionStorage.removeItem(KEY);
  element("entry").hidden = false;
  element("main").hidden = element("sign-out").hidden = element("log").hidden = true;
  followed = null;
  state.textContent = why;
  state.className = why ? "lost" : "";
  element("token").focus();
}

element("entry").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  token = element("token").value.trim();
  element("token").value = "";
  sessionStorage.setItem(KEY, token);
  refresh();
});
element("sign-out").addEventListener("click", () => signOut(""));
element("close").addEventListener("click", () => {
  const last = followed;
  followed = null;
  element("log").hidden = true;
  if (last !== null) focusKey(last, document);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && followed) element("close").click();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && token) refresh();
});

if (token) refresh();
else signOut("");
