// One conversation: its transcript, what was asked in it and is not answered, and who is told of changes.

import {
  Refusal,
  type AssistantMessage,
  type Conversation,
  type ConversationState,
  type Guard,
  type Message,
  type SendOptions,
  type Sent,
} from "./client.js";
import { Listeners } from "./listeners.js";
import { Outbox } from "./outbox.js";
import { Transcript } from "./transcript.js";
import type { Connection } from "./connection.js";
import type { Kept } from "./storage.js";
import type { Accepted, ClientFrame, Fault, Keyed, Limits, Refused, Send, ServerFrame, Stop } from "./wire.js";

/** Milliseconds for which a conversation that goes on says so. */
const RESUMED_SHOWN = 2000;

/** A name that nobody can guess. Not `randomUUID`, which pages without TLS do not have. */
export function randomName(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

// The same objects each time, so that who compares states finds nothing new in them.
const BEHIND = { name: "behind" } as const;
const RESUMED = { name: "resumed" } as const;

/** What a conversation needs of its client. */
export interface Surroundings {
  readonly connection: Connection;
  readonly limits: Limits;
  readonly guard: Guard | undefined;
}

export class Chat implements Conversation {
  fault: Fault | null = null;
  #around: Surroundings;
  #transcript: Transcript;
  #outbox = new Outbox();
  #listeners = new Listeners();
  /** What keeps the conversation followed. */
  #holds = 0;
  /** Whether the line has been told to follow, and has not been told otherwise. */
  #followed = false;
  /** How many watches the line has been told that it has not answered: what comes before the last answer is stale. */
  #asked = 0;
  #watching = false;
  #resumed: ReturnType<typeof setTimeout> | undefined;
  #shown: readonly Message[] | undefined;
  #over = false;

  constructor(
    readonly id: string,
    around: Surroundings,
    kept: Kept | undefined,
  ) {
    this.#around = around;
    this.#transcript = new Transcript(id, kept?.transcript);
    for (const frame of kept?.unsent ?? []) void this.#ask(frame, null);
  }

  get state(): ConversationState {
    const line = this.#around.connection.state;
    if (line.name !== "live" || this.#holds === 0) return line;
    if (!this.#watching) return BEHIND;
    return this.#resumed === undefined ? line : RESUMED;
  }

  get messages(): readonly Message[] {
    return (this.#shown ??= [
      ...this.#transcript.messages(),
      ...this.#outbox.messages((id) => this.message(id) !== undefined),
    ]);
  }

  get known(): boolean {
    return this.#transcript.known;
  }

  get more(): boolean {
    return this.#transcript.more;
  }

  get answering(): AssistantMessage | undefined {
    return this.#transcript.open()[0];
  }

  send(text: string, options: SendOptions = {}): Promise<Sent> {
    const { model, instructions, maxTokens, replaces, ifBusy, guard = this.#around.guard } = options;
    // JSON leaves out what is undefined.
    const frame = { type: "send", key: randomName(), conversation: this.id, text, model, instructions, max_tokens: maxTokens, replaces, if_busy: ifBusy };
    return this.#ask(frame as Send, guard);
  }

  resend(key: string): void {
    const pending = this.#outbox.drop(key);
    if (pending !== undefined) void this.#ask(pending.frame, pending.guard);
  }

  withdraw(key: string): string | undefined {
    this.#outbox.refuse(key, { code: "withdrawn", message: "Taken back." });
    const frame = this.#outbox.drop(key)?.frame;
    this.changed();
    return frame?.type === "send" ? frame.text : undefined;
  }

  stop(response = this.answering?.id, reason: Stop["reason"] = "stopped"): void {
    if (response === undefined) return;
    const frame: Stop = { type: "stop", response, reason };
    this.#outbox.stop(frame);
    this.#transcript.mark(response, { stopping: true });
    this.#around.connection.say(frame);
    this.changed();
  }

  retry(response: string, mode: "restart" | "continue" = "restart"): Promise<Sent> {
    this.#transcript.mark(response, { retrying: true });
    return this.#ask({ type: "retry", response, key: randomName(), mode }, this.#around.guard);
  }

  subscribe(listener: () => void): () => void {
    const end = this.#listeners.add(listener);
    this.#hold();
    return () => {
      if (end()) this.#release();
    };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<readonly Message[], void, undefined> {
    let fresh = this.known;
    let wake = () => {};
    const end = this.subscribe(() => {
      fresh = true;
      wake();
    });
    try {
      for (;;) {
        if (!fresh && !this.#over) await new Promise<void>((resolve) => (wake = resolve));
        if (this.#over) return;
        fresh = false;
        yield this.messages;
      }
    } finally {
      end();
    }
  }

  /** What a new line has to be told. */
  *frames(): Iterable<ClientFrame> {
    if (this.#holds === 0) return;
    if (!this.#watching) {
      this.#asked += 1;
      yield this.#watch();
    }
    yield* this.#outbox.frames();
  }

  /** The line has closed. */
  lost(): void {
    this.#watching = false;
    this.#asked = 0;
    this.#live();
  }

  /** The message or answer of this id, also one that another one has replaced. */
  message(id: string): Message | undefined {
    return this.#transcript.message(id);
  }

  /** Whether a frame of the server is about this conversation. */
  concerns(frame: ServerFrame): boolean {
    const { type, conversation, key, response } = frame as { type: string; conversation?: string; key?: string; response?: string };
    if (conversation !== undefined) return conversation === this.id;
    if (key !== undefined) return this.#outbox.has(key);
    if (response !== undefined) return this.message(response) !== undefined;
    // What was refused without saying what is a watch, where one is not answered.
    return type === "error" && this.#holds > 0 && !this.#watching;
  }

  /** Take a frame that is about this conversation. */
  take(frame: ServerFrame): void {
    switch (frame.type) {
      case "watching":
        this.#answered();
        if (this.#asked > 0 || !this.#followed) return;
        this.#watching = true;
        this.fault = null;
        this.#live();
        if (frame.resumed) {
          this.#resumed = setTimeout(() => {
            this.#live();
            this.changed();
          }, RESUMED_SHOWN);
        }
        break;
      case "accepted":
        this.#accept(frame);
        break;
      case "error":
        this.#refused(frame);
        break;
      default:
        // What is still on its way when everything is asked for anew would come twice.
        if (!this.#watching) return;
    }
    this.#transcript.fold(frame);
    if (frame.type === "message") {
      const { id, role, response } = frame.message;
      if (role === "user") this.#transcript.mark(id, { key: this.#outbox.said(frame.message) });
      // It may be the first that is heard of the end.
      else if (response !== undefined) this.#outbox.ended(response);
    }
    if (frame.type === "status" && frame.state === "ended") this.#outbox.ended(frame.response);
    if ("response" in frame && this.#transcript.answer(frame.response)?.state === "ended") this.#outbox.ended(frame.response);
    // What heals it comes after `watching`.
    if (this.#transcript.damaged && this.#watching && frame.type !== "watching") {
      this.#follow();
    }
    this.changed();
  }

  /** Something that is readable here may be different. */
  changed(): void {
    this.#shown = undefined;
    this.#listeners.tell();
  }

  save(): Kept {
    return { transcript: this.#transcript.save(), unsent: this.#outbox.save() };
  }

  /** The client is closed. */
  close(): void {
    this.#over = true;
    this.lost();
    this.#outbox.refuse(undefined, { code: "closed", message: "Closed here." });
    this.changed();
  }

  /** No longer only just resumed. */
  #live(): void {
    clearTimeout(this.#resumed);
    this.#resumed = undefined;
  }

  /** A watch was answered, or nobody was waiting for what came. */
  #answered(): void {
    this.#asked = Math.max(0, this.#asked - 1);
  }

  /** Follow from what is here. */
  #follow(): void {
    this.#watching = false;
    if (this.#around.connection.say(this.#watch())) this.#asked += 1;
  }

  #watch(): ClientFrame {
    this.#followed = true;
    return this.#transcript.watch();
  }

  #hold(): void {
    this.#holds += 1;
    if (this.#holds > 1) return;
    this.#around.connection.begin();
    // Not if it was let go of this very moment: React mounts twice.
    if (!this.#followed) this.#follow();
  }

  #release(): void {
    this.#holds -= 1;
    queueMicrotask(() => {
      if (this.#holds > 0 || !this.#followed) return;
      this.#followed = this.#watching = false;
      this.#live();
      this.#around.connection.say({ type: "unwatch", conversation: this.id });
    });
  }

  #ask(frame: Keyed, guard: Guard | null | undefined): Promise<Sent> {
    const sent = new Promise<Sent>((resolve, reject) => {
      const settle = (become: Sent | Fault) => {
        if ("code" in become) reject(new Refusal(become.code, become.message));
        else resolve(become);
        this.#release();
      };
      this.#hold();
      this.#outbox.ask({ frame, guard, settle });
    });
    // The message itself shows that it was refused.
    sent.catch(() => {});
    const { frame: most = Infinity, text: longest = Infinity } = this.#around.limits;
    const text = "text" in frame ? frame.text : "-";
    if (text === "" || text.length > longest || new TextEncoder().encode(JSON.stringify(frame)).length > most) {
      // The gateway would not say which frame it was, or close the line, each time that this is said again.
      this.#outbox.refuse(frame.key, { code: "bad_frame", message: `A message has 1 to ${longest} characters.` });
    } else {
      this.#around.connection.say(frame);
    }
    this.changed();
    return sent;
  }

  #accept(frame: Accepted): void {
    const { message, response } = frame;
    const asked = this.#outbox.accept(frame);
    if (asked === undefined) return;
    const { frame: said, guard } = asked;
    // What its text let one take for it is another one's, if it is not this.
    this.#transcript.mark(asked.message ?? "", { key: undefined });
    if (said.type === "send") this.#transcript.mark(message, { key: said.key });
    else this.#transcript.mark(said.response, { retrying: false });
    // A guard that can not be loaded lets the answer be, as one that fails does.
    if (guard) import("./judge.js").then(({ judge }) => judge(this, guard, response, message), () => {});
  }

  #refused({ key, code, message, retry_after }: Refused): void {
    if (key === undefined && !this.#watching) this.#answered();
    // What a moment's patience heals stays in the outbox.
    if (retry_after !== undefined) this.#around.connection.sayAgain(retry_after);
    else if (key === undefined && code !== "bad_frame") {
      // Of what is followed, only a fresh token takes the right to; anything else was about a stop.
      if (!this.#watching || code === "forbidden") this.fault = { code, message };
    }
    // A bad frame's key could not be read: it is one of those without an answer.
    else
      for (const { frame } of this.#outbox.refuse(key, { code, message })) {
        if (frame.type === "retry") this.#transcript.mark(frame.response, { retrying: false });
      }
  }
}
