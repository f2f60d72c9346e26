// What a conversation looks like, folded from the server's frames, and the cursors from which to go on after a cut.
// Pure: no document, no clock, no network, so that a recorded exchange tests all of it.

import type { AssistantMessage, Message } from "./client.js";
import type { Accepted, Delta, End, Reset, ServerFrame, Snapshot, Start, Status, Utterance, Watch } from "./wire.js";

/** How many responses a watch may name; whoever has more without an end asks for everything afresh. */
const MOST_NAMED = 64;

/** A transcript as data, which JSON can hold. */
export interface Saved {
  /** What to go on after in the conversation; null before the first snapshot. */
  cursor: string | null;
  /** What to go on after in each response without an end. */
  cursors: Record<string, string>;
  /** Every question and answer by its id, those replaced included: they may still be running. */
  messages: Record<string, Message>;
  /** The ids that are shown, in the order in which they are. */
  shown: string[];
  /** A response that was replaced, to the id that stands in its place. */
  replacements: Record<string, string>;
  /** Whether the server has older messages than those shown. */
  more: boolean;
}

type Change = { -readonly [Field in keyof AssistantMessage]?: AssistantMessage[Field] | undefined };

/** Where a message stands: behind what it replies to, or in place of what it replaces. */
interface Placed {
  replies_to?: string;
  replaces?: string;
}

/** One conversation, as far as the frames have told. A message is never changed, only replaced by a new object. */
export class Transcript {
  /** Whether a text did not match what the server says of it. `watch()` then asks for everything afresh. */
  damaged = false;

  #saved: Saved;

  /** What was here before the snapshot that is being taken. */
  #before: Saved["messages"] = {};

  constructor(
    readonly conversation: string,
    saved?: Saved,
  ) {
    this.#saved = saved ?? blank(null);
  }

  /** Whether the server has told what is in the conversation, be it nothing. */
  get known(): boolean {
    return this.#saved.cursor !== null;
  }

  /** Whether the server has older messages than those shown. */
  get more(): boolean {
    return this.#saved.more;
  }

  /** What to show, oldest first. */
  messages(): Message[] {
    return this.#saved.shown.map((id) => this.message(id)!);
  }

  /** The message of this id, also of one that was replaced. */
  message(id: string): Message | undefined {
    return this.#saved.messages[id];
  }

  /** The answer of this id, also one that was replaced. */
  answer(id: string): AssistantMessage | undefined {
    const message = this.message(id);
    return message?.role === "assistant" ? message : undefined;
  }

  /** The answers without an end, the first to be answered first, those replaced included. */
  open(): AssistantMessage[] {
    return Object.values(this.#saved.messages).filter((message) => message.role === "assistant" && message.state !== "ended") as AssistantMessage[];
  }

  /** Everything that is known here, from which another transcript goes on; one that is damaged begins anew. */
  save(): Saved {
    return this.damaged ? { ...this.#saved, cursor: null } : this.#saved;
  }

  /** The frame that makes the server go on from exactly what is here. */
  watch(): Watch {
    const frame: Watch = { type: "watch", conversation: this.conversation };
    const { cursor, cursors } = this.#saved;
    if (this.damaged || cursor === null || Object.keys(cursors).length > MOST_NAMED) return frame;
    // One that was only ever announced may have no cursor: the server brings it all the same.
    return { ...frame, after: cursor, responses: { ...cursors } };
  }

  /** Note something of a message that is known here only, and not told by any frame. */
  mark(id: string, change: { key?: string | undefined; stopping?: boolean; retrying?: boolean }): void {
    const message = this.message(id);
    if (message !== undefined) this.#saved.messages[id] = { ...message, ...change } as Message;
  }

  /** Take one frame of the server. Those of other conversations, and of types not known here, change nothing. */
  fold(frame: ServerFrame): void {
    if ("conversation" in frame && frame.conversation !== this.conversation) return;
    switch (frame.type) {
      case "watching":
        if (frame.resumed) this.#saved.cursor = frame.cursor;
        break;
      case "snapshot":
        this.#begin(frame);
        break;
      case "message":
        this.#saved.cursor = frame.cursor;
        this.#say(frame.message);
        break;
      default:
        if ("response" in frame) this.#respond(frame);
    }
  }

  #begin(frame: Snapshot): void {
    // What was here goes on being the same message: nobody should see it anew.
    this.#before = this.#saved.messages;
    this.#saved = blank(frame.cursor, frame.more);
    this.damaged = false;
    for (const message of frame.messages) this.#say(message);
    for (const { response, cursor, state, model, attempt, text, reasoning = "", ...placed } of frame.responses) {
      this.#saved.cursors[response] = cursor;
      this.#open(response, placed, { state, model, attempt, text, reasoning });
    }
    this.#before = {};
  }

  /** A finished utterance. */
  #say(message: Utterance): void {
    const { id, role, text, response = id } = message;
    if (role === "user") {
      if (this.message(id) !== undefined) return;
      const old = this.#before[id];
      this.#saved.messages[id] = { id, role, text, state: "sent", ...(old?.role === "user" && old.key && { key: old.key }) };
      this.#place(id, message);
      return;
    }
    const streamed = this.answer(response);
    const settled = { settled: true, message: id };
    if (streamed?.state === "ended") this.#change(streamed, settled);
    else this.#open(response, message, { ...ended(message), text, ...settled });
    delete this.#saved.cursors[response];
  }

