// What is loaded later, from the gateway that served this file. Stands in for chunks.ts there.

import type { Colour } from "../markdown/colours.js";
import type { markdown } from "../markdown/markdown.js";
import { type Chunk, load } from "./verified.js";

/** Put in when it is built. */
declare const MARKDOWN: Chunk;
declare const COLOURS: Chunk;

export async function loadMarkdown(nonce?: string): Promise<typeof markdown> {
  return (await load<{ markdown: typeof markdown }>(MARKDOWN, import.meta.url, nonce)).markdown;
}

export async function loadColours(nonce?: string): Promise<Colour> {
  return (await load<{ colour: Colour }>(COLOURS, import.meta.url, nonce)).colour;
}
