// Splits a markdown text into units that later text cannot change. Decisions are made for complete lines, never for chunks,
// so that the result does not depend on how the text arrives.
// Pure: a state and a line in, closed units and a state out.

/**
 * The smallest part of a text that is rendered separately. `item` and `row` belong to the last list or table; an item with
 * `first` starts a list, and one with `loose` follows a blank line. `code` is a part of a fenced code block with content
 * `source` and language `info`; `first` and `last` mark the first and last part.
 */
export type Unit =
  | { kind: "flow"; source: string }
  | { kind: "item"; source: string; first: boolean; loose: boolean }
  | { kind: "table"; source: string }
  | { kind: "row"; source: string; head: string }
  | { kind: "code"; source: string; info: string; first: boolean; last: boolean }
  | { kind: "math"; source: string };

/** The unit that may still grow, and the state that decides where it ends. */
export type Open =
  | { kind: "flow"; source: string }
  | { kind: "indented"; source: string }
  | { kind: "html"; source: string; until: RegExp }
  | { kind: "item"; source: string; first: boolean; loose: boolean; mark: string; column: number; blank: boolean }
  | { kind: "table"; source: string }
  | { kind: "row"; source: string; head: string }
  | { kind: "code"; source: string; info: string; first: boolean; close: RegExp; indent: number }
  | { kind: "math"; source: string; close: RegExp };

export interface Step {
  closed: Unit[];
  open: Open | null;
}

/** Return the types of the blocks in a text. Used where a single line is ambiguous. */
export type Types = (source: string) => string[];

const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*?)[ \t]*$/;
const HEADING = /^ {0,3}#{1,6}(?:[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(\S.*)?)?$/;
const PIPED = /^ {0,3}\|/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
/** Length of a part of a code block. Each update compares the open part, so its length bounds the cost. */
const MAX_PART_LENGTH = 2000;

/** HTML blocks that continue after blank lines, and their ends (CommonMark 4.6, conditions 1 to 5). */
const HTML: [RegExp, RegExp][] = [
  [/^ {0,3}<(?:script|pre|style|textarea)(?:[\s>]|$)/i, /<\/(?:script|pre|style|textarea)>/i],
  [/^ {0,3}<!--/, /-->/],
  [/^ {0,3}<\?/, /\?>/],
  [/^ {0,3}<![a-z]/i, />/],
  [/^ {0,3}<!\[CDATA\[/, /\]\]>/],
];
const MATH: [RegExp, RegExp][] = [
  [/^ {0,3}\$\$[ \t]*$/, /^ {0,3}\$\$[ \t]*$/],
  [/^ {0,3}\\\[[ \t]*$/, /^ {0,3}\\\][ \t]*$/],
];

/**
 * Add a line, without its line feed.
 *
 * @param open the unit that may still grow; null between units
 */
export function step(open: Open | null, line: string, types: Types): Step {
  const blank = line.trim() === "";
  if (open === null) return blank ? { closed: [], open } : start(line);
  switch (open.kind) {
    case "code": {
      if (open.close.test(line)) return { closed: [unit(open)], open: null };
      const longer = { ...open, source: `${open.source}${dedented(line, open.indent)}\n` };
      if (longer.source.length < MAX_PART_LENGTH) return grown(longer);
      return {
        closed: [{ ...(unit(longer) as Unit & { kind: "code" }), last: false }],
        open: { ...open, first: false, source: "" },
      };
    }
    case "math":
      return open.close.test(line) ? { closed: [unit(open)], open: null } : grown(append(open, line));
    case "html":
      return open.until.test(line) ? { closed: [unit(append(open, line))], open: null } : grown(append(open, line));
    case "indented":
      return blank || columnOf(line) >= 4 ? grown(append(open, line)) : next(open, line);
    case "table":
    case "row": {
      if (blank) return { closed: [unit(open)], open: null };
      const head = open.kind === "table" ? open.source : open.head;
      const isRow = PIPED.test(line) || (!interrupts(line) && types(`${head}${line}\n`).join() === "table");
      return isRow ? { closed: [unit(open)], open: { kind: "row", head, source: `${line}\n` } } : next(open, line);
    }
    case "item":
      return stepItem(open, line, blank, types);
    case "flow":
      return blank ? { closed: [unit(open)], open: null } : stepFlow(open, line, types);
  }
}

function stepItem(open: Open & { kind: "item" }, line: string, blank: boolean, types: Types): Step {
  if (blank) return grown({ ...append(open, line), blank: true });
  const column = columnOf(line);
  // An item with an empty first line ends at the first blank line.
  const emptyItem =
    open.blank && ITEM.exec(open.source.trimEnd())?.[4] === undefined && !/\n./.test(open.source.trimEnd());
  if (column >= open.column && !emptyItem) return grown({ ...append(open, line), blank: false });
  const item = RULE.test(line) ? null : ITEM.exec(line);
  if (item) {
    const opened = openItem(line, item);
    const continues = opened.mark === open.mark;
    return { closed: [unit(open)], open: { ...opened, first: !continues, loose: continues && open.blank } };
  }
  if (open.blank || interrupts(line)) return next(open, line);
  // A line that starts no other block continues the item's paragraph, if there is one.
  return types(`${open.source}${line}\n`).length === 1 ? grown(append(open, line)) : next(open, line);
}

