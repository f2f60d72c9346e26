// Every word that the widget says. A page replaces any of them; `{name}` is filled in.

export const TEXTS = {
  title: "Chat",
  open: "Open the chat",
  close: "Close the chat",
  newChat: "New chat",
  messages: "Messages",
  greeting: "How can I help?",
  promise: "Answers stay whole: reload, lose the network or open a second tab, and they go on where they were.",
  suggestions: "Suggestions",
  placeholder: "Ask something",
  send: "Send",
  stop: "Stop",
  stopping: "Stopping",
  retry: "Try again",
  regenerate: "Another answer",
  goOn: "Go on from here",
  copy: "Copy",
  copied: "Copied",
  toEnd: "To the latest message",
  older: "Older messages are not shown.",
  reasoning: "Thoughts",
  you: "You",
  answer: "Answer",
  unread: "{count} unread",

  connecting: "Connecting",
  reconnecting: "Connection lost. Trying again in {seconds} s",
  reconnectingNow: "Connection lost. Trying again",
  offline: "You are offline. What you write is sent once you are back.",
  behind: "Catching up",
  resumed: "Back, and nothing is lost",
  expired: "Your session has ended. Load the page again to go on.",
  forbiddenPage: "This website may not use this chat.",
  closed: "The chat is not available: {reason}",
  tryNow: "Try now",

  queued: "Waits for its turn",
  waiting: "The model is busy. Asking again in {seconds} s",
  held: "The service does not answer. This goes on when it does",
  recovering: "Going on with another worker",
  thinking: "Thinking",
  stopped: "Stopped",
  guarded: "Stopped by a guard",
  length: "Cut off: the answer is too long",
  refused: "The model refused to answer",
  filtered: "The provider held this answer back",
  toolCalls: "The model asked for a tool",
  failed: "The answer failed: {reason}",
  failedBare: "The answer failed",
  sending: "Sent once the connection is back",
  notSent: "Not sent: {reason}",
  sendAgain: "Send again",
  edit: "Edit",

  saidStart: "Answering.",
  saidEnd: "Answer complete.",
  saidStopped: "Answer stopped.",
  saidFailed: "The answer failed.",
  saidLost: "Connection lost.",
  saidBack: "Connected again.",
  saidCode: "Code.",

  code: "Code",
  table: "Table",
  showImage: "Show image",
  done: "Done",
  todo: "To do",
};

export type Texts = typeof TEXTS;

/** A text with what it names filled in. */
export function filled(text: string, values: Readonly<Record<string, string | number>>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
