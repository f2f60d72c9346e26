// Entry `tokenwire/react`: a hook for the client, and a component for the element `<tokenwire-chat>`.

import {
  type CSSProperties,
  createElement,
  type ReactElement,
  useCallback,
  useEffect,
  useRef,
  useSyncExternalStore,
} from "react";

import type { AssistantMessage, Conversation, ConversationState, Message, Problem } from "../client/client.js";
import type { Settings } from "../widget/settings.js";

export type { Settings };

/** The current content of a conversation; the same object until a change. */
export interface ConversationView {
  readonly messages: readonly Message[];
  readonly state: ConversationState;
  readonly answering: AssistantMessage | undefined;
  readonly known: boolean;
  readonly more: boolean;
  readonly fault: Problem | null;
}

const views = new WeakMap<Conversation, ConversationView>();

function viewOf(
  { messages, state, answering, known, more, fault }: Conversation,
  before: ConversationView | undefined,
): ConversationView {
  const now = { messages, state, answering, known, more, fault };
  const names = Object.keys(now) as (keyof ConversationView)[];
  return before !== undefined && names.every((name) => now[name] === before[name]) ? before : now;
}

/**
 * Return the content of a conversation and render again after each change. The client watches the conversation while a
 * component uses the hook. Call `send`, `stop` and `retry` on the conversation itself.
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
  /** Called with every message that becomes part of the history. */
  onMessage?: (message: Message) => void;
  /** Called with every new state of the connection. */
  onState?: (state: ConversationState) => void;
  /** Called with every refusal. */
  onError?: (error: unknown) => void;
}

/** Render `<tokenwire-chat>`. A new gateway, conversation, token, theme or direction creates a new element. */
export function TokenwireChat({
  className,
  style,
  onMessage,
  onState,
  onError,
  ...settings
}: TokenwireChatProps): ReactElement {
  const container = useRef<HTMLDivElement>(null);
  const latest = useRef({ settings, onMessage, onState, onError });
  useEffect(() => {
    latest.current = { settings, onMessage, onState, onError };
  });
  const { url, conversation, token, theme, dir } = settings;
  // biome-ignore lint/correctness/useExhaustiveDependencies: the element reads its settings once, so a change needs a new one
  useEffect(() => {
    let chat: HTMLElement | undefined;
    let unmounted = false;
    // A lazy import, so that the module can be imported on a server, where there are no elements.
    void import("../widget/define.js").then(({ TokenwireChat: Chat }) => {
      if (unmounted || container.current === null) return;
      const element = new Chat();
      element.settings = latest.current.settings;
      const forward = (name: string, listener: (detail: never) => void) =>
        element.addEventListener(`tokenwire-${name}`, (event) => listener((event as CustomEvent<never>).detail));
      forward("message", (message: Message) => latest.current.onMessage?.(message));
      forward("state", (state: ConversationState) => latest.current.onState?.(state));
      forward("error", (error: unknown) => latest.current.onError?.(error));
      container.current.append(element);
      chat = element;
    });
    return () => {
      unmounted = true;
      chat?.remove();
    };
  }, [url, conversation, token, theme, dir]);
  return createElement("div", { ref: container, className, style });
}
