// Every frame of protocol version 1, in both directions. gateway/PROTOCOL.md describes them.

/** Why a request was refused or an answer failed: a code for the program and a sentence for the user. */
export interface ErrorDetails {
  readonly code: string;
  readonly message: string;
}

/** Token counts of the provider. */
export interface Usage {
  readonly input_tokens?: number;
  readonly output_tokens?: number;
}

/** Limits for a client. `text`: characters of a message; `frame`: bytes of a frame; `conversations`: watched at once. */
export interface Limits {
  readonly frame?: number;
  readonly text?: number;
  readonly conversations?: number;
}

// ---- Client frames ------------------------------------------------------------------------------------------------

export interface Hello {
  type: "hello";
  token?: string | undefined;
  client?: string | undefined;
}

export interface Watch {
  type: "watch";
  conversation: string;
  after?: string;
  responses?: Record<string, string>;
}

export interface Unwatch {
  type: "unwatch";
  conversation: string;
}

export interface Send {
  type: "send";
  key: string;
  conversation: string;
  text: string;
  model?: string;
  instructions?: string;
  max_tokens?: number;
  replaces?: string;
  if_busy?: "queue" | "reject" | "interrupt";
  traceparent?: string;
}

export interface Stop {
  type: "stop";
  response: string;
  reason?: "stopped" | "guarded";
}

export interface Retry {
  type: "retry";
  response: string;
  key: string;
  mode?: "restart" | "continue";
  traceparent?: string;
}

export interface Token {
  type: "token";
  token: string;
}

export type ClientFrame = Hello | Watch | Unwatch | Send | Stop | Retry | Token;

/** A request that is repeated until it is answered. Its idempotency key prevents duplicates. */
export type KeyedRequest = Send | Retry;

// ---- Server frames ------------------------------------------------------------------------------------------------

export interface Ready {
  type: "ready";
  session?: string;
  /** Maximum seconds between two frames. */
  heartbeat: number;
  limits?: Limits;
  models?: string[];
}

export interface Watching {
  type: "watching";
  conversation: string;
  cursor: string;
  resumed: boolean;
  reason?: "unknown" | "lost";
}

/** A message of the history. An answer has `response` and how it ended. */
export interface Message {
  id: string;
  role: "user" | "assistant";
  text: string;
  response?: string;
  replies_to?: string;
  replaces?: string;
  reason?: string;
  retryable?: boolean;
  error?: ErrorDetails;
  usage?: Usage;
}

/** State of a response without an end. */
export type ResponseState = "queued" | "waiting" | "recovering" | "running";

/** A response without an end in a snapshot: its content up to `cursor`. */
export interface OpenResponse {
  response: string;
  cursor: string;
  state: ResponseState;
  model: string;
  attempt: number;
  text: string;
  reasoning?: string;
  replies_to?: string;
  replaces?: string;
}

export interface Snapshot {
  type: "snapshot";
  conversation: string;
  cursor: string;
  messages: Message[];
  responses: OpenResponse[];
  more?: boolean;
}

export interface MessageFrame {
  type: "message";
  conversation: string;
  cursor: string;
  message: Message;
}

export interface Start {
  type: "start";
  conversation: string;
  response: string;
  cursor: string;
  model: string;
  attempt: number;
  replies_to?: string;
  replaces?: string;
}

export interface Delta {
  type: "delta";
  response: string;
  cursor: string;
  text: string;
  reasoning?: string;
}

export interface Reset {
  type: "reset";
  response: string;
  cursor: string;
  text: string;
  reasoning?: string;
  reason: "attempt" | "lost" | "gone";
}

export interface Status {
  type: "status";
  response: string;
  state: ResponseState | "ended";
  cursor?: string;
  conversation?: string;
  replies_to?: string;
  replaces?: string;
  retry_in?: number;
}

export interface End {
  type: "end";
  conversation: string;
  response: string;
  cursor: string;
  reason: string;
  chars?: number;
  usage?: Usage;
  error?: ErrorDetails;
  retryable?: boolean;
}

export interface Accepted {
  type: "accepted";
  key: string;
  message: string;
  response: string;
  duplicate: boolean;
}

/** A refused request: a send or retry by its `key`, a watch by its `conversation`, a stop by its `response`. */
export interface ErrorFrame extends ErrorDetails {
  type: "error";
  key?: string;
  conversation?: string;
  response?: string;
  retry_after?: number;
}

export interface Moving {
  type: "moving";
  within: number;
}

export interface Heartbeat {
  type: "heartbeat";
}

export type ServerFrame =
  | Ready
  | Watching
  | Snapshot
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

// ---- Close codes --------------------------------------------------------------------------------------------------

/** Close codes that a client handles individually. For the others only the range counts. */
export enum Close {
  NOT_AUTHENTICATED = 4401,
  FORBIDDEN_ORIGIN = 4403,
}
