// What a page says about its chat: in the script tag, on the element, or to `Tokenwire.init`.
// Pure.

import type { Client } from "../client/client.js";
import type { Texts } from "./texts.js";

export interface Settings {
  /** A client of the page's own, instead of one for `url` and the token. */
  client?: Client;
  /** The gateway. Where the script was loaded from, unless told. */
  url?: string;
  /** The conversation; without one, the one that this browser had last, or a new one. */
  conversation?: string;
  token?: string;
  /** Brings a fresh token; see the client. */
  getToken?: () => string | null | Promise<string | null>;
  title?: string;
  /** `auto` is what the reader's system is. */
  theme?: "auto" | "light" | "dark";
  dir?: "ltr" | "rtl";
  lang?: string;
  /** At which side of the page the launcher stands, as one reads. */
  position?: "end" | "start";
  /** What may be asked with a click, while nothing was said yet. */
  prompts?: readonly string[];
  /** Origins from which images in answers are loaded at once. */
  images?: readonly string[];
  /** Words in another language, or other words. */
  texts?: Partial<Texts>;
  /** An alias of a model, and what it is told before each answer. */
  model?: string;
  instructions?: string;
  /** Only shows the conversation, and says nothing aloud: no head, nowhere to write. */
  view?: boolean;
  /** Shows the time to the first token, and what else a developer wants to see. */
  debug?: boolean;
  /** Whether a floating chat is open from the beginning. */
  open?: boolean;
  /** For the chunks, under a policy that asks for one. */
  nonce?: string;
}

/** The settings in `data-` attributes. What is not understood is left out. */
export function fromAttributes(data: Readonly<Record<string, string | undefined>>): Settings {
  const settings: Settings = {};
  for (const name of ["url", "conversation", "token", "title", "lang", "model", "instructions"] as const) {
    if (data[name]) settings[name] = data[name];
  }
  const { theme, dir, position, prompts, images, view, debug, open } = data;
  if (theme === "light" || theme === "dark" || theme === "auto") settings.theme = theme;
  if (dir === "ltr" || dir === "rtl") settings.dir = dir;
  if (position === "start" || position === "end") settings.position = position;
  if (prompts)
    settings.prompts = prompts
      .split("|")
      .map((each) => each.trim())
      .filter(Boolean);
  if (images) settings.images = images.split(/\s+/).filter(Boolean);
  if (view !== undefined) settings.view = view !== "false";
  if (debug !== undefined) settings.debug = debug !== "false";
  if (open !== undefined) settings.open = open !== "false";
  return settings;
}
