// The content of a conversation, folded from the server's frames, and the cursors to resume from.
// Pure: no document, clock or network.

import type { AssistantMessage, Message } from "./types.js";
import type * as wire from "./wire.js";

/** Responses that a watch may name. With more open responses, the watch requests a snapshot. */
const MAX_WATCHED_RESPONSES = 64;

/** A transcript as JSON data. */
export interface SavedTranscript {
  /** Cursor in the history; null before the first snapshot. */
  cursor: string | null;
  /** Cursor in each open response. */
  cursors: Record<string, string>;
  /** Every question and answer by id, including replaced ones: their responses may be open. */
  messages: Record<string, Message>;
  /** Ids of the shown messages, in order. */
  shown: string[];
  /** Id of the message that replaced a response, by the response's id. */
  replacements: Record<string, string>;
  /** Whether the server has older messages than those shown. */
  more: boolean;
  /** What requests the page of messages before those shown. */
  earlier?: string | undefined;
  /** Ids of shown messages that replace a response that is in an older page, by the response's id. */
  unplaced?: Record<string, string>;
}

type Change = { -readonly [Field in keyof AssistantMessage]?: AssistantMessage[Field] | undefined };

/** Position of a message: after the question it replies to, or instead of the response it replaces. */
interface Placement {
  replies_to?: string;
  replaces?: string;
}

/** The content of one conversation. Messages are immutable: a change creates a new object. */
export class Transcript {
  /** Whether the content differs from the server's. `watch()` then requests a snapshot. */
  damaged = false;

  #saved: SavedTranscript;

  /** Messages from before the snapshot that is being applied. */
  #before: SavedTranscript["messages"] = {};

  constructor(
    readonly conversation: string,
    saved?: SavedTranscript,
  ) {
    this.#saved = saved ?? blank(null);
  }

  /** Whether a snapshot was received; it may be empty. */
  get known(): boolean {
    return this.#saved.cursor !== null;
  }

  /** Whether the server has older messages than those shown. */
  get more(): boolean {
    return this.#saved.more;
  }

  /** Return the request for the page of messages before those shown; undefined if there is none. */
  older(): wire.Older | undefined {
    const { earlier } = this.#saved;
    return earlier === undefined ? undefined : { type: "older", conversation: this.conversation, before: earlier };
  }

  /** Return the messages to show, in order. */
  messages(): Message[] {
    return this.#saved.shown.map((id) => this.message(id)!);
  }

  /** Return the message with this id, also a replaced one. */
  message(id: string): Message | undefined {
    return this.#saved.messages[id];
  }

  /** Return the answer with this id, also a replaced one. */
  answer(id: string): AssistantMessage | undefined {
    const message = this.message(id);
    return message?.role === "assistant" ? message : undefined;
  }

  /** Return the open answers, including replaced ones, in the order of the response queue. */
  open(): AssistantMessage[] {
    return Object.values(this.#saved.messages).filter(
      (message) => message.role === "assistant" && message.state !== "ended",
    ) as AssistantMessage[];
  }

