// Frames and close codes of protocol version 1. Generated from gateway/wire.py by `make generated`: do not edit.
// gateway/PROTOCOL.md describes them.

// Objects in frames

/** Limits of a client. */
export interface Limits {
  /** Bytes of a frame. */
  frame: number;
  /** Characters of a message. */
  text: number;
  /** Conversations watched at once. */
  conversations: number;
}

/** A message of the history. An assistant's has `response` and how that ended. */
export interface Message {
  /** The message. */
  id: string;
  /** Its author. */
  role: "user" | "assistant";
  /** The whole text. */
  text: string;
  /** The response that it settles. */
  response?: string;
  /** The message that it answers. */
  replies_to?: string;
  /** The response that it replaces. */
  replaces?: string;
  /** As in `end`. */
  reason?: string;
  /** As in `end`. */
  retryable?: boolean;
  /** As in `end`. */
  error?: Problem;
  /** As in `end`. */
  usage?: Record<string, number>;
}

/** A response without an end in a snapshot: its content up to `cursor`. */
export interface OpenResponse {
  /** The response. */
  response: string;
  /** Its cursor. */
  cursor: string;
  /** As in `status`, never `ended`. */
  state: "queued" | "waiting" | "recovering" | "running" | "ended";
  /** Alias of the model. */
  model: string;
  /** Number of the attempt; 0 before the first. */
  attempt: number;
  /** The text so far. */
  text: string;
  /** The reasoning so far. */
  reasoning?: string;
  /** The message that it answers. */
  replies_to?: string;
  /** The response that it replaces. */
  replaces?: string;
}

/** A failure: a code for programs and a sentence for the user. */
export interface Problem {
  code: string;
  message: string;
  /** For operators: the provider's own name of the reason, at most 64 safe characters. */
  detail?: string;
}

// Client frames

/** First frame of a socket, within 5 seconds. */
export interface Hello {
  type: "hello";
  /** JSON Web Token; needed where the gateway requires authentication. */
  token?: string | undefined;
  /** Name and version of the client program. */
  client?: string | undefined;
}

/** Subscribe to a conversation. Repeating it restarts the subscription from these cursors. */
export interface Watch {
  type: "watch";
  /** The conversation. */
  conversation: string;
  /** The client's cursor of the conversation. */
  after?: string | undefined;
  /** Each response without an end that the client shows, to its cursor. */
  responses?: Record<string, string> | undefined;
}

/** Ask for messages that a `snapshot` left out; no watch is needed. */
export interface Older {
  type: "older";
  /** The conversation. */
  conversation: string;
  /** `earlier` of the snapshot, or of the last page. */
  before: string;
}

/** Unsubscribe from a conversation. */
export interface Unwatch {
  type: "unwatch";
  /** The conversation. */
  conversation: string;
}

/** Send a user message. The same key with the same content is the same message, for a day and one subject. */
export interface Send {
  type: "send";
  /** Idempotency key that the client chooses. */
  key: string;
  /** The conversation; it need not exist yet. */
  conversation: string;
  /** The message. */
  text: string;
  /** Alias of a model, as the operator named it. */
  model?: string | undefined;
  /** System prompt of this answer. */
  instructions?: string | undefined;
  /** Output tokens of this answer at most. */
  max_tokens?: number | undefined;
  /** Response whose question this message asks again in other words. */
  replaces?: string | undefined;
  /** While another answer is open: wait for it, refuse this message, or stop the open answers. */
  if_busy?: "queue" | "reject" | "interrupt" | undefined;
  /** W3C Trace Context; the answer becomes part of the trace. */
  traceparent?: string | undefined;
  /** Texts by name for the operator's generator, such as the page that the user is on. */
  metadata?: Record<string, string> | undefined;
}

/** End a response in whatever state it is. Repeating it changes nothing. */
export interface Stop {
  type: "stop";
  /** The response. */
  response: string;
  /** Stopped by the user, or by a check of its first tokens. */
  reason?: "stopped" | "guarded" | undefined;
}

