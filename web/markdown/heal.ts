// A line of text that is still being written, closed as it will most likely be closed: so that no mark shows which a
// reader of the finished text will not see.
// Pure.

interface Mark {
  character: string;
  length: number;
  /** Where in the healed text it begins. */
  at: number;
}

const PUNCTUATION = /[\p{P}\p{S}]/u;
const NUMBERED = /^\^?\d*$/;

/**
 * Close what is open: emphasis and code get their second mark, the words of half a link stand without its brackets,
 * and what means nothing yet is left out.
 *
 * @param text what a paragraph, an item or a cell holds so far
 */
export function heal(text: string): string {
  const marks: Mark[] = [];
  let healed = "";
  let index = 0;
  const take = (length: number) => {
    healed += text.slice(index, index + length);
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
        if (content.trim() !== "") healed += `${rest.slice(0, 2)}${content}${rest[1] === "(" ? "\\)" : "\\]"}`;
        break;
      }
    } else if (character === "`") {
      const ticks = /^`+/.exec(rest)?.[0] ?? "";
      const close = closing(rest, ticks);
      if (close !== -1) {
        take(close + ticks.length);
        continue;
      }
      const content = rest.slice(ticks.length).replace(/`+$/, "");
      if (content.trim() !== "") healed += `${ticks}${content}${ticks}`;
      break;
    } else if (character === "$") {
      const length = healMath(rest);
      if (length > 0) take(length);
      else if (length === 0) take(1);
      else {
        const mark = rest.startsWith("$$") ? "$$" : "$";
        const content = rest.slice(mark.length).replace(/\$$/, "").trimEnd();
        if (content !== "") healed += `${mark}${content}${mark}`;
        break;
      }
    } else if (character === "[" || rest.startsWith("![")) {
      const image = character === "!";
      const from = image ? 1 : 0;
      const close = bracket(rest, from);
      if (close === -1) {
        // Half a picture shows nothing, half a link its words.
        if (image || NUMBERED.test(rest.slice(1))) break;
        index += 1;
        continue;
      }
      const words = rest.slice(from + 1, close);
      const after = rest.slice(close + 1);
      const end = destination(after);
      if (end > 0) take(close + 1 + end);
      else if (end === 0) take(1);
      else if (image) break;
      else if (after === "" && (NUMBERED.test(words) || words.trim().length < 2)) take(close + 1);
      else {
        text = `${text.slice(0, index)}${words}`;
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
      healed += weigh(marks, { character, length, at: healed.length }, before, after);
    } else {
      const plain = /^[^\\`$[!<&h*_~]+/.exec(rest)?.[0].length ?? 1;
      take(Math.max(1, plain));
    }
  }
  return close(healed, marks);
}

/** What is to be written of a run of marks, which opens, closes or is text. */
function weigh(marks: Mark[], run: Mark, before: string, after: string | undefined): string {
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
    // Half of the second mark may have come: the other half is added with the rest that is open.
    if (after === undefined && rest < mark.length && mark.length === 2) return written;
    const length = Math.min(rest, mark.length);
    mark.length -= length;
    rest -= length;
    written += character.repeat(length);
    marks.splice(mark.length === 0 ? index : index + 1);
  }
  if (rest === 0) return written;
  // A run at the very end may become anything.
  if (after === undefined && (character !== "_" || spaceBefore || markBefore)) return written;
  if (opens) marks.push({ character, length: rest, at: run.at + written.length });
  return written + character.repeat(rest);
}

/** Write the second marks, before the space at the end; where there is nothing between two, neither. */
function close(healed: string, marks: Mark[]): string {
  while (marks.length > 0) {
    const last = marks[marks.length - 1] as Mark;
    if (healed.slice(last.at + last.length).trim() !== "") break;
    healed = healed.slice(0, last.at);
    marks.pop();
  }
  const text = healed.trimEnd();
  return (
    text +
    marks
      .map(({ character, length }) => character.repeat(length))
      .reverse()
      .join("")
  );
}

/** Where the run of backticks that closes stands; -1 for nowhere. */
function closing(rest: string, ticks: string): number {
  let index = ticks.length;
  for (;;) {
    index = rest.indexOf(ticks, index);
    if (index === -1) return -1;
    const run = /^`+/.exec(rest.slice(index))?.[0].length ?? 0;
    if (run === ticks.length) return index;
    index += run;
  }
}

/** Where the bracket that opens at `from` is closed; -1 for nowhere. */
function bracket(rest: string, from: number): number {
  let depth = 0;
  for (let index = from; index < rest.length; index += 1) {
    const character = rest[index];
    if (character === "\\") index += 1;
    else if (character === "`") {
      const ticks = /^`+/.exec(rest.slice(index))?.[0] ?? "`";
      const close = closing(rest.slice(index), ticks);
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

/** The length of what follows a link's words: 0 if it is no link, -1 if it is half of one. */
function destination(after: string): number {
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

/** The length of the formula that begins here: 0 if it is money, -1 if it is not closed. */
function healMath(rest: string): number {
  const whole = /^(\$\$?)(?=\S)[^$]*?[^\s$\\]\1(?!\d)/.exec(rest)?.[0];
  if (whole !== undefined) return whole.length;
  if (rest === "$" || rest.startsWith("$$")) return rest.slice(2).includes("$$") ? 0 : -1;
  const formula = /^\$[a-z\\({[|][^$\n]*\$?$/i.test(rest) && (rest.length < 24 || /[\\^_{}=]/.test(rest));
  return formula ? -1 : 0;
}
