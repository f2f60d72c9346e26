// Completes the markup of an unfinished text, so that marks like "**" do not appear while the text streams. Pure.

interface Mark {
  character: string;
  length: number;
  /** Its index in the completed text. */
  at: number;
}

const PUNCTUATION = /[\p{P}\p{S}]/u;
const NUMBERED = /^\^?\d*$/;

/**
 * Return the text with its open markup closed: emphasis and code get their closing marks, an incomplete link becomes its
 * label, and marks without content are removed.
 *
 * @param text an unfinished paragraph, list item or table cell
 */
export function completeMarkup(text: string): string {
  const marks: Mark[] = [];
  let completed = "";
  let index = 0;
  const take = (length: number) => {
    completed += text.slice(index, index + length);
    index += length;
  };
  while (index < text.length) {
    const character = text[index] ?? "";
    const rest = text.slice(index);
    if (character === "\\") {
      if (rest.length === 1) break;
      const math = /^\\[([]/.test(rest) ? rest.indexOf(rest[1] === "(" ? "\\)" : "\\]", 2) : 0;
      if (math > 0) take(math + 2);
      else if (math === 0) take(2);
      else {
        const content = rest.slice(2).replace(/\\$/, "");
        if (content.trim() !== "") completed += `${rest.slice(0, 2)}${content}${rest[1] === "(" ? "\\)" : "\\]"}`;
        break;
      }
    } else if (character === "`") {
      const ticks = /^`+/.exec(rest)?.[0] ?? "";
      const close = closingTicks(rest, ticks);
      if (close !== -1) {
        take(close + ticks.length);
        continue;
      }
      const content = rest.slice(ticks.length).replace(/`+$/, "");
      if (content.trim() !== "") completed += `${ticks}${content}${ticks}`;
      break;
    } else if (character === "$") {
      const length = mathLength(rest);
      if (length > 0) take(length);
      else if (length === 0) take(1);
      else {
        const mark = rest.startsWith("$$") ? "$$" : "$";
        const content = rest.slice(mark.length).replace(/\$$/, "").trimEnd();
        if (content !== "") completed += `${mark}${content}${mark}`;
        break;
      }
    } else if (character === "[" || rest.startsWith("![")) {
      const image = character === "!";
      const from = image ? 1 : 0;
      const close = closingBracket(rest, from);
      if (close === -1) {
        // An incomplete image shows nothing, and an incomplete link its label.
        if (image || NUMBERED.test(rest.slice(1))) break;
        index += 1;
        continue;
      }
      const label = rest.slice(from + 1, close);
      const after = rest.slice(close + 1);
      const end = destinationLength(after);
      if (end > 0) take(close + 1 + end);
      else if (end === 0) take(1);
      else if (image) break;
      else if (after === "" && (NUMBERED.test(label) || label.trim().length < 2)) take(close + 1);
      else {
        text = `${text.slice(0, index)}${label}`;
      }
    } else if (character === "<") {
      const link = /^<[a-z][a-z0-9+.-]{1,31}:[^\s<>]*>/i.exec(rest)?.[0];
      if (link !== undefined) take(link.length);
      else if (/^<(?:[a-z]*|(?:https?|mailto):[^\s<>]*)$/i.test(rest)) break;
      else take(1);
    } else if (character === "&" && /^&(?:#?x?[0-9a-z]{0,8})$/i.test(rest)) {
      break;
    } else if (character === "h" && /^https?:\/\/\S/.test(rest) && !/\w/.test(text[index - 1] ?? "")) {
      take(/^[^\s<]+/.exec(rest)?.[0].replace(/[*_~]+$/, "").length ?? 1);
    } else if (character === "*" || character === "_" || character === "~") {
      const length = /^(?:\*+|_+|~+)/.exec(rest)?.[0].length ?? 1;
      const before = text[index - 1] ?? " ";
      const after = text[index + length];
      if (character === "~" && length !== 2 && after !== undefined) {
        take(length);
        continue;
      }
      index += length;
      completed += writeRun(marks, { character, length, at: completed.length }, before, after);
    } else {
      const plain = /^[^\\`$[!<&h*_~]+/.exec(rest)?.[0].length ?? 1;
      take(Math.max(1, plain));
    }
  }
  return close(completed, marks);
}

/** Return the output for a run of marks, which opens or closes emphasis, or is text (CommonMark 6.2). */
function writeRun(marks: Mark[], run: Mark, before: string, after: string | undefined): string {
  const { character } = run;
  const spaceBefore = /\s/.test(before);
  const spaceAfter = after === undefined || /\s/.test(after);
  const markBefore = PUNCTUATION.test(before);
  const markAfter = after !== undefined && PUNCTUATION.test(after);
  const left = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const right = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  const opens = left && (character !== "_" || !right || markBefore);
  const closes = right && (character !== "_" || !left || markAfter);
  let rest = run.length;
  let written = "";
  while (closes && rest > 0) {
    const index = marks.findLastIndex((mark) => mark.character === character);
    const mark = marks[index];
    if (mark === undefined) break;
    // The closing mark may be incomplete. `close` adds all of it.
    if (after === undefined && rest < mark.length && mark.length === 2) return written;
    const length = Math.min(rest, mark.length);
    mark.length -= length;
    rest -= length;
    written += character.repeat(length);
    marks.splice(mark.length === 0 ? index : index + 1);
  }
  if (rest === 0) return written;
  // A run at the end of the text is ambiguous.
  if (after === undefined && (character !== "_" || spaceBefore || markBefore)) return written;
  if (opens) marks.push({ character, length: rest, at: run.at + written.length });
  return written + character.repeat(rest);
}

/** Add the closing marks before trailing spaces. Remove opening marks without content. */
function close(completed: string, marks: Mark[]): string {
  while (marks.length > 0) {
    const last = marks[marks.length - 1] as Mark;
    if (completed.slice(last.at + last.length).trim() !== "") break;
    completed = completed.slice(0, last.at);
    marks.pop();
  }
  const text = completed.trimEnd();
  return (
    text +
    marks
      .map(({ character, length }) => character.repeat(length))
      .reverse()
      .join("")
  );
}

/** Return the index of the closing backticks; -1 if there are none. */
function closingTicks(rest: string, ticks: string): number {
  let index = ticks.length;
  for (;;) {
    index = rest.indexOf(ticks, index);
    if (index === -1) return -1;
    const run = /^`+/.exec(rest.slice(index))?.[0].length ?? 0;
    if (run === ticks.length) return index;
    index += run;
  }
}

/** Return the index of the bracket that closes the one at `from`; -1 if there is none. */
function closingBracket(rest: string, from: number): number {
  let depth = 0;
  for (let index = from; index < rest.length; index += 1) {
    const character = rest[index];
    if (character === "\\") index += 1;
    else if (character === "`") {
      const ticks = /^`+/.exec(rest.slice(index))?.[0] ?? "`";
      const close = closingTicks(rest.slice(index), ticks);
      if (close === -1) return -1;
      index += close + ticks.length - 1;
    } else if (character === "[") depth += 1;
    else if (character === "]") {
      depth -= 1;
      if (depth === 0) return index;
    }
  }
  return -1;
}

/** Return the length of a link's destination: 0 if it is not a link, -1 if it is incomplete. */
function destinationLength(after: string): number {
  if (after === "") return -1;
  if (after[0] === "[") {
    const close = after.indexOf("]");
    return close === -1 ? -1 : close + 1;
  }
  if (after[0] !== "(") return 0;
  let depth = 0;
  for (let index = 0; index < after.length; index += 1) {
    const character = after[index];
    if (character === "\\") index += 1;
    else if (character === "(") depth += 1;
    else if (character === ")") {
      depth -= 1;
      if (depth === 0) return index + 1;
    } else if (character === "\n" && after[index + 1] === "\n") return 0;
  }
  return /^\(\s*(?:<[^>\n]*>?|[^\s<]*)(?:\s+(?:["'(].*)?)?$/s.test(after) ? -1 : 0;
}

/** Return the length of the formula at the start: 0 if it is an amount of money, -1 if it is incomplete. */
function mathLength(rest: string): number {
  const whole = /^(\$\$?)(?=\S)[^$]*?[^\s$\\]\1(?!\d)/.exec(rest)?.[0];
  if (whole !== undefined) return whole.length;
  if (rest === "$" || rest.startsWith("$$")) return rest.slice(2).includes("$$") ? 0 : -1;
  const formula = /^\$[a-z\\({[|][^$\n]*\$?$/i.test(rest) && (rest.length < 24 || /[\\^_{}=]/.test(rest));
  return formula ? -1 : 0;
}
