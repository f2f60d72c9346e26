// What a conversation looks like, folded from the server's frames, and the cursors from which to go on after a cut.
// Pure: no document, no clock, no network, so that a recorded exchange tests all of it.

/**
 * One message as it is to be shown. An entry is never changed, only replaced by a new one: who shows entries compares
 * them by identity to learn what is new.
 *
 * @typedef {object} Entry
 * @property {string} id the message's id of a question, the response's id of an answer
 * @property {"user" | "assistant"} role
 * @property {string} text
 * @property {string} [reasoning] what the model thought aloud; empty where it did not
 * @property {"queued" | "waiting" | "recovering" | "running" | "ended"} [state] of an answer
 * @property {number} [retryIn] seconds until the provider is asked again, counted from when the state became waiting
 * @property {string} [reason] how an answer ended
 * @property {boolean} [retryable] whether another answer may be asked for in place of this one
 * @property {{code: string, message: string}} [error] why an answer failed
 * @property {string} [model] the alias that was asked
 * @property {number} [attempt] which worker's try this is, from 1; 0 before the first
 * @property {boolean} [settled] whether the answer stands in the history
 * @property {string} [message] the id of a settled answer in the history
 * @property {string} [repliesTo] the question that is answered
 * @property {string} [cursor] of an answer without an end: what to resume after
 */

/** A server's frame, of which only the type is certain. @typedef {{type: string, [field: string]: any}} Frame */

/** One conversation, as far as the frames have told. */
export class Transcript {
  /** Whether a text did not match what the server says of it. `watch()` then asks for everything afresh. */
  damaged = false;

  /** Whether the server has older messages than those shown. */
  more = false;

  /** What to go on after in the conversation; null before the first snapshot. @type {string | null} */
  #cursor = null;

  /** Every question and answer by its id, those replaced included: they may still be running. @type {Map<string, Entry>} */
  #entries = new Map();

  /** The ids that are shown, in the order in which they are. @type {string[]} */
  #shown = [];

  /** A response that was replaced, to the id that stands in its place. @type {Map<string, string>} */
  #replacements = new Map();

  /** @param {string} conversation */
  constructor(conversation) {
    this.conversation = conversation;
  }

  /** Whether the server has told what is in the conversation, be it nothing. */
  get known() {
    return this.#cursor !== null;
  }

  /** What to show, oldest first. @returns {Entry[]} */
  entries() {
    return this.#shown.map((id) => /** @type {Entry} */ (this.#entries.get(id)));
  }

  /** The entry of this id, also of one that was replaced. @param {string} id */
  entry(id) {
    return this.#entries.get(id);
  }

  /** The answers without an end, the first to be answered first, those replaced included. @returns {Entry[]} */
  open() {
    return [...this.#entries.values()].filter((entry) => entry.role === "assistant" && entry.state !== "ended");
  }

  /**
   * The frame that makes the server go on from exactly what is here.
   *
   * @returns {{type: "watch", conversation: string, after?: string, responses?: Record<string, string>}}
   */
  watch() {
    const frame = { type: /** @type {const} */ ("watch"), conversation: this.conversation };
    if (this.damaged || this.#cursor === null) return frame;
    /** @type {Record<string, string>} */
    const responses = {};
    for (const entry of this.open()) {
      // One that was only ever announced may have no cursor: the server brings it all the same.
      if (entry.cursor !== undefined) responses[entry.id] = entry.cursor;
    }
    return { ...frame, after: this.#cursor, responses };
  }

  /**
   * Take one frame of the server. Those of other conversations, and of types that this client does not know, change
   * nothing.
   *
   * @param {Frame} frame
   */
  fold(frame) {
    if (frame.conversation !== undefined && frame.conversation !== this.conversation) return;
    switch (frame.type) {
      case "watching":
        if (frame.resumed) this.#cursor = frame.cursor;
        break;
      case "snapshot":
        this.#begin(frame);
        break;
      case "message":
        this.#cursor = frame.cursor;
        this.#say(frame.message);
        break;
      case "status":
        this.#status(frame);
        break;
      case "start":
        this.#start(frame);
        break;
      case "delta":
        this.#append(frame);
        break;
      case "reset":
        this.#reset(frame);
        break;
      case "end":
        this.#end(frame);
        break;
    }
  }

  /** @param {Frame} frame */
  #begin(frame) {
    this.#entries.clear();
    this.#shown = [];
    this.#replacements.clear();
    this.#cursor = frame.cursor;
    this.damaged = false;
    this.more = frame.more ?? false;
    for (const message of frame.messages) this.#say(message);
    for (const open of frame.responses) {
      this.#open(open.response, open, {
        state: open.state,
        text: open.text,
        reasoning: open.reasoning ?? "",
        model: open.model,
        attempt: open.attempt,
        cursor: open.cursor,
      });
    }
  }