  /** A frame that is about one response. */
  #respond(frame: Status | Start | Delta | Reset | End | Accepted): void {
    const { type, response } = frame;
    const before = this.answer(response);
    // A failover of the store can take an end back, and the response goes on; nothing else follows an end.
    if (before?.state === "ended" && type !== "reset") return;
    const { cursors } = this.#saved;
    if (type === "status") {
      // Only `end` ends a response: it is what brings the reason. The conversation is named where the response may be
      // new; without it, a new one may be another conversation's.
      if (frame.state === "ended" || (before ?? frame.conversation) === undefined) return;
      this.#open(response, frame, { state: frame.state, retryIn: frame.retry_in });
      // Not every status says how far the log is: some say again what the last entry meant.
      if (frame.cursor !== undefined) cursors[response] = frame.cursor;
    } else if (type === "start") {
      const { model, attempt, cursor } = frame;
      // The server never starts an attempt in the middle, so it is about to give all of one that is here again.
      const anew = before?.attempt === attempt && { text: "", reasoning: "" };
      // A new attempt recovers until there is new text, as the server counts it too.
      this.#open(response, frame, { state: attempt > 1 ? "recovering" : "running", retryIn: undefined, model, attempt, ...anew });
      cursors[response] = cursor;
    } else if (before === undefined) {
      // Of a reset, something of this response was missed, its question or that it was opened: only a snapshot tells
      // where it belongs. Before there is one, the frame is about the conversation that was watched before this.
      // All else that never was announced comes as a settled message.
      this.damaged ||= type === "reset" && this.known;
    } else if (type === "delta") {
      // A repeat of the last frame.
      if (cursors[response] === frame.cursor) return;
      cursors[response] = frame.cursor;
      const text = before.text + frame.text;
      const reasoning = before.reasoning + (frame.reasoning ?? "");
      this.#saved.messages[response] = { ...before, state: "running", retryIn: undefined, text, reasoning };
    } else if (type === "reset") {
      const { cursor, text, reasoning = "" } = frame;
      cursors[response] = cursor;
      // The states that explain why there is no text stand until there is some; a recovering worker's text may be old.
      const stands = before.state !== "ended" && (before.state === "recovering" || text === "");
      this.#change(before, { ...ended({}), retryable: undefined, state: stands ? before.state : "running", settled: false, text, reasoning });
    } else if (type === "end") {
      if (frame.chars !== undefined && frame.chars !== codePoints(before.text)) this.damaged = true;
      delete cursors[response];
      this.#change(before, ended(frame));
    }
  }

  /** Change the answer of this response, which appears if it was not known. */
  #open(response: string, placed: Placed, change: Change): void {
    const before = this.answer(response);
    if (before !== undefined) {
      this.#change(before, change);
      if (placed.replaces !== undefined) this.#replace(response, placed.replaces);
      return;
    }
    const blank = { id: response, role: "assistant", text: "", reasoning: "", state: "queued", attempt: 0, revision: 0 } as const;
    const old = this.#before[response];
    const { text, revision, stopping, retrying } = old?.role === "assistant" ? old : ({ ...blank } as AssistantMessage);
    this.#change({ ...blank, text, revision, stopping, retrying, repliesTo: placed.replies_to }, change);
    this.#place(response, placed);
  }

  #change(before: AssistantMessage, change: Change): void {
    const { text = before.text } = change;
    const revision = before.revision + (text.startsWith(before.text) ? 0 : 1);
    this.#saved.messages[before.id] = { ...before, ...change, revision } as AssistantMessage;
  }

  /** Give a new message its place: that of what it replaces, or behind its question, or at the end. */
  #place(id: string, { replies_to, replaces }: Placed): void {
    if (replaces !== undefined && this.#replace(id, replaces)) return;
    const { shown } = this.#saved;
    let place = replies_to === undefined ? -1 : shown.indexOf(replies_to);
    if (place === -1) place = shown.length;
    // Behind the answers that the question has already.
    else
      do place += 1;
      while (place < shown.length && this.answer(shown[place]!)?.repliesTo === replies_to);
    shown.splice(place, 0, id);
  }

  /**
   * Show a message in place of a response, and of that response's question where the message is a question itself.
   * Returns false, and changes nothing, if the response is not shown, or a question that was asked anew is in its place.
   */
  #replace(id: string, replaced: string): boolean {
    const { shown, replacements } = this.#saved;
    // Two tabs may have asked for a retry of the same answer: the later stands in place of the earlier.
    let old = replaced;
    while (old !== id && replacements[old] !== undefined) old = replacements[old]!;
    const own = shown.indexOf(id);
    if (old === id) return own !== -1;
    const asked = this.message(id)?.role === "user";
    if (!shown.includes(old) || (this.message(old)?.role === "user" && !asked)) return false;
    replacements[old] = id;
    // The new message may already be shown, if what it replaces was not known when it appeared.
    if (own !== -1) shown.splice(own, 1);
    shown[shown.indexOf(old)] = id;
    if (asked) {
      const question = shown.indexOf(this.answer(old)?.repliesTo ?? "");
      if (question !== -1) shown.splice(question, 1);
    }
    return true;
  }
}

function blank(cursor: string | null, more = false): Saved {
  return { cursor, cursors: {}, messages: {}, shown: [], replacements: {}, more };
}

/** What an end, or the settled copy, says of an answer. */
function ended({ reason, retryable = false, error, usage }: Partial<End | Utterance>): Change {
  return { state: "ended", retryIn: undefined, stopping: undefined, reason, retryable, error, usage };
}

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
