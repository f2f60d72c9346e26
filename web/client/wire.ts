// Every frame and close code of protocol version 1, both directions side by side; gateway/PROTOCOL.md says it in prose.

/** Why something was refused, or an answer failed: a code for the program, a sentence for the person. */
export interface Fault {
  readonly code: string;
  readonly message: string;
}

/** How many tokens a provider counted. */
export interface Usage {
  readonly input_tokens?: number;
  readonly output_tokens?: number;
}

/** What the gateway lets a client do. `text`: characters of a message; `frame`: bytes of a frame. */
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
}

export interface Token {
  type: "token";
  token: string;
}

export type ClientFrame = Hello | Watch | Unwatch | Send | Stop | Retry | Token;

/** A frame that is said again until it is answered; its key makes that harmless. */
export type Keyed = Send | Retry;

// ---- Server frames ------------------------------------------------------------------------------------------------

export interface Ready {
  type: "ready";
  session?: string;
  /** Seconds within which something comes. */
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

/** A finished utterance in the history. */
export interface Utterance {
  id: string;
  role: "user" | "assistant";
  text: string;
  response?: string;
  replies_to?: string;
  replaces?: string;
  reason?: string;
  retryable?: boolean;
  error?: Fault;
  usage?: Usage;
}

/** What a response without an end is doing. */
export type Doing = "queued" | "waiting" | "recovering" | "running";

/** A response without an end, as a snapshot shows it. */
export interface OpenResponse {
  response: string;
  cursor: string;
  state: Doing;
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
  messages: Utterance[];
  responses: OpenResponse[];
  more?: boolean;
}

export interface Said {
  type: "message";
  conversation: string;
  cursor: string;
  message: Utterance;
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
  state: Doing | "ended";
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
  error?: Fault;
  retryable?: boolean;
}

export interface Accepted {
  type: "accepted";
  key: string;
  message: string;
  response: string;
  duplicate: boolean;
}

export interface Refused extends Fault {
  type: "error";
  key?: string;
  /** Over plain HTTP, where a request names what it is about. */
  conversation?: string;
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
  | Said
  | Start
  | Delta
  | Reset
  | Status
  | End
  | Accepted
  | Refused
  | Moving
  | Heartbeat;

// ---- Close codes --------------------------------------------------------------------------------------------------

/** The close codes that mean something of their own to a client; of the others it is their range that counts. */
export const enum Close {
  /** The line broke without a word. */
  LOST = 1006,
  NOT_AUTHENTICATED = 4401,
}
