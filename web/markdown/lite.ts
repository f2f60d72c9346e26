// The text of an answer as it stands, with its code apart: what is shown until the full renderer is loaded, and all
// that a page needs which has no room for more.

import type { Markdown } from "./markdown.js";

/** Show text in an element, which has to be empty. See `markdown()`, which does the same with all marks read. */
export function lite(parent: HTMLElement): Markdown {
  /** The last line, without its line feed, and where it is shown. */
  let rest = "";
  let half: Text | null = null;
  let open: { element: HTMLElement; code: boolean } | null = null;

  const begin = (code: boolean) => {
    const element = document.createElement(code ? "pre" : "p");
    if (code) element.tabIndex = 0;
    else {
      element.className = "plain";
      element.dir = "auto";
    }
    parent.append(element);
    open = { element, code };
    return open;
  };
  const take = (line: string, whole: boolean) => {
    if (whole && /^ {0,3}(?:```|~~~)/.test(line)) open = open?.code ? null : begin(true);
    else if (whole && line.trim() === "" && !open?.code) open = null;
    else {
      const { element } = open ?? begin(false);
      const text = element.lastChild instanceof Text ? element.lastChild : element.appendChild(new Text());
      text.appendData(whole ? `${line}\n` : line);
    }
  };

  return {
    write(delta) {
      const lines = (rest + delta).split("\n");
      rest = lines.pop() ?? "";
      half?.remove();
      for (const line of lines) take(line, true);
      // Of a line that may become a fence nothing is shown yet.
      half = /^\s*$|^ {0,3}[`~]/.test(rest) ? null : new Text(rest);
      if (half !== null) (open ?? begin(false)).element.append(half);
    },
    reset(text) {
      parent.replaceChildren();
      open = half = null;
      rest = "";
      this.write(text);
    },
    end() {
      half?.remove();
      half = null;
      if (rest !== "") take(rest, false);
      rest = "";
    },
  };
}
