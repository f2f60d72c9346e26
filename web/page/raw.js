// Frames as they pass, one a row. The document changes at most once an animation frame.

/** @typedef {import("./line.js").Frame} Frame */

/** Rows that are kept. */
const MOST = 200;

/** What a row shows beside the type and the cursor: the rest of these frames says nothing to a reader. @type {Record<string, (frame: any) => string>} */
const SAID = {
  hello: () => "",
  ready: ({ session, heartbeat }) => `session ${session} · heartbeat ${heartbeat} s`,
  watch: ({ after, responses }) =>
    after === undefined
      ? "from the beginning"
      : `after ${after}${Object.values(responses ?? {})
          .map((cursor) => `, answer after ${cursor}`)
          .join("")}`,
  watching: ({ resumed }) => (resumed ? "resumed" : "a snapshot follows"),
  snapshot: ({ messages, responses }) => `${messages.length} messages, ${responses.length} answers under way`,
  send: ({ text, key }) => `${JSON.stringify(text)} · key ${key}`,
  message: ({ message }) => `${message.role}: ${JSON.stringify(message.text)}`,
  accepted: ({ response, duplicate }) => `${response}${duplicate ? " · had arrived before" : ""}`,
  start: ({ model, attempt }) => `${model} · attempt ${attempt}`,
  delta: ({ text, reasoning }) => JSON.stringify(text || reasoning),
  reset: ({ reason, text }) => `${reason} · ${JSON.stringify(text)}`,
  status: ({ state }) => state,
  end: ({ reason, chars }) => `${reason} · ${chars} characters`,
  stop: ({ response }) => response,
  error: ({ message }) => message,
};

export class Raw {
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
      // What counts is the second part in an answer, and the first in the conversation.
      const [first = "", second = ""] = cursor.split("-");
      if ("response" in frame) row.append(part("code", "cursor", `${first}-`), part("b", "seq", second));
      else row.append(part("b", "seq", first), part("code", "cursor", `-${second}`));
    }
    const said = SAID[frame.type]?.(frame) ?? "";
    row.append(part("span", "said", said));
    this.#ask(row);
  }

  /** Something happened that is no frame. @param {string} text */
  note(text) {
    this.#ask(this.#row("note", "✕", text));
  }

  /** @param {string} kind @param {string} arrow @param {string} type */
  #row(kind, arrow, type) {
    const row = part("li", kind, "");
    row.append(part("span", "arrow", arrow), part("span", `type ${kind === "note" ? "" : type}`, type));
    return row;
  }

  /** @param {HTMLElement} row */
  #ask(row) {
    if (this.#rows.push(row) > 1) return;
    requestAnimationFrame(() => {
      this.list.append(...this.#rows.splice(0).slice(-MOST));
      while (this.list.childElementCount > MOST) this.list.firstElementChild?.remove();
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
