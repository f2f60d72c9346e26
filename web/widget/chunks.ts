// What is loaded later, for whoever bundles the element into something of their own.

import type { Colour } from "../markdown/colours.js";
import type { markdown } from "../markdown/markdown.js";

/** The renderer of markdown. */
export async function loadMarkdown(_nonce?: string): Promise<typeof markdown> {
  return (await import("../markdown/markdown.js")).markdown;
}

/** The colours of code. */
export async function loadColours(_nonce?: string): Promise<Colour> {
  return (await import("../markdown/colours.js")).colour;
}
