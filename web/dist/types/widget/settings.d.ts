import type { Client } from "../client/client.js";
import type { Texts } from "./texts.js";
export interface Settings {
    /** An existing client, instead of one for `url` and the token. */
    client?: Client;
    /** Address of the gateway. Default: the origin of the script. */
    url?: string;
    /** Id of the conversation. Default: the last one of this browser, or a new one. */
    conversation?: string;
    token?: string;
    /** Returns a fresh token; see `Options` of the client. */
    getToken?: () => string | null | Promise<string | null>;
    title?: string;
    /** `auto` follows the user's system. */
    theme?: "auto" | "light" | "dark";
    dir?: "ltr" | "rtl";
    lang?: string;
    /** Side of the page with the launcher, in reading direction. */
    position?: "end" | "start";
    /** Questions to send with a click in an empty conversation. */
    prompts?: readonly string[];
    /** Origins whose images in answers load without a click. */
    images?: readonly string[];
    /** Replacements of visible texts, such as translations. */
    texts?: Partial<Texts>;
    /** Alias of the model, and its instructions. */
    model?: string;
    instructions?: string;
    /** Show only the messages: no header, no composer, no announcements. */
    view?: boolean;
    /** Show debug information, such as the time to the first token. */
    debug?: boolean;
    /** Open a floating chat initially. */
    open?: boolean;
    /** Nonce for the chunks, if the content security policy requires one. */
    nonce?: string;
}
/** Return the settings of `data-` attributes. Invalid values are ignored. */
export declare function fromAttributes(data: Readonly<Record<string, string | undefined>>): Settings;
