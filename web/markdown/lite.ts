// A renderer without markdown, except code blocks. Used until the markdown chunk is loaded.

import type { Markdown } from "./markdown.js";

/** Render text into an empty element, with the interface of `markdown()`. */
export function lite(parent: HTMLElement): Markdown {
  /** The last line, without its line feed, and its node. */
  let lastLine = "";
  let lastNode: Text | null = null;
  let open: { element: HTMLElement; code: boolean } | null = null;

  const start = (code: boolean) => {
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
  const add = (line: string, complete: boolean) => {
    if (complete && /^ {0,3}(?:```|~~~)/.test(line)) open = open?.code ? null : start(true);
    else if (complete && line.trim() === "" && !open?.code) open = null;
    else {
      const { element } = open ?? start(false);
      const text = element.lastChild instanceof Text ? element.lastChild : element.appendChild(new Text());
      text.appendData(complete ? `${line}\n` : line);
    }
  };

  return {
    write(delta) {
      const lines = (lastLine + delta).split("\n");
      lastLine = lines.pop() ?? "";
      lastNode?.remove();
      for (const line of lines) add(line, true);
      // A line that may become a code fence is not shown yet.
      lastNode = /^\s*$|^ {0,3}[`~]/.test(lastLine) ? null : new Text(lastLine);
      if (lastNode !== null) (open ?? start(false)).element.append(lastNode);
    },
    reset(text) {
      parent.replaceChildren();
      open = lastNode = null;
      lastLine = "";
      this.write(text);
    },
    end() {
      lastNode?.remove();
      lastNode = null;
      if (lastLine !== "") add(lastLine, false);
      lastLine = "";
    },
  };
}
