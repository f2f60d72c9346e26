import { type CSSProperties, type ReactElement } from "react";
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
/**
 * Show a conversation of the client in a component. It is followed as long as a component uses it; `send`, `stop` and
 * `retry` are the conversation's own.
 */
export declare function useConversation(conversation: Conversation): ConversationView;
export interface TokenwireChatProps extends Settings {
    className?: string;
    style?: CSSProperties;
    /** Told of every message that is settled, of the line, and of what was refused. */
    onMessage?: (message: Message) => void;
    onState?: (state: ConversationState) => void;
    onError?: (error: unknown) => void;
}
/** The element `<tokenwire-chat>`. It is made anew when the gateway, the conversation or the token is another. */
export declare function TokenwireChat({ className, style, onMessage, onState, onError, ...settings }: TokenwireChatProps): ReactElement;
