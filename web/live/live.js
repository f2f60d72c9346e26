// The operators' page: requests the state of the fleet once a second. The responses contain no texts of users.

const INTERVAL_MS = 1000;
const MAX_ROWS = 250;
const KEY = "tokenwire-operator";

const element = (id) => document.getElementById(id);
const state = element("state");
let token = sessionStorage.getItem(KEY) ?? "";
let followed = null;
let cursor = "";
let timer = 0;

class TokenRejected extends Error {}
class StoreUnavailable extends Error {}

async function ask(path) {
  const reply = await fetch(path, { headers: { authorization: `Bearer ${token}` }, cache: "no-store" });
  if (reply.status === 401) throw new TokenRejected();
  if (reply.status === 503) throw new StoreUnavailable();
  if (reply.status === 404) return null;
  if (!reply.ok) throw new Error(String(reply.status));
  return reply.json();
}

// Formats durations and sizes like `tokenwire top`.
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 60) return `${value.toFixed(1)}s`;
  const minutes = Math.floor(value / 60);
  const two = (number) => String(number).padStart(2, "0");
  if (minutes < 60) return `${minutes}m${two(Math.floor(value % 60))}`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}h${two(minutes % 60)}` : `${Math.floor(hours / 24)}d${two(hours % 24)}`;
}

function size(value) {
  if (value === null || value === undefined) return "–";
  for (const unit of ["", "k", "M"]) {
    if (value < 1000) return `${value.toFixed(0)}${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)}G`;
}

const count = (value) => Math.round(value ?? 0).toLocaleString("en");

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

// Columns are [title, content of a row, style], where style is "left", "id" or nothing.
function table(node, columns, rows, mark, key) {
  const head = document.createElement("thead");
  const line = head.insertRow();
  for (const [name, , how] of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    cell.className = how === "id" || how === "left" ? "left" : "";
    line.append(cell);
  }
  const body = document.createElement("tbody");
  for (const row of rows) {
    const line = body.insertRow();
    line.className = mark(row);
    for (const [, show, how = ""] of columns) {
      const cell = line.insertCell();
      const shown = show(row);
      cell.className = how === "id" ? "id left" : how;
      if (shown instanceof Node) cell.append(shown);
      else cell.textContent = shown;
    }
  }
  // Restore the focus after the rows were replaced.
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  node.replaceChildren(head, body);
  if (focused && key) node.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

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

function link(response) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = response;
  button.dataset.key = response;
  button.addEventListener("click", () => follow(response));
  return button;
}

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
const WORKER = [
  ["name", (row) => row.name, "id"],
  ["up", (row) => seconds(row.age)],
  ["CPU", (row) => share(row.cpu)],
  ["memory", (row) => size(row.memory)],
  ["running", (row) => `${count(row.running)} / ${count(row.concurrency)}`],
  ["text/s", (row) => size(row.rate)],
  ["models", (row) => (row.models ?? []).join(" "), "left"],
];
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
const ENTRY = [
  ["cursor", (row) => row.cursor, "id"],
  ["kind", (row) => row.kind, "left"],
  ["bytes", (row) => count(row.size)],
  ["", (row) => row.about ?? "", "left"],
];

const sum = (rows, name) => rows.reduce((total, row) => total + (row[name] ?? 0), 0);

function show(fleet) {
  const { gateways, workers, responses, queue } = fleet;
  const behind = sum(gateways, "behind");
  const received = sum(gateways, "received");
  const delivered = sum(gateways, "delivered");
  const delayed = queue.waiting > 0 && queue.lag > 2;
  element("figures").replaceChildren(
    figure(count(queue.running), "answers running"),
    figure(
      count(queue.waiting),
      queue.waiting ? `waiting, the oldest for ${seconds(queue.lag)}` : "waiting",
      queue.lag > 10 ? "wrong" : delayed ? "warning" : "",
    ),
    figure(count(sum(gateways, "connections")), "connected"),
    figure(count(sum(gateways, "viewers")), "viewers"),
    figure(count(behind), "lagging viewers", behind ? "warning" : ""),
    figure(count(delivered), "entries out / s"),
    figure(received ? `× ${(delivered / received).toFixed(1)}` : "–", "fan-out"),
    figure(count(gateways.length), "gateways", gateways.length ? "" : "wrong"),
    figure(count(workers.length), "workers", workers.length ? "" : "wrong"),
  );
  const leaving = (row) => (row.leaving ? "warning" : "");
  table(element("gateways"), GATEWAY, gateways, leaving);
  table(element("workers"), WORKER, workers, leaving);
  const open = (row) => (row.response === followed ? "open" : "");
  const mark = (row) =>
    `${row.worker === null && row.state !== "queued" ? "wrong" : row.behind ? "warning" : ""} ${open(row)}`;
  table(element("responses"), RESPONSE, responses.slice(0, MAX_ROWS), mark, true);
  const more = responses.length - MAX_ROWS;
  element("more").textContent = more > 0 ? `and ${more} more` : responses.length ? "" : "There are no open responses.";
  state.textContent = `as of ${new Date(fleet.at * 1000).toLocaleTimeString("en-GB")}`;
  state.className = "";
}

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

let shown = [];

async function read() {
  const response = followed;
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
    if (followed) await read();
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

element("entry").addEventListener("submit", (event) => {
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
  document.querySelector(`[data-key="${CSS.escape(last)}"]`)?.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && followed) element("close").click();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && token) refresh();
});

if (token) refresh();
else signOut("");
