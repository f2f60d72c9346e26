// A list of frames, one for each row. The DOM changes at most once for each animation frame.

/** @typedef {import("./fault_injector.js").Frame} Frame */

/** Maximum number of rows. */
const MAX_ROWS = 200;

/** Summary of a frame, shown after its type and cursor. @type {Record<string, (frame: any) => string>} */
const SUMMARIES = {
  hello: () => "",
  ready: ({ session, heartbeat }) => `session ${session} · heartbeat ${heartbeat} s`,
  watch: ({ after, responses }) =>
    after === undefined
      ? "without a cursor"
      : `after ${after}${Object.values(responses ?? {})
          .map((cursor) => `, answer after ${cursor}`)
          .join("")}`,
  watching: ({ resumed }) => (resumed ? "resumed" : "a snapshot follows"),
  snapshot: ({ messages, responses }) => `${messages.length} messages, ${responses.length} open answers`,
  send: ({ text, key }) => `${JSON.stringify(text)} · key ${key}`,
  message: ({ message }) => `${message.role}: ${JSON.stringify(message.text)}`,
  accepted: ({ response, duplicate }) => `${response}${duplicate ? " · duplicate" : ""}`,
  start: ({ model, attempt }) => `${model} · attempt ${attempt}`,
  delta: ({ text, reasoning }) => JSON.stringify(text || reasoning),
  reset: ({ reason, text }) => `${reason} · ${JSON.stringify(text)}`,
  status: ({ state }) => state,
  end: ({ reason, chars }) => `${reason} · ${chars} characters`,
  stop: ({ response }) => response,
  error: ({ message }) => message,
};

export class FrameLog {
  /** @type {HTMLElement[]} */
  #rows = [];

  /** @param {HTMLElement} list @param {HTMLElement} count */
  constructor(list, count) {
    this.list = list;
    this.count = count;
    this.frames = 0;
  }

  /** @param {Frame} frame @param {boolean} sent */
  add(frame, sent) {
    this.frames += 1;
    const cursor = /** @type {string | undefined} */ (frame.cursor);
    const row = this.#row(sent ? "sent" : "received", sent ? "→" : "←", frame.type);
    if (cursor !== undefined) {
      // The sequence number is the second part of a response cursor, and the first part of a history cursor.
      const [first = "", second = ""] = cursor.split("-");
      if ("response" in frame) row.append(part("code", "cursor", `${first}-`), part("b", "seq", second));
      else row.append(part("b", "seq", first), part("code", "cursor", `-${second}`));
    }
    const summary = SUMMARIES[frame.type]?.(frame) ?? "";
    row.append(part("span", "summary", summary));
    this.#append(row);
  }

  /** Add a row for an event that is not a frame. @param {string} text */
  note(text) {
    this.#append(this.#row("note", "✕", text));
  }

  /** @param {string} kind @param {string} arrow @param {string} type */
  #row(kind, arrow, type) {
    const row = part("li", kind, "");
    row.append(part("span", "arrow", arrow), part("span", `type ${kind === "note" ? "" : type}`, type));
    return row;
  }

  /** @param {HTMLElement} row */
  #append(row) {
    if (this.#rows.push(row) > 1) return;
    requestAnimationFrame(() => {
      this.list.append(...this.#rows.splice(0).slice(-MAX_ROWS));
      while (this.list.childElementCount > MAX_ROWS) this.list.firstElementChild?.remove();
      this.list.scrollTop = this.list.scrollHeight;
      this.count.textContent = `${this.frames} frames`;
    });
  }
}

/** @param {string} tag @param {string} kind @param {string} text */
function part(tag, kind, text) {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}
