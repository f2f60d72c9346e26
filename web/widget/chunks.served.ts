// Lazy chunks of widget.js, loaded from its gateway. build.js replaces chunks.ts with this module.

import type { Highlighter } from "../markdown/highlight.js";
import type { markdown } from "../markdown/markdown.js";
import { type Chunk, load } from "./verified.js";

/** Defined by build.js. */
declare const MARKDOWN: Chunk;
declare const HIGHLIGHT: Chunk;

export async function loadMarkdown(nonce?: string): Promise<typeof markdown> {
  return (await load<{ markdown: typeof markdown }>(MARKDOWN, import.meta.url, nonce)).markdown;
}

export async function loadHighlighter(nonce?: string): Promise<Highlighter> {
  return (await load<{ highlight: Highlighter }>(HIGHLIGHT, import.meta.url, nonce)).highlight;
}