  /** A finished utterance. @param {{[field: string]: any}} message */
  #say(message) {
    if (message.role === "user") {
      if (this.#entries.has(message.id)) return;
      this.#entries.set(message.id, { id: message.id, role: "user", text: message.text });
      this.#place(message.id, undefined, message.replaces);
      return;
    }
    const response = message.response ?? message.id;
    const streamed = this.#entries.get(response);
    if (streamed?.state === "ended") {
      this.#change(streamed, { settled: true, message: message.id });
      return;
    }
    this.#open(response, message, {
      state: "ended",
      text: message.text,
      reason: message.reason,
      retryable: message.retryable ?? false,
      error: message.error,
      settled: true,
      message: message.id,
      cursor: undefined,
    });
  }

  /** @param {Frame} frame */
  #status(frame) {
    // Only `end` ends a response: it is what brings the reason.
    if (frame.state === "ended") return;
    const before = this.#entries.get(frame.response);
    // The conversation is named where the response may be new; without it, a new one may be another conversation's.
    if (before === undefined ? frame.conversation === undefined : before.state === "ended") return;
    /** @type {Partial<Entry>} */
    const change = { state: frame.state, retryIn: frame.retry_in };
    // Not every status says how far the log is: some say again what the last entry meant.
    if (frame.cursor !== undefined) change.cursor = frame.cursor;
    this.#open(frame.response, frame, change);
  }

  /** @param {Frame} frame */
  #start(frame) {
    const before = this.#entries.get(frame.response);
    if (before?.state === "ended") return;
    /** @type {Partial<Entry>} */
    const change = {
      // A new attempt recovers until there is new text, as the server counts it too.
      state: frame.attempt > 1 ? "recovering" : "running",
      retryIn: undefined,
      model: frame.model,
      attempt: frame.attempt,
      cursor: frame.cursor,
    };
    if (before?.attempt === frame.attempt) {
      // The server never starts an attempt in the middle, so it is about to give all of this one again.
      change.text = "";
      change.reasoning = "";
    }
    this.#open(frame.response, frame, change);
  }

  /** @param {Frame} frame */
  #append(frame) {
    const before = this.#entries.get(frame.response);
    if (before === undefined || before.state === "ended") return;
    this.#change(before, {
      state: "running",
      retryIn: undefined,
      text: before.text + frame.text,
      reasoning: (before.reasoning ?? "") + (frame.reasoning ?? ""),
      cursor: frame.cursor,
    });
  }

  /** @param {Frame} frame */
  #reset(frame) {
    const before = this.#entries.get(frame.response);
    if (before === undefined) {
      // Something of this response was missed, its question or that it was opened: only a snapshot tells where it
      // belongs. Before there is one, the frame is about the conversation that was watched before this.
      this.damaged ||= this.known;
      return;
    }
    // The states that explain why there is no text stand until there is some; a recovering worker's text may be old.
    const stands = before.state === "recovering" || frame.text === "";
    this.#change(before, {
      // Also one that had ended: a failover of the store can take an end back, and the response goes on.
      state: before.state === "ended" || !stands ? "running" : before.state,
      reason: undefined,
      retryable: undefined,
      error: undefined,
      settled: false,
      text: frame.text,
      reasoning: frame.reasoning ?? "",
      cursor: frame.cursor,
    });
  }

  /** @param {Frame} frame */
  #end(frame) {
    const before = this.#entries.get(frame.response);
    // One that never was announced comes as a settled message next.
    if (before === undefined || before.state === "ended") return;
    if (typeof frame.chars === "number" && frame.chars !== codePoints(before.text)) this.damaged = true;
    this.#change(before, {
      state: "ended",
      retryIn: undefined,
      reason: frame.reason,
      retryable: frame.retryable ?? false,
      error: frame.error,
      cursor: undefined,
    });
  }

  /**
   * Change the answer of this response, which appears if it was not known.
   *
   * @param {string} response
   * @param {{[field: string]: any}} frame which may say what it replies to and what it replaces
   * @param {Partial<Entry>} change
   */
  #open(response, frame, change) {
    const before = this.#entries.get(response);
    if (before !== undefined) {
      this.#change(before, change);
      if (frame.replaces !== undefined) this.#replace(response, frame.replaces);
      return;
    }
    const blank = { id: response, role: /** @type {const} */ ("assistant"), text: "", reasoning: "", attempt: 0 };
    this.#entries.set(response, { ...blank, repliesTo: frame.replies_to, ...change });
    this.#place(response, frame.replies_to, frame.replaces);
  }

  /**
   * @param {Entry} before
   * @param {Partial<Entry>} change
   */
  #change(before, change) {
    this.#entries.set(before.id, { ...before, ...change });
  }

  /**
   * Give a new entry its place: that of what it replaces, or behind its question, or at the end.
   *
   * @param {string} id
   * @param {string | undefined} repliesTo
   * @param {string | undefined} replaces
   */
  #place(id, repliesTo, replaces) {
    if (replaces !== undefined && this.#replace(id, replaces)) return;
    let place = repliesTo === undefined ? -1 : this.#shown.indexOf(repliesTo);
    if (place === -1) {
      this.#shown.push(id);
      return;
    }
    // Behind the answers that the question has already.
    do place += 1;
    while (place < this.#shown.length && this.#entries.get(this.#shown[place])?.repliesTo === repliesTo);
    this.#shown.splice(place, 0, id);
  }

  /**
   * Show an entry in place of a response, and of that response's question where the entry is a question itself.
   * Returns false, and changes nothing, if the response is not shown, or a question that was asked anew is in its place.
   *
   * @param {string} id
   * @param {string} replaced
   * @returns {boolean}
   */
  #replace(id, replaced) {
    // Two tabs may have asked for a retry of the same answer: the later stands in place of the earlier.
    let old = replaced;
    while (old !== id && this.#replacements.has(old)) old = /** @type {string} */ (this.#replacements.get(old));
    const own = this.#shown.indexOf(id);
    if (old === id) return own !== -1;
    let place = this.#shown.indexOf(old);
    if (place === -1 || (this.#entries.get(old)?.role === "user" && this.#entries.get(id)?.role !== "user")) return false;
    this.#replacements.set(old, id);
    // The new entry may already be shown, if what it replaces was not known when it appeared.
    if (own !== -1) {
      this.#shown.splice(own, 1);
      place = this.#shown.indexOf(old);
    }
    this.#shown[place] = id;
    if (this.#entries.get(id)?.role === "user") {
      const question = this.#shown.indexOf(this.#entries.get(old)?.repliesTo ?? "");
      if (question !== -1) this.#shown.splice(question, 1);
    }
    return true;
  }
}

/** @param {string} text */
function codePoints(text) {
  return Array.from(text).length;
}
