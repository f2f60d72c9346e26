import { type CSSProperties, type ReactElement } from "react";
import type { AssistantMessage, Conversation, ConversationState, ErrorDetails, Message } from "../client/client.js";
import type { Settings } from "../widget/settings.js";
export type { Settings };
/** The current content of a conversation; the same object until a change. */
export interface ConversationView {
    readonly messages: readonly Message[];
    readonly state: ConversationState;
    readonly answering: AssistantMessage | undefined;
    readonly known: boolean;
    readonly more: boolean;
    readonly fault: ErrorDetails | null;
}
/**
 * Return the content of a conversation and render again after each change. The client watches the conversation while a
 * component uses the hook. Call `send`, `stop` and `retry` on the conversation itself.
 */
export declare function useConversation(conversation: Conversation): ConversationView;
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
export declare function TokenwireChat({ className, style, onMessage, onState, onError, ...settings }: TokenwireChatProps): ReactElement;
