// Every visible or announced text of the widget. A page can replace each; `{name}` is a placeholder.

export const TEXTS = {
  title: "Chat",
  open: "Open the chat",
  close: "Close the chat",
  newChat: "New chat",
  messages: "Messages",
  greeting: "How can I help?",
  promise: "Answers continue after a reload, a lost connection or in a second tab.",
  suggestions: "Suggestions",
  placeholder: "Ask something",
  send: "Send",
  stop: "Stop",
  stopping: "Stopping",
  retry: "Try again",
  regenerate: "Regenerate",
  goOn: "Continue",
  copy: "Copy",
  copied: "Copied",
  toEnd: "Scroll to the latest message",
  older: "Show earlier messages",
  reasoning: "Reasoning",
  you: "You",
  answer: "Answer",
  unread: "{count} unread",

  connecting: "Connecting",
  reconnecting: "Connection lost. Retrying in {seconds} s",
  reconnectingNow: "Connection lost. Retrying",
  offline: "You are offline. Messages are sent after you reconnect.",
  behind: "Catching up",
  resumed: "Reconnected. Nothing was lost",
  expired: "Your session has expired. Reload the page to continue.",
  forbiddenPage: "This website is not allowed to use this chat.",
  closed: "The chat is not available: {reason}",
  tryNow: "Try now",

  queued: "Queued",
  waiting: "The model is busy. Retrying in {seconds} s",
  held: "The service is unavailable. The answer continues when it recovers",
  recovering: "Continuing on another worker",
  thinking: "Thinking",
  stopped: "Stopped",
  guarded: "Stopped by a guard",
  length: "Cut off at the length limit",
  refused: "The model refused to answer",
  filtered: "The provider filtered this answer",
  toolCalls: "The model requested a tool",
  failed: "The answer failed: {reason}",
  failedBare: "The answer failed",
  sending: "Sent after the reconnect",
  notSent: "Not sent: {reason}",
  sendAgain: "Send again",
  edit: "Edit",

  saidStart: "Answering.",
  saidEnd: "Answer complete.",
  saidStopped: "Answer stopped.",
  saidFailed: "The answer failed.",
  saidLost: "Connection lost.",
  saidBack: "Reconnected.",
  saidCode: "Code.",

  code: "Code",
  table: "Table",
  showImage: "Show image",
  done: "Done",
  todo: "To do",
};

export type Texts = typeof TEXTS;

/** Return a text with its placeholders filled in. */
export function filled(text: string, values: Readonly<Record<string, string | number>>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