/** Ask for another answer in place of a response that has ended. */
export interface Retry {
  type: "retry";
  /** The response to replace. */
  response: string;
  /** Idempotency key that the client chooses. */
  key: string;
  /** Start again, or continue from its text. */
  mode?: "restart" | "continue" | undefined;
  /** W3C Trace Context; the answer becomes part of the trace. */
  traceparent?: string | undefined;
}

/** Replace the token before it expires. A conversation that the new one does not open is unsubscribed. */
export interface Token {
  type: "token";
  /** JSON Web Token with the same `sub`. */
  token: string;
}

// Server frames

/** Answer to `hello`. */
export interface Ready {
  type: "ready";
  /** Name of this connection in the gateway's log. */
  session: string;
  /** Maximum seconds between two frames; after 2.5 times that the connection is dead. */
  heartbeat: number;
  /** Limits of a client. */
  limits: Limits;
  /** Aliases that `send` may name, where the gateway knows them. */
  models?: string[];
}

/** Answer to `watch`. It may also come later, with a `snapshot`, when the store has lost a part of the history. */
export interface Watching {
  type: "watching";
  /** The conversation. */
  conversation: string;
  /** Its cursor. */
  cursor: string;
  /** Frames continue from `after`; otherwise a `snapshot` follows. */
  resumed: boolean;
  /** Why not resumed: the cursor is not valid, its entry is lost, or more follows it than a snapshot holds. */
  reason?: "unknown" | "lost" | "behind";
}

/** The whole state of a conversation, which replaces what the client shows. */
export interface Snapshot {
  type: "snapshot";
  /** The conversation. */
  conversation: string;
  /** Its cursor. */
  cursor: string;
  /** The newest messages, oldest first. */
  messages: Message[];
  /** Responses without an end. */
  responses: OpenResponse[];
  /** Older messages were left out. */
  more?: boolean;
  /** With `more`: what `older` takes to return the messages before these. */
  earlier?: string;
}

/** Answer to `older`: a page of messages. It moves no cursor. */
export interface Messages {
  type: "messages";
  /** The conversation. */
  conversation: string;
  /** As in `older`. */
  before: string;
  /** The messages before it, oldest first; bounded like those of a snapshot. */
  messages: Message[];
  /** There are older messages. */
  more?: boolean;
  /** With `more`: what `older` takes to return the messages before these. */
  earlier?: string;
}

/** A new message in the history. For an answer it comes after its `end`, and settles it. */
export interface MessageFrame {
  type: "message";
  /** The conversation. */
  conversation: string;
  /** Its cursor. */
  cursor: string;
  /** The message. */
  message: Message;
}

/** A worker has begun an attempt. */
export interface Start {
  type: "start";
  /** The conversation. */
  conversation: string;
  /** The response. */
  response: string;
  /** Its cursor. */
  cursor: string;
  /** Alias of the model. */
  model: string;
  /** Number of the attempt, from 1. */
  attempt: number;
  /** The message that it answers. */
  replies_to?: string;
  /** The response that it replaces. */
  replaces?: string;
}

/** Text to append: one token, or everything since the cursor (adjacent text is coalesced). */
export interface Delta {
  type: "delta";
  /** The response. */
  response: string;
  /** Its cursor. */
  cursor: string;
  /** Text to append. */
  text: string;
  /** Reasoning to append; it is not part of the answer. */
  reasoning?: string;
}

/** Text that replaces what the client shows of a response. */
export interface Reset {
  type: "reset";
  /** The response. */
  response: string;
  /** Its cursor. */
  cursor: string;
  /** The whole text so far. */
  text: string;
  /** The whole reasoning so far. */
  reasoning?: string;
  /** Another worker took over, the cursor is not in the log, or the log has expired. */
  reason: "attempt" | "lost" | "gone";
}