function stepFlow(open: Open & { kind: "flow" }, line: string, types: Types): Step {
  const quoted = QUOTE.test(open.source);
  const longer = append(open, line);
  if (DELIMITERS.test(line) && !quoted) {
    const found = types(longer.source);
    if (found.at(-1) === "heading") return { closed: [unit(longer)], open: null };
    if (found.at(-1) === "table") {
      const lines = open.source.split("\n");
      const head = `${lines.at(-2) ?? ""}\n${line}\n`;
      const before = lines.slice(0, -2).join("\n");
      const closed: Unit[] = before === "" ? [] : [{ kind: "flow", source: `${before}\n` }];
      return { closed, open: { kind: "table", source: head } };
    }
  }
  if (quoted && QUOTE.test(line)) return grown(longer);
  const item = ITEM.exec(line);
  // A number in a paragraph may be at the start of a line, so only 1 starts a list there (CommonMark 5.2).
  const listed = item?.[4] !== undefined && (item[2]?.length === 1 || parseInt(item[2] ?? "", 10) === 1);
  if (!listed && !interrupts(line)) return grown(longer);
  return types(open.source).at(-1) === "html" ? grown(longer) : next(open, line);
}

/** Start a unit with a line that is not blank. */
function start(line: string): Step {
  const source = `${line}\n`;
  if (columnOf(line) >= 4) return grown({ kind: "indented", source });
  const fence = FENCE.exec(line);
  if (fence) {
    const [, indent = "", mark = "", info = ""] = fence;
    const close = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}[ \\t]*$`);
    return grown({ kind: "code", source: "", info, first: true, close, indent: indent.length });
  }
  for (const [opening, close] of MATH) if (opening.test(line)) return grown({ kind: "math", source: "", close });
  if (RULE.test(line) || HEADING.test(line)) return { closed: [{ kind: "flow", source }], open: null };
  for (const [opening, until] of HTML) {
    if (!opening.test(line)) continue;
    const rest = line.replace(opening, "");
    return until.test(rest)
      ? { closed: [{ kind: "flow", source }], open: null }
      : grown({ kind: "html", source, until });
  }
  const item = ITEM.exec(line);
  return grown(item ? openItem(line, item) : { kind: "flow", source });
}

/** Return the open unit as if the text ended here. */
export function unit(open: Open): Unit {
  switch (open.kind) {
    case "code": {
      // The line feed before the closing fence is not part of the code.
      const { first, info } = open;
      const text = open.source.slice(0, -1);
      return { kind: "code", source: first || open.source === "" ? text : `\n${text}`, info, first, last: true };
    }
    case "math":
      return { kind: "math", source: open.source };
    case "item":
      return { kind: "item", source: open.source, first: open.first, loose: open.loose };
    case "table":
      return { kind: "table", source: open.source };
    case "row":
      return { kind: "row", source: open.source, head: open.head };
    default:
      return { kind: "flow", source: open.source };
  }
}

function openItem(
  line: string,
  [, indent = "", mark = "", space = "", content]: RegExpExecArray,
): Open & { kind: "item" } {
  const markEnd = indent.length + mark.length;
  const width = columnOf(`${" ".repeat(markEnd)}${space}x`) - markEnd;
  // More than four columns are indented code, whose item starts one column after the mark.
  const column = markEnd + (content === undefined || width > 4 ? 1 : width);
  const kind = mark.length === 1 ? mark : mark.slice(-1);
  return { kind: "item", source: `${line}\n`, first: true, loose: false, mark: kind, column, blank: false };
}

function interrupts(line: string): boolean {
  if ([FENCE, HEADING, RULE, QUOTE].some((mark) => mark.test(line))) return true;
  return [...HTML, ...MATH].some(([opening]) => opening.test(line));
}

function next(open: Open, line: string): Step {
  const after = start(line);
  return { closed: [unit(open), ...after.closed], open: after.open };
}

function grown(open: Open): Step {
  return { closed: [], open };
}

function append<Any extends Open>(open: Any, line: string): Any {
  return { ...open, source: `${open.source}${line}\n` };
}

/** Return the column of a line's first character, with tab stops of four. */
function columnOf(line: string): number {
  let column = 0;
  for (const each of line) {
    if (each === " ") column += 1;
    else if (each === "\t") column += 4 - (column % 4);
    else break;
  }
  return column;
}

function dedented(line: string, indent: number): string {
  let from = 0;
  while (from < indent && line[from] === " ") from += 1;
  return line.slice(from);
}

/**
 * Whether the meaning of the last, incomplete line depends on its next characters. Such a line is hidden, because it could
 * be rendered as the wrong block.
 */
export function isUndecided(open: Open | null, line: string): boolean {
  if (open?.kind === "code") return /^ {0,3}(?:`+|~+)$/.test(line);
  if (open?.kind === "math") return /^ {0,3}(?:\$|\\)/.test(line) && line.trim().length < 3;
  return (
    /^(?:[-*+_~#>|:=$ \t]+|`{1,2}|[ \t]*\d{1,9}[.)]?[ \t]*|[ \t]*\\\[?)$/.test(line) ||
    /^[\s>]*(?:`{3,}|~{3,})[^`]*$/.test(line)
  );
}