  /** Return data for another transcript. A damaged transcript has no cursor there, so it restarts with a snapshot. */
  save(): SavedTranscript {
    return this.damaged ? { ...this.#saved, cursor: null } : this.#saved;
  }

  /** Return the watch that resumes from the current content. */
  watch(): wire.Watch {
    const frame: wire.Watch = { type: "watch", conversation: this.conversation };
    const { cursor, cursors } = this.#saved;
    if (this.damaged || cursor === null || Object.keys(cursors).length > MAX_WATCHED_RESPONSES) return frame;
    // A response without entries has no cursor. The server sends it anyway.
    return { ...frame, after: cursor, responses: { ...cursors } };
  }

  /** Set local fields of a message, which no frame contains. */
  mark(id: string, change: { key?: string | undefined; stopping?: boolean; retrying?: boolean }): void {
    const message = this.message(id);
    if (message !== undefined) this.#saved.messages[id] = { ...message, ...change } as Message;
  }

  /** Apply a server frame. Frames of other conversations and of unknown types change nothing. */
  fold(frame: wire.ServerFrame): void {
    if ("conversation" in frame && frame.conversation !== this.conversation) return;
    switch (frame.type) {
      case "watching":
        if (frame.resumed) this.#saved.cursor = frame.cursor;
        break;
      case "snapshot":
        this.#restart(frame);
        break;
      case "messages":
        if (frame.before === this.#saved.earlier) this.#prepend(frame);
        break;
      case "message":
        this.#saved.cursor = frame.cursor;
        this.#addMessage(frame.message);
        break;
      default:
        if ("response" in frame && frame.type !== "error") this.#applyToResponse(frame);
    }
  }

  #restart(frame: wire.Snapshot): void {
    // Texts and revisions carry over, so that views do not render unchanged messages again.
    this.#before = this.#saved.messages;
    this.#saved = blank(frame.cursor, frame.more, frame.earlier);
    this.damaged = false;
    for (const message of frame.messages) this.#addMessage(message);
    for (const { response, cursor, state, model, attempt, text, reasoning = "", ...placement } of frame.responses) {
      this.#saved.cursors[response] = cursor;
      this.#open(response, placement, { state, model, attempt, text, reasoning });
    }
    this.#before = {};
  }

  /** Show a page of older messages before the others. */
  #prepend({ messages, more = false, earlier }: wire.Messages): void {
    const { shown, unplaced = {} } = this.#saved;
    Object.assign(this.#saved, { more, earlier, shown: [] });
    for (const message of messages) this.#addMessage(message);
    for (const [replaced, by] of Object.entries(unplaced)) {
      const answer = this.answer(replaced);
      if (answer === undefined) continue;
      const hidden = [replaced, ...(this.message(by)?.role === "user" ? [answer.repliesTo] : [])];
      this.#saved.shown = this.#saved.shown.filter((id) => !hidden.includes(id));
      this.#saved.replacements[replaced] = by;
    }
    this.#saved.shown.push(...shown);
  }

  /** Add a message of the history. */
  #addMessage(message: wire.Message): void {
    const { id, role, text, response = id } = message;
    if (role === "user") {
      if (this.message(id) !== undefined) return;
      const old = this.#before[id];
      this.#saved.messages[id] = {
        id,
        role,
        text,
        state: "sent",
        ...(old?.role === "user" && old.key && { key: old.key }),
      };
      this.#place(id, message);
      return;
    }
    const streamed = this.answer(response);
    const settled = { settled: true, message: id };
    if (streamed?.state === "ended") this.#change(streamed, settled);
    else this.#open(response, message, { ...ended(message), text, ...settled });
    delete this.#saved.cursors[response];
  }

  /** Apply a frame of one response. */
  #applyToResponse(frame: wire.Status | wire.Start | wire.Delta | wire.Reset | wire.End | wire.Accepted): void {
    const { type, response } = frame;
    const before = this.answer(response);
    // Only a store failover that lost the end can continue an ended response, with a reset.
    if (before?.state === "ended" && type !== "reset") return;
    const { cursors } = this.#saved;
    if (type === "status") {
      // Only `end` ends a response, because it has the reason. A status without a conversation cannot add a response,
      // which could belong to another conversation.
      if (frame.state === "ended" || (before ?? frame.conversation) === undefined) return;
      this.#open(response, frame, { state: frame.state, retryIn: frame.retry_in });
      // A status that repeats the meaning of the last entry has no cursor.
      if (frame.cursor !== undefined) cursors[response] = frame.cursor;
    } else if (type === "start") {
      const { model, attempt, cursor } = frame;
      // The server sends each attempt from its start, so a second start of the same attempt repeats its text. A start
      // with the cursor of the frame before it follows a reset, which had the text.
      const repeated = before?.attempt === attempt && cursors[response] !== cursor && { text: "", reasoning: "" };
      // A new attempt is `recovering` until its first text, as on the server.
      this.#open(response, frame, {
        state: attempt > 1 ? "recovering" : "running",
        retryIn: undefined,
        model,
        attempt,
        ...repeated,
      });
      cursors[response] = cursor;
    } else if (before === undefined) {
      // A reset of an unknown response shows that its question or its start was missed, so only a snapshot can place
      // it. Before the first snapshot, the frame belongs to an earlier watch. Other frames of unknown responses can
      // be ignored: the settled message follows.
      this.damaged ||= type === "reset" && this.known;
    } else if (type === "delta") {
      // A duplicate of the last frame.
      if (cursors[response] === frame.cursor) return;
      cursors[response] = frame.cursor;
      const text = before.text + frame.text;
      const reasoning = before.reasoning + (frame.reasoning ?? "");
      this.#saved.messages[response] = { ...before, state: "running", retryIn: undefined, text, reasoning };
    } else if (type === "reset") {
      const { cursor, text, reasoning = "" } = frame;
      cursors[response] = cursor;
      // A state that explains missing text remains until there is text. A recovering worker may repeat old text.
      const remains = before.state !== "ended" && (before.state === "recovering" || text === "");
      this.#change(before, {
        ...ended({}),
        retryable: undefined,
        state: remains ? before.state : "running",
        settled: false,
        text,
        reasoning,
      });
    } else if (type === "end") {
      if (frame.chars !== undefined && frame.chars !== codePoints(before.text)) this.damaged = true;
      delete cursors[response];
      this.#change(before, ended(frame));
    }
  }

  /** Change an answer, or add it if it is unknown. */
  #open(response: string, placement: Placement, change: Change): void {
    const before = this.answer(response);
    if (before !== undefined) {
      this.#change(before, change);
      if (placement.replaces !== undefined) this.#replace(response, placement.replaces);
      return;
    }
    const blank = {
      id: response,
      role: "assistant",
      text: "",
      reasoning: "",
      state: "queued",
      attempt: 0,
      revision: 0,
    } as const;
    const old = this.#before[response];
    const { text, revision, stopping, retrying } = old?.role === "assistant" ? old : ({ ...blank } as AssistantMessage);
    this.#change({ ...blank, text, revision, stopping, retrying, repliesTo: placement.replies_to }, change);
    this.#place(response, placement);
  }

  #change(before: AssistantMessage, change: Change): void {
    const { text = before.text } = change;
    const revision = before.revision + (text.startsWith(before.text) ? 0 : 1);
    this.#saved.messages[before.id] = { ...before, ...change, revision } as AssistantMessage;
  }

  /** Insert a new message: instead of what it replaces, or after its question, or at the end. */
  #place(id: string, { replies_to, replaces }: Placement): void {
    if (replaces !== undefined && this.#replace(id, replaces)) return;
    const { shown } = this.#saved;
    if (replaces !== undefined && this.message(replaces) === undefined)
      this.#saved.unplaced = { ...this.#saved.unplaced, [replaces]: id };
    let index = replies_to === undefined ? -1 : shown.indexOf(replies_to);
    if (index === -1) index = shown.length;
    // After the existing answers to the question.
    else
      do index += 1;
      while (index < shown.length && this.answer(shown[index]!)?.repliesTo === replies_to);
    shown.splice(index, 0, id);
  }

  /**
   * Show a message instead of a response. A question also replaces the response's question. Return false, without a
   * change, if the response is not shown, or a reworded question has replaced it.
   */
  #replace(id: string, replaced: string): boolean {
    const { shown, replacements } = this.#saved;
    // Two tabs may retry the same answer: the later retry replaces the earlier one.
    let target = replaced;
    while (target !== id && replacements[target] !== undefined) target = replacements[target]!;
    const own = shown.indexOf(id);
    if (target === id) return own !== -1;
    const isQuestion = this.message(id)?.role === "user";
    if (!shown.includes(target) || (this.message(target)?.role === "user" && !isQuestion)) return false;
    replacements[target] = id;
    // The message may already be shown, if the response that it replaces arrived later.
    if (own !== -1) shown.splice(own, 1);
    shown[shown.indexOf(target)] = id;
    if (isQuestion) {
      const question = shown.indexOf(this.answer(target)?.repliesTo ?? "");
      if (question !== -1) shown.splice(question, 1);
    }
    return true;
  }
}

function blank(cursor: string | null, more = false, earlier?: string): SavedTranscript {
  return { cursor, cursors: {}, messages: {}, shown: [], replacements: {}, more, earlier };
}

/** Return the changes of an end, or of a settled message. */
function ended({ reason, retryable = false, error, usage }: Partial<wire.End | wire.Message>): Change {
  return { state: "ended", retryIn: undefined, stopping: undefined, reason, retryable, error, usage };
}

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
