import type { Conversation } from "../client/client.js";
import { type Settings } from "./settings.js";
export type { Settings };
/** On a server there are no elements; the module may be imported there all the same. */
declare const HtmlElement: {
    new (): HTMLElement;
    prototype: HTMLElement;
};
/**
 * A chat as a part of the page. Dispatches `tokenwire-conversation`, `tokenwire-message`, `tokenwire-state` and
 * `tokenwire-error`, with what it is about as `detail`.
 */
export declare class TokenwireChat extends HtmlElement {
    #private;
    /** What `data-` attributes say as well, as far as they can. Read when the element is put on the page. */
    settings: Settings;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** The conversation that is shown; undefined while the element is not on the page. */
    get conversation(): Conversation | undefined;
    /** Send a message as the person, and show it. */
    send(text: string): void;
    focus(): void;
}
