// `import { useConversation, TokenwireChat } from "tokenwire/react"`: thin, over the client and the element of the package.

import { createElement, useCallback, useEffect, useRef, useSyncExternalStore, type CSSProperties, type ReactElement } from "react";

import type { AssistantMessage, Conversation, ConversationState, Fault, Message } from "../client/client.js";
import type { Settings } from "../widget/settings.js";

export type { Settings };

/** A conversation as it is at one moment; the same object until something is different. */
export interface ConversationView {
  readonly messages: readonly Message[];
  readonly state: ConversationState;
  readonly answering: AssistantMessage | undefined;
  readonly known: boolean;
  readonly more: boolean;
  readonly fault: Fault | null;
}

const views = new WeakMap<Conversation, ConversationView>();

function viewOf({ messages, state, answering, known, more, fault }: Conversation, before: ConversationView | undefined): ConversationView {
  const now = { messages, state, answering, known, more, fault };
  const names = Object.keys(now) as (keyof ConversationView)[];
  return before !== undefined && names.every((name) => now[name] === before[name]) ? before : now;
}

/**
 * Show a conversation of the client in a component. It is followed as long as a component uses it; `send`, `stop` and
 * `retry` are the conversation's own.
 */
export function useConversation(conversation: Conversation): ConversationView {
  const subscribe = useCallback((listener: () => void) => conversation.subscribe(listener), [conversation]);
  const view = useCallback(() => {
    const now = viewOf(conversation, views.get(conversation));
    views.set(conversation, now);
    return now;
  }, [conversation]);
  return useSyncExternalStore(subscribe, view, view);
}

export interface TokenwireChatProps extends Settings {
  className?: string;
  style?: CSSProperties;
  /** Told of every message that is settled, of the line, and of what was refused. */
  onMessage?: (message: Message) => void;
  onState?: (state: ConversationState) => void;
  onError?: (error: unknown) => void;
}

/** The element `<tokenwire-chat>`. It is made anew when the gateway, the conversation or the token is another. */
export function TokenwireChat({ className, style, onMessage, onState, onError, ...settings }: TokenwireChatProps): ReactElement {
  const place = useRef<HTMLDivElement>(null);
  const latest = useRef({ settings, onMessage, onState, onError });
  useEffect(() => {
    latest.current = { settings, onMessage, onState, onError };
  });
  const { url, conversation, token, theme, dir } = settings;
  useEffect(() => {
    let chat: HTMLElement | undefined;
    let over = false;
    // The element is loaded with the first component that shows it, and never on a server.
    void import("../widget/define.js").then(({ TokenwireChat: Chat }) => {
      if (over || place.current === null) return;
      const made = new Chat();
      made.settings = latest.current.settings;
      const told = (name: string, tell: (detail: never) => void) => made.addEventListener(`tokenwire-${name}`, (event) => tell((event as CustomEvent<never>).detail));
      told("message", (message: Message) => latest.current.onMessage?.(message));
      told("state", (state: ConversationState) => latest.current.onState?.(state));
      told("error", (error: unknown) => latest.current.onError?.(error));
      place.current.append(made);
      chat = made;
    });
    return () => {
      over = true;
      chat?.remove();
    };
  }, [url, conversation, token, theme, dir]);
  return createElement("div", { ref: place, className, style });
}
