// One conversation: its transcript, its unanswered requests, and its listeners.

import type { Connection } from "./connection.js";
import { Listeners } from "./listeners.js";
import { type KeyedRequest, Outbox } from "./outbox.js";
import { Refusal } from "./refusal.js";
import type { SavedConversation } from "./storage.js";
import { Transcript } from "./transcript.js";
import type {
  AssistantMessage,
  Conversation,
  ConversationState,
  Guard,
  Limits,
  Message,
  SendOptions,
  Sent,
} from "./types.js";
import type * as wire from "./wire.js";

/** How long the state `resumed` lasts. */
const RESUMED_MS = 2000;

/** Return an unguessable name. Unlike `randomUUID`, this works on pages without TLS. */
export function randomName(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

// Constants, so that an unchanged state is the same object.
const BEHIND = { name: "behind" } as const;
const RESUMED = { name: "resumed" } as const;

/** The parts of the client that a conversation uses. */
export interface ChatContext {
  readonly connection: Connection;
  readonly limits: Limits;
  readonly guard: Guard | undefined;
}

export class Chat implements Conversation {
  fault: wire.Problem | null = null;
  #context: ChatContext;
  #transcript: Transcript;
  #outbox = new Outbox();
  #listeners = new Listeners();
  /** Number of subscribers and unanswered requests. The conversation is watched while there are any. */
  #holds = 0;
  /** Whether a watch was requested, and no unwatch since. */
  #watchRequested = false;
  /** Number of watches without an answer on this connection. Frames before the last answer are obsolete. */
  #unansweredWatches = 0;
  #watching = false;
  #resumedTimer: ReturnType<typeof setTimeout> | undefined;
  /** Whether a page of older messages was requested and has not arrived. */
  #olderRequested = false;
  #messages: readonly Message[] | undefined;
  #closed = false;

  constructor(
    readonly id: string,
    context: ChatContext,
    saved: SavedConversation | undefined,
  ) {
    this.#context = context;
    this.#transcript = new Transcript(id, saved?.transcript);
    for (const frame of saved?.unsent ?? []) void this.#request(frame, null);
  }

  get state(): ConversationState {
    const { state } = this.#context.connection;
    if (state.name !== "live" || this.#holds === 0) return state;
    if (!this.#watching) return BEHIND;
    return this.#resumedTimer === undefined ? state : RESUMED;
  }

  get messages(): readonly Message[] {
    this.#messages ??= [
      ...this.#transcript.messages(),
      ...this.#outbox.messages((id) => this.message(id) !== undefined),
    ];
    return this.#messages;
  }

  get known(): boolean {
    return this.#transcript.known;
  }

  get more(): boolean {
    return this.#transcript.more;
  }

  older(): boolean {
    const frame = this.#transcript.older();
    if (frame === undefined) return false;
    this.#olderRequested = true;
    this.#context.connection.send(frame);
    return true;
  }

  get answering(): AssistantMessage | undefined {
    return this.#transcript.open()[0];
  }

  send(text: string, options: SendOptions = {}): Promise<Sent> {
    const { model, instructions, maxTokens, metadata, replaces, ifBusy, guard = this.#context.guard } = options;
    const frame: wire.Send = {
      type: "send",
      key: randomName(),
      conversation: this.id,
      text,
      model,
      instructions,
      max_tokens: maxTokens,
      metadata,
      replaces,
      if_busy: ifBusy,
    };
    return this.#request(frame, guard);
  }

  resend(key: string): void {
    const pending = this.#outbox.remove(key);
    if (pending !== undefined) void this.#request(pending.frame, pending.guard);
  }

  withdraw(key: string): string | undefined {
    this.#outbox.refuse(key, { code: "withdrawn", message: "The message was withdrawn." });
    const frame = this.#outbox.remove(key)?.frame;
    this.changed();
    return frame?.type === "send" ? frame.text : undefined;
  }

  stop(response = this.answering?.id, reason: wire.Stop["reason"] = "stopped"): void {
    if (response === undefined) return;
    const frame: wire.Stop = { type: "stop", response, reason };
    this.#outbox.stop(frame);
    this.#transcript.mark(response, { stopping: true });
    this.#context.connection.send(frame);
    this.changed();
  }

  retry(response: string, mode: "restart" | "continue" = "restart"): Promise<Sent> {
    this.#transcript.mark(response, { retrying: true });
    return this.#request({ type: "retry", response, key: randomName(), mode }, this.#context.guard);
  }

  subscribe(listener: () => void): () => void {
    const remove = this.#listeners.add(listener);
    this.#hold();
    return () => {
      if (remove()) this.#release();
    };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<readonly Message[], void, undefined> {
    let changed = this.known;
    let wake = () => {};
    const unsubscribe = this.subscribe(() => {
      changed = true;
      wake();
    });
    try {
      for (;;) {
        if (!changed && !this.#closed) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
        if (this.#closed) return;
        changed = false;
        yield this.messages;
      }
    } finally {
      unsubscribe();
    }
  }

  /** Yield the frames to send on a new connection. */
  *frames(): Iterable<wire.ClientFrame> {
    if (this.#holds === 0) return;
    if (!this.#watching) {
      this.#unansweredWatches += 1;
      yield this.#watchFrame();
    }
    yield* this.#outbox.frames();
    const older = this.#olderRequested ? this.#transcript.older() : undefined;
    if (older !== undefined) yield older;
  }

  /** The connection closed. */
  disconnected(): void {
    this.#watching = false;
    this.#unansweredWatches = 0;
    this.#endResumed();
  }

  /** Return the message or answer with this id, also a replaced one. */
  message(id: string): Message | undefined {
    return this.#transcript.message(id);
  }

  /** Whether a server frame belongs to this conversation. */
  matches(frame: wire.ServerFrame): boolean {
    const { type, conversation, key, response } = frame as {
      type: string;
      conversation?: string;
      key?: string;
      response?: string;
    };
    if (conversation !== undefined) return conversation === this.id;
    if (key !== undefined) return this.#outbox.has(key);
    if (response !== undefined) return this.message(response) !== undefined;
    // An error without a subject refuses a watch, so it may belong to any chat that waits for one.
    return type === "error" && this.#holds > 0 && !this.#watching;
  }

  /** Apply a frame of this conversation. */
  apply(frame: wire.ServerFrame): void {
    switch (frame.type) {
      case "watching":
        this.#watchAnswered();
        if (this.#unansweredWatches > 0 || !this.#watchRequested) return;
        this.#watching = true;
        this.fault = null;
        this.#endResumed();
        if (frame.resumed) {
          this.#resumedTimer = setTimeout(() => {
            this.#endResumed();
            this.changed();
          }, RESUMED_MS);
        }
        break;
      case "accepted":
        this.#accepted(frame);
        break;
      case "error":
        this.#refused(frame);
        break;
      default:
        // Frames before the answer to the last watch would be applied twice.
        if (!this.#watching) return;
    }
    if (frame.type === "messages") this.#olderRequested = false;
    this.#transcript.fold(frame);
    if (frame.type === "message") {
      const { id, role, response } = frame.message;
      if (role === "user") this.#transcript.mark(id, { key: this.#outbox.match(frame.message) });
      // After a resume, the settled message can arrive without an `end` frame.
      else if (response !== undefined) this.#outbox.ended(response);
    }
    if (frame.type === "status" && frame.state === "ended") this.#outbox.ended(frame.response);
    if ("response" in frame && this.#transcript.answer(frame.response ?? "")?.state === "ended")
      this.#outbox.ended(frame.response!);
    // A new watch brings a snapshot, which repairs the transcript.
    if (this.#transcript.damaged && this.#watching && frame.type !== "watching") {
      this.#watch();
    }
    this.changed();
  }

  /** Notify listeners that a property may have changed. */
  changed(): void {
    this.#messages = undefined;
    this.#listeners.notify();
  }

  save(): SavedConversation {
    return { transcript: this.#transcript.save(), unsent: this.#outbox.save() };
  }

  /** Refuse all unanswered requests and end the iterators. */
  close(): void {
    this.#closed = true;
    this.disconnected();
    this.#outbox.refuse(undefined, { code: "closed", message: "The client was closed." });
    this.changed();
  }

  /** Leave the state `resumed`. */
  #endResumed(): void {
    clearTimeout(this.#resumedTimer);
    this.#resumedTimer = undefined;
  }

  /** Count an answer to a watch. The gateway may also send an unrequested one. */
  #watchAnswered(): void {
    this.#unansweredWatches = Math.max(0, this.#unansweredWatches - 1);
  }

  /** Watch from the current cursors. */
  #watch(): void {
    this.#watching = false;
    if (this.#context.connection.send(this.#watchFrame())) this.#unansweredWatches += 1;
  }

  #watchFrame(): wire.ClientFrame {
    this.#watchRequested = true;
    return this.#transcript.watch();
  }

  #hold(): void {
    this.#holds += 1;
    if (this.#holds > 1) return;
    this.#context.connection.begin();
    // React mounts twice in strict mode: after an immediate unsubscribe the watch is still active.
    if (!this.#watchRequested) this.#watch();
  }

  #release(): void {
    this.#holds -= 1;
    queueMicrotask(() => {
      if (this.#holds > 0 || !this.#watchRequested) return;
      this.#watchRequested = this.#watching = false;
      this.#endResumed();
      this.#context.connection.send({ type: "unwatch", conversation: this.id });
    });
  }

  #request(frame: KeyedRequest, guard: Guard | null | undefined): Promise<Sent> {
    const sent = new Promise<Sent>((resolve, reject) => {
      const settle = (result: Sent | wire.Problem) => {
        if ("code" in result) reject(new Refusal(result.code, result.message));
        else resolve(result);
        this.#release();
      };
      this.#hold();
      this.#outbox.add({ frame, guard, settle });
    });
    // The message's state shows a refusal, so an ignored promise must not raise an unhandled rejection.
    sent.catch(() => {});
    const { frame: maxFrameBytes = Infinity, text: maxText = Infinity } = this.#context.limits;
    const text = "text" in frame ? frame.text : "-";
    const bytes = new TextEncoder().encode(JSON.stringify(frame)).length;
    const message =
      text === "" || text.length > maxText
        ? `A message must have 1 to ${maxText} characters; this one has ${text.length}.`
        : bytes > maxFrameBytes
          ? `A message must have at most ${maxFrameBytes} bytes; this one has ${bytes}.`
          : null;
    // The gateway cannot name an invalid frame in its error, or closes the connection at each repeat.
    if (message !== null) this.#outbox.refuse(frame.key, { code: "bad_frame", message });
    else this.#context.connection.send(frame);
    this.changed();
    return sent;
  }

  #accepted(frame: wire.Accepted): void {
    const { message, response } = frame;
    const pending = this.#outbox.accept(frame);
    if (pending === undefined) return;
    const { frame: request, guard } = pending;
    // The match by equal text may have been wrong.
    this.#transcript.mark(pending.message ?? "", { key: undefined });
    if (request.type === "send") this.#transcript.mark(message, { key: request.key });
    else this.#transcript.mark(request.response, { retrying: false });
    // The answer continues if the guard cannot be loaded.
    if (guard)
      import("./run_guard.js").then(
        ({ runGuard }) => runGuard(this, guard, response, message),
        () => {},
      );
  }

  #refused({ key, code, message, retry_after }: wire.ErrorFrame): void {
    if (key === undefined && !this.#watching) this.#watchAnswered();
    // A temporary refusal stays in the outbox and is sent again. A quota may last for hours, so the user decides.
    if (retry_after !== undefined && code !== "quota") this.#context.connection.resendAll(retry_after);
    else if (key === undefined && code !== "bad_frame") {
      this.#olderRequested = false;
      // While watching, only a fresh token without the right to read ends the watch. Other errors refuse a stop.
      if (!this.#watching || code === "forbidden") this.fault = { code, message };
    }
    // The gateway cannot read the key of a bad frame, so every unanswered request is refused.
    else
      for (const { frame } of this.#outbox.refuse(key, { code, message })) {
        if (frame.type === "retry") this.#transcript.mark(frame.response, { retrying: false });
      }
  }
}