/** What a response does where its text does not show it. */
export interface Status {
  type: "status";
  /** The response. */
  response: string;
  /**
   * `waiting`: for the provider, for `retry_in` seconds; without `retry_in` the store is unavailable. `recovering`:
   * another worker takes over. `ended`: only as the answer to `stop`.
   */
  state: "queued" | "waiting" | "recovering" | "running" | "ended";
  /** The response's cursor, where the client has everything up to it. */
  cursor?: string;
  /** The conversation. */
  conversation?: string;
  /** The message that it answers. */
  replies_to?: string;
  /** The response that it replaces. */
  replaces?: string;
  /** Seconds until the provider is called again. */
  retry_in?: number;
  /** With text shown: its provider failed with this error code, and another one continues the text. */
  switched?: string;
}

/**
 * The last frame of a response.
 *
 * Only a `reset` or a `snapshot` may follow: the store lost the end in a failover, or the client was disconnected
 * between the end and the settled message, and gets both again.
 */
export interface End {
  type: "end";
  /** The conversation. */
  conversation: string;
  /** The response. */
  response: string;
  /** Its cursor. */
  cursor: string;
  /**
   * `complete`, `stopped`, `guarded`, `length`, `refused`, `filtered`, `tool_calls` or `failed`; treat an unknown one
   * as an end.
   */
  reason: string;
  /** Unicode code points of the whole text. If the client's text has another number, watch without cursors. */
  chars?: number;
  /** `input_tokens` and `output_tokens` of the provider. */
  usage?: Record<string, number>;
  /** Why it failed. */
  error?: Problem;
  /** Whether to offer a retry. */
  retryable?: boolean;
}

/** Answer to `send` and `retry`, before or after the frames that all viewers get. */
export interface Accepted {
  type: "accepted";
  /** The idempotency key of the request. */
  key: string;
  /** The user message. */
  message: string;
  /** Its response. */
  response: string;
  /** The key was used before; nothing was added. */
  duplicate: boolean;
}

/**
 * A request was refused; the socket stays open.
 *
 * A send or retry is named by its `key`, a watch by its `conversation`, a stop by its `response`.
 */
export interface ErrorFrame {
  type: "error";
  /** One of the error codes below. */
  code: string;
  /** For the developer or the user. */
  message: string;
  /** The refused send or retry. */
  key?: string;
  /** The refused watch. */
  conversation?: string;
  /** The refused stop. */
  response?: string;
  /** Seconds after which to repeat the request. */
  retry_after?: number;
  /** What is wrong with the token; the socket is closed next. */
  problem?:
    | "token_missing"
    | "malformed"
    | "wrong_algorithm"
    | "wrong_key"
    | "claims_invalid"
    | "wrong_audience"
    | "wrong_issuer"
    | "expired"
    | "not_yet_valid"
    | "lifetime_too_long"
    | "no_conversations"
    | "conversations_invalid"
    | "other_subject";
}

/** Reconnect hint: the gateway shuts down and closes with 1012 after `within` seconds. */
export interface Moving {
  type: "moving";
  /** Reconnect at a random moment within so many seconds. */
  within: number;
}

/** Nothing happened. */
export interface Heartbeat {
  type: "heartbeat";
}

export type ClientFrame = Hello | Watch | Older | Unwatch | Send | Stop | Retry | Token;

export type ServerFrame =
  | Ready
  | Watching
  | Snapshot
  | Messages
  | MessageFrame
  | Start
  | Delta
  | Reset
  | Status
  | End
  | Accepted
  | ErrorFrame
  | Moving
  | Heartbeat;

/** Close codes. Reconnect with full-jitter backoff after 1xxx; after 4xxx only when something has changed. */
export enum Close {
  TOO_BIG = 1009,
  RESTART = 1012,
  OVERLOADED = 1013,
  NOT_THE_PROTOCOL = 4400,
  NOT_AUTHENTICATED = 4401,
  FORBIDDEN_ORIGIN = 4403,
  NO_HELLO = 4408,
  TOO_FAST = 4429,
}
