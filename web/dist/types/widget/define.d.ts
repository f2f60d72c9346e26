import type { Conversation } from "../client/client.js";
import { type Settings } from "./settings.js";
export type { Settings };
/** A substitute on a server, where the module can be imported although there are no elements. */
declare const HtmlElement: {
    new (): HTMLElement;
    prototype: HTMLElement;
};
/**
 * A chat inside the page. Dispatches `tokenwire-conversation`, `tokenwire-message`, `tokenwire-state` and
 * `tokenwire-error`, with the object as `detail`.
 */
export declare class TokenwireChat extends HtmlElement {
    #private;
    /** Settings, which override the `data-` attributes. Read when the element is connected. */
    settings: Settings;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** The shown conversation; undefined while the element is not connected. */
    get conversation(): Conversation | undefined;
    /** Send a message as the user, and show it. */
    send(text: string): void;
    focus(): void;
}
