// Lazy chunks of the npm package, loaded by the bundler of the application.

import type { Highlighter } from "../markdown/highlight.js";
import type { markdown } from "../markdown/markdown.js";

/** Load the markdown renderer. */
export async function loadMarkdown(_nonce?: string): Promise<typeof markdown> {
  return (await import("../markdown/markdown.js")).markdown;
}

/** Load the syntax highlighter. */
export async function loadHighlighter(_nonce?: string): Promise<Highlighter> {
  return (await import("../markdown/highlight.js")).highlight;
}
