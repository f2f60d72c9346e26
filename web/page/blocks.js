// What a text with marks says: its blocks, and the elements that each block stands for. Half a text is read as what it
// will most likely become, so that one that grows neither jumps nor shows its marks.
// Pure: no document, only descriptions of elements, so that every prefix of a text can be tested.

/**
 * A block of text: a paragraph, a list ... `source` is where it came from, `open` whether it may still grow.
 *
 * @typedef {{kind: string, source: string, from: number, open: boolean, lines: string[], detail: string}} Block
 */

/**
 * A text and its blocks. All of them but the last are finished: no text that begins with this one has others there.
 *
 * @typedef {{text: string, blocks: Block[]}} Reading
 */

/**
 * An element as it is to be made. `href` is of a link that may be followed, `start` the first number of a list.
 *
 * @typedef {{tag: string, content: Content, kind?: string, href?: string, start?: number}} Description
 * @typedef {(Description | string)[]} Content
 */

/** The deepest that quotes, lists and emphasis nest. An answer can be written to nest without end. */
const DEEPEST = 8;

/** What a link may lead to: a page of the web, or a letter. Anything else could act in the name of the reader. */
const PROTOCOLS = ["http:", "https:", "mailto:"];

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/s;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ROW = /^ {0,3}\|/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/s;
const LINK = /^!?\[((?:[^[\]\\]|\\.)*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/;
/** A link up to anywhere before its end, which is not at a bracket that belongs to the address. */
const HALF_LINK = /^!?\[([^[\]]*)(?:\](?:\((?:[^()\n]|\([^()\n]*\))*(?:\([^)\n]*)?)?)?$/;
/** A line that is nothing but marks. */
const ONLY_MARKS = /^(?:[-*+_`~#>|:= \t]+|[ \t]*\d{1,9}[.)]?[ \t]*)$/;

/** The reading of a text that has not begun. @type {Reading} */
const NOTHING = { text: "", blocks: [] };

/**
 * Read a text. The finished blocks of an earlier reading are taken over as they are, so that each token of a long
 * answer costs no more than its last block.
 *
 * @param {string} text
 * @param {boolean} open whether its end may be missing
 * @param {Reading} before of the text when it was shorter, or of another one
 * @returns {Reading}
 */
export function read(text, open, before = NOTHING) {
  text = text.replaceAll("\r", "");
  const grown = text.startsWith(before.text);
  const tail = text.lastIndexOf("\n") + 1;
  const visible = open && isUndecided(text.slice(tail)) ? text.slice(0, tail) : text;
  const kept = grown ? Math.max(0, before.blocks.length - 1) : 0;
  const from = Math.min(before.blocks[kept]?.from ?? 0, visible.length);
  return { text, blocks: before.blocks.slice(0, kept).concat(parse(visible.slice(from), open, from)) };
}

/**
 * Whether what a last line means is only known with what comes next. A fence is one of these: one more backtick makes
 * it code in a line of the paragraph before, which must not be finished by then.
 *
 * @param {string} each
 */
function isUndecided(each) {
  return ONLY_MARKS.test(each) || FENCE.test(each);
}

/**
 * @param {string} text
 * @param {boolean} open
 * @param {number} offset of the text in the whole
 * @returns {Block[]}
 */
function parse(text, open, offset = 0) {
  /** @type {Block[]} */
  const blocks = [];
  const lines = text.split("\n");
  /** @type {number[]} */
  const starts = [];
  let position = offset;
  for (const each of lines) {
    starts.push(position);
    position += each.length + 1;
  }
  let begin = 0;
  while (begin < lines.length) {
    if (lines[begin].trim() === "") {
      begin += 1;
      continue;
    }
    const { kind, detail, content, next } = blockAt(lines, begin);
    const source = lines.slice(begin, next).join("\n");
    blocks.push({ kind, detail, lines: content, source, from: starts[begin], open: false });
    begin = next;
  }
  const last = blocks.at(-1);
  if (last !== undefined) last.open = open;
  return blocks;
}

/**
 * The block that begins at a line that is not blank.
 *
 * @param {string[]} lines
 * @param {number} begin
 * @returns {{kind: string, detail: string, content: string[], next: number}}
 */
function blockAt(lines, begin) {
  const first = lines[begin];
  const fence = FENCE.exec(first);
  if (fence) {
    const close = new RegExp(`^ {0,3}\\${fence[1][0]}{${fence[1].length},}[ \\t]*$`);
    let end = begin + 1;
    while (end < lines.length && !close.test(lines[end])) end += 1;
    return { kind: "code", detail: fence[2].trim(), content: lines.slice(begin + 1, end), next: end + 1 };
  }
  const heading = HEADING.exec(first);
  if (heading) {
    const words = (heading[2] ?? "").replace(/[ \t]+#+[ \t]*$/, "");
    return { kind: "heading", detail: String(heading[1].length), content: [words], next: begin + 1 };
  }
  if (RULE.test(first)) return { kind: "rule", detail: "", content: [], next: begin + 1 };
  const item = ITEM.exec(first);
  for (const [kind, mark] of /** @type {[string, RegExp][]} */ ([["quote", QUOTE], ["table", ROW]])) {
    if (!mark.test(first)) continue;
    let end = begin + 1;
    while (end < lines.length && mark.test(lines[end])) end += 1;
    const content = lines.slice(begin, end).map((each) => (kind === "quote" ? each.replace(QUOTE, "") : each));
    return { kind, detail: "", content, next: end };
  }
  if (item) {
    let end = begin + 1;
    while (end < lines.length && goesOn(lines, end, item)) end += 1;
    const ordered = item[2].length > 1;
    return { kind: ordered ? "ordered" : "bullets", detail: item[2], content: lines.slice(begin, end), next: end };
  }
  let end = begin + 1;
  while (end < lines.length && lines[end].trim() !== "" && !interrupts(lines[end])) end += 1;
  return { kind: "paragraph", detail: "", content: lines.slice(begin, end), next: end };
}

/** Whether a line ends the paragraph before it. @param {string} each */
function interrupts(each) {
  if ([FENCE, HEADING, RULE, QUOTE, ROW].some((mark) => mark.test(each))) return true;
  const item = ITEM.exec(each);
  // A number in running text may come to stand at the beginning of a line; only a 1 begins a list there.
  return item !== null && item[4] !== undefined && (item[2].length === 1 || parseInt(item[2], 10) === 1);
}

/**
 * Whether the line at `index` belongs to the list that `item` began.
 *
 * @param {string[]} lines
 * @param {number} index
 * @param {RegExpExecArray} item
 */
function goesOn(lines, index, item) {
  const each = lines[index];
  if (each.trim() === "") {
    const next = lines[index + 1] ?? "";
    return next.trim() !== "" && (indentOf(next) > item[1].length || isItemLike(next, item));
  }
  if (indentOf(each) > item[1].length || isItemLike(each, item)) return true;
  // A line that begins nothing else carries the item's paragraph on.
  return lines[index - 1].trim() !== "" && !interrupts(each) && !ITEM.test(each);
}

/** @param {string} each @param {RegExpExecArray} item */
function isItemLike(each, item) {
  const other = ITEM.exec(each);
  return other !== null && !RULE.test(each) && other[2].at(-1) === item[2].at(-1);
}

/** @param {string} each */
function indentOf(each) {
  return each.length - each.trimStart().length;
}

/**
 * The element that a block stands for.
 *
 * @param {Block} block
 * @param {number} depth
 * @returns {Description}
 */
export function describe(block, depth = 0) {
  switch (block.kind) {
    case "code":
      return { tag: "pre", content: [{ tag: "code", content: [block.lines.join("\n")] }] };
    case "heading":
      // The page has the first heading.
      return { tag: `h${Math.min(6, Number(block.detail) + 1)}`, content: inline(block.lines[0], block.open) };
    case "rule":
      return { tag: "hr", content: [] };
    case "quote":
      return { tag: "blockquote", content: within(block.lines.join("\n"), block.open, depth) };
    case "table":
      return { tag: "div", kind: "table", content: [tableOf(block)] };
    case "bullets":
    case "ordered":
      return listOf(block, depth);
    default:
      return { tag: "p", content: wordsOf(block) };
  }
}

/** What a paragraph says. @param {Block} block */
function wordsOf(block) {
  return inline(block.lines.map((each) => each.trimStart()).join("\n"), block.open);
}

/**
 * The blocks of a text inside of a block.
 *
 * @param {string} text
 * @param {boolean} open
 * @param {number} depth
 * @returns {Content}
 */
function within(text, open, depth) {
  return depth >= DEEPEST ? [text] : parse(text, open).map((block) => describe(block, depth + 1));
}

/** @param {Block} block @param {number} depth @returns {Description} */
function listOf(block, depth) {
  const base = indentOf(block.lines[0]);
  /** @type {string[][]} */
  const items = [];
  let inner = 0;
  for (const each of block.lines) {
    const item = indentOf(each) <= base ? ITEM.exec(each) : null;
    if (item) {
      inner = item[1].length + item[2].length + Math.min(4, (item[3] ?? " ").length);
      items.push([item[4] ?? ""]);
    } else {
      items[items.length - 1].push(each.slice(Math.min(inner, indentOf(each))));
    }
  }
  const content = items.map((lines, index) => itemOf(lines, block.open && index === items.length - 1, depth));
  return block.kind === "ordered" ? { tag: "ol", start: parseInt(block.detail, 10), content } : { tag: "ul", content };
}

/** @param {string[]} lines @param {boolean} open @param {number} depth @returns {Description} */
function itemOf(lines, open, depth) {
  const blocks = depth >= DEEPEST ? [] : parse(lines.join("\n"), open);
  if (blocks.length === 0) return { tag: "li", content: [lines.join("\n")] };
  // An item of one line is no paragraph, as the lines of a tight list stand close.
  const tight = blocks[0].kind === "paragraph" && !lines.includes("");
  const words = tight ? wordsOf(blocks[0]) : [];
  return { tag: "li", content: [...words, ...blocks.slice(tight ? 1 : 0).map((each) => describe(each, depth + 1))] };
}

/** @param {Block} block @returns {Description} */
function tableOf(block) {
  // The line under the head only says that it is one; while it is being written, too.
  const rows = block.lines.filter((each, index) => index !== 1 || !/^[\s|:-]+$/.test(each));
  const content = rows.map((each, index) => {
    const cells = each.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/);
    const last = block.open && index === rows.length - 1;
    const tag = index === 0 && block.lines.length > 1 ? "th" : "td";
    return {
      tag: "tr",
      content: cells.map((cell, column) => {
        return { tag, content: inline(cell.trim().replaceAll("\\|", "|"), last && column === cells.length - 1) };
      }),
    };
  });
  return { tag: "table", content };
}

/**
 * What a line of text with its marks says: code, bold, italic, links. What is open is shown as if it were closed, so
 * that marks do not flash up while a text is being written.
 *
 * @param {string} text
 * @param {boolean} open
 * @param {number} depth
 * @param {boolean} linked whether it is inside of a link, where there cannot be another
 * @returns {Content}
 */
function inline(text, open, depth = 0, linked = false) {
  /** @type {Content} */
  const content = [];
  let plain = "";
  let index = 0;
  /** Marks that are not closed in the rest of this text: to look once is enough, however many there are. */
  const unclosed = new Set();
  const flush = () => {
    if (plain !== "") content.push(plain);
    plain = "";
  };
  /** @param {Description} description @param {number} length */
  const add = (description, length) => {
    flush();
    content.push(description);
    index += length;
  };
  const special = /\n|\\|`|[*_]|!?\[|<?https?:\/\//g;
  while (index < text.length) {
    special.lastIndex = index;
    const found = special.exec(text)?.index ?? text.length;
    plain += text.slice(index, found);
    index = found;
    if (index === text.length) break;
    const rest = text.slice(index, index + 2100);
    const mark = rest[0];

    if (mark === "\\" && /^\\[!-/:-@[-`{-~]/.test(rest)) {
      plain += rest[1];
      index += 2;
      continue;
    }
    if (mark === "\n" || rest.startsWith("\\\n")) {
      // Two spaces or a backslash at the end of a line break it.
      const broken = mark === "\\" || plain.endsWith("  ");
      plain = plain.trimEnd();
      if (broken) {
        add({ tag: "br", content: [] }, mark === "\\" ? 2 : 1);
      } else {
        plain += "\n";
        index += 1;
      }
      continue;
    }
    if (mark === "`") {
      const ticks = /** @type {RegExpExecArray} */ (/^`+/.exec(rest))[0];
      const close = unclosed.has(ticks) ? -1 : closing(text, index + ticks.length, ticks);
      if (close !== -1 || open) {
        const end = close === -1 ? text.length : close;
        const code = text.slice(index + ticks.length, end).replaceAll("\n", " ");
        // One space on both sides is there to keep a backtick off the mark.
        const bare = /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code;
        const shown = close === -1 ? bare.replace(/`+$/, "") : bare;
        if (shown === "") index = end + ticks.length;
        else add({ tag: "code", content: [shown] }, end + ticks.length - index);
      } else {
        unclosed.add(ticks);
        plain += ticks;
        index += ticks.length;
      }
      continue;
    }
    if (mark === "*" || mark === "_") {
      const run = rest[1] === mark ? mark + mark : mark;
      const after = text[index + run.length];
      const intraword = mark === "_" && /\w/.test(text[index - 1] ?? "");
      const opens = after !== undefined && !/\s/.test(after) && !intraword && depth < DEEPEST;
      const close = opens && !unclosed.has(run) ? closing(text, index + run.length, run) : -1;
      if (opens && (close !== -1 || open)) {
        const end = close === -1 ? text.length : close;
        // Half of the closing mark may be there already.
        const whole = text.slice(index + run.length, end);
        const inside = close === -1 ? whole.replace(/[*_]+$/, "") : whole;
        const tag = run.length === 2 ? "strong" : "em";
        add({ tag, content: inline(inside, close === -1, depth + 1, linked) }, end + run.length - index);
      } else if (open && after === undefined && !intraword) {
        index += run.length;
      } else {
        if (opens) unclosed.add(run);
        plain += run;
        index += run.length;
      }
      continue;
    }
    if (mark === "[" || (mark === "!" && rest[1] === "[")) {
      const link = LINK.exec(rest);
      const half = open && index + rest.length >= text.length ? HALF_LINK.exec(rest) : null;
      if (link && depth < DEEPEST) {
        const href = hrefOf(link[2]);
        const words = inline(link[1], false, depth + 1, linked || href !== null);
        add(href === null ? { tag: "span", content: words } : { tag: "a", href, content: words }, link[0].length);
      } else if (half && depth < DEEPEST) {
        add({ tag: "span", content: inline(half[1], true, depth + 1, linked) }, half[0].length);
      } else {
        plain += mark;
        index += 1;
      }
      continue;
    }
    const bare = /^<?(https?:\/\/[^\s<>`"]*[^\s<>`"'.,:;!?)\]*_])>?/.exec(rest);
    const href = bare && !/\w/.test(text[index - 1] ?? "") && !linked ? hrefOf(bare[1]) : null;
    if (bare && href !== null) {
      const brackets = bare[0].startsWith("<") ? 1 + Number(bare[0].endsWith(">")) : 0;
      add({ tag: "a", href, content: [bare[1]] }, bare[1].length + brackets);
      continue;
    }
    plain += mark;
    index += 1;
  }
  flush();
  return content;
}

/**
 * Where a mark is closed: behind something that is no space, and, but for code, outside of code. -1 for nowhere.
 *
 * @param {string} text
 * @param {number} from
 * @param {string} run
 */
function closing(text, from, run) {
  const runs = run[0] === "`" ? /`+/g : /\\.|`+|\*+|_+/g;
  runs.lastIndex = from;
  for (let found = runs.exec(text); found !== null; found = runs.exec(text)) {
    const [marks] = found;
    if (run[0] === "`") {
      if (marks === run) return found.index;
    } else if (marks[0] === "`") {
      const end = closing(text, runs.lastIndex, marks);
      if (end !== -1) runs.lastIndex = end + marks.length;
    } else if (marks[0] === run[0]) {
      const spaced = /\s/.test(text[found.index - 1]);
      const intraword = run[0] === "_" && /\w/.test(text[runs.lastIndex] ?? "");
      if (spaced || intraword) continue;
      if (marks.length === run.length) return found.index;
      // `**bold *and italic***`: the inner one is closed first.
      if (marks.length === 3) return run.length === 1 ? found.index : found.index + 1;
    }
  }
  return -1;
}

/** Where a link leads, if it may. @param {string} target */
function hrefOf(target) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  return PROTOCOLS.includes(url.protocol) ? url.href : null;
}
