// What a unit of markdown says: descriptions of elements, from marked's tokens. HTML in it is text.
// Pure: no document.

import { Lexer, type Token, Tokenizer, type Tokens } from "marked";

import { decode, linkTo, pictureAt } from "./addresses.js";
import { heal } from "./heal.js";
import type { Unit } from "./units.js";

/** An element as it is to be made: of these tags only, with attributes that are chosen here, never by the text. */
export interface Description {
  tag: string;
  class?: string;
  attributes?: Record<string, string>;
  content: Content;
}

export type Content = (Description | string)[];

/** Definitions of link references, by their normalised label. */
export type Links = Record<string, Pick<Tokens.Link | Tokens.Image, "href" | "title">>;

/** What the elements say that the text does not. */
export interface Texts {
  copy: string;
  code: string;
  table: string;
  showImage: string;
  done: string;
  open: string;
}

/** What is known besides the unit. `outline` holds the levels of the headings above, `images` the origins to load from. */
export interface Context {
  links: Links;
  outline: number[];
  images: readonly string[];
  texts: Texts;
}

export interface Reading {
  content: Content;
  /** Definitions that this unit adds. */
  links: Links;
  outline: number[];
}

/** The deepest that quotes, lists and emphasis nest: an answer can be written to nest without end. */
const DEEPEST = 12;

/** Characters after which a unit is shown as it stands: a parser's time grows faster than its text. */
const LONGEST = 20_000;
/** The same of marks that a parser looks for the second of. */
const MOST_MARKS = 400;

/** The level of an answer's first heading; the page and the panel have the ones above. */
const FIRST_HEADING = 3;

const NESTED = new RegExp(
  `^(?![-* \\t]*$)[ \\t]*(?:(?:>|[-*+](?=[ \\t])|\\d{1,9}[.)](?=[ \\t]))[ \\t]*){${DEEPEST},}`,
  "m",
);

/** `$x$`, `$$x$$`, `\(x\)` and `\[x\]`; not money, which has a space before its second sign or a number behind. */
const MATH =
  /^(?:\$\$(?=\S)([^$]*?[^\s$\\])\$\$|\$(?=[^\s$])([^$\n]*?[^\s$\\])\$(?!\d)|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/;

class OurTokenizer extends Tokenizer {
  override del(source: string, mask: string, before?: string): Tokens.Del | undefined {
    // "~20 or ~30" is about numbers.
    return source.startsWith("~~") ? super.del(source, mask, before) : undefined;
  }
}

function inlineMath(source: string): Tokens.Generic | undefined {
  const found = MATH.exec(source);
  if (!found) return undefined;
  const [raw, displayed, inline, inlineParen, displayedBracket] = found;
  const display = displayed !== undefined || displayedBracket !== undefined;
  return { type: "math", raw, text: (displayed ?? inline ?? inlineParen ?? displayedBracket ?? "").trim(), display };
}

const OPTIONS = {
  gfm: true,
  extensions: {
    renderers: {},
    childTokens: {},
    inline: [inlineMath],
    startInline: [(source: string) => source.search(/\$|\\[([]/)],
  },
};

/** Blocks of a text, and the definitions in it. `open`: its end may be missing. */
function lex(source: string, links: Links, open: boolean): { tokens: Token[]; links: Links } {
  const lexer = new Lexer({ ...OPTIONS, tokenizer: new OurTokenizer() });
  const own = Object.create(links) as Links;
  lexer.tokens.links = own;
  const tokens: Token[] = [];
  lexer.blockTokens(source.replaceAll("\r", ""), tokens);
  if (open && endsOpen(tokens)) {
    const last = lexer.inlineQueue.findLast(({ src }) => src !== "");
    if (last !== undefined) last.src = heal(last.src);
  }
  for (let index = 0; index < lexer.inlineQueue.length; index += 1) {
    const { src, tokens: into } = lexer.inlineQueue[index] as { src: string; tokens: Token[] };
    lexer.inlineTokens(src, into);
  }
  return { tokens, links: Object.fromEntries(Object.entries(own)) };
}

/** Whether the last thing is a line of text. */
function endsOpen(tokens: readonly Token[]): boolean {
  const last = tokens.findLast(({ type }) => type !== "space");
  switch (last?.type) {
    case "paragraph":
    case "text":
    case "heading":
    case "table":
      return true;
    case "blockquote":
      return endsOpen((last as Tokens.Blockquote).tokens);
    case "list":
      return endsOpen((last as Tokens.List).items.at(-1)?.tokens ?? []);
    default:
      return false;
  }
}

/** The types of the blocks of a text; see `Types` in units.ts. */
export function types(source: string): string[] {
  if (isPlain(source)) return ["paragraph"];
  const tokens: Token[] = [];
  new Lexer(OPTIONS).blockTokens(source, tokens);
  return tokens.flatMap(({ type }) => (type === "space" ? [] : [type]));
}

function isPlain(source: string): boolean {
  if (source.length > LONGEST || NESTED.test(source)) return true;
  return source.length > 2 * MOST_MARKS && (source.match(/[*_~]+|\[/g)?.length ?? 0) > MOST_MARKS;
}

/**
 * Read a unit. Its content is one element, but for text that holds nothing to show, or several blocks without a blank
 * line between them.
 *
 * @param open whether its end may be missing
 */
export function read(unit: Unit, open: boolean, context: Context): Reading {
  const { outline } = context;
  if (unit.kind === "code") return { content: [unit.source], links: {}, outline };
  if (unit.kind === "math") return { content: [mathOf(unit.source, true)], links: {}, outline };
  if (isPlain(unit.source)) return { content: [plainOf(unit)], links: {}, outline };
  const source =
    unit.kind === "row" ? unit.head + unit.source : open && unit.kind === "flow" ? asTable(unit.source) : unit.source;
  const { tokens, links } = lex(source, context.links, open);
  const reader = new Reader(context, open);
  if (unit.kind === "item") return { content: [reader.item(tokens, unit.loose)], links, outline };
  if (unit.kind === "row") {
    const table = tokens.find((token): token is Tokens.Table => token.type === "table");
    return { content: table ? table.rows.map((row) => reader.row(table, row, "td")) : [], links, outline };
  }
  return { content: reader.blocks(tokens, true, 0), links, outline: reader.outline };
}

/** How the list that begins with this item counts; undefined for one without numbers. */
export function startOf(source: string): number | undefined {
  const number = /^\s*(\d{1,9})[.)]/.exec(source)?.[1];
  return number === undefined ? undefined : parseInt(number, 10);
}

/** A line with pipes that is the last will be the head of a table: it is one at once. */
function asTable(source: string): string {
  const line = source.trimEnd().split("\n").at(-1) ?? "";
  if (!/^ {0,3}\|/.test(line)) return source;
  const cells = line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/);
  return `${source.trimEnd()}${cells.length > 1 && cells.at(-1)?.trim() === "" ? "\u00a0" : ""}\n|${"-|".repeat(cells.length)}\n`;
}

/** A unit as it stands. */
export function plainOf(unit: Unit): Description {
  if (unit.kind === "item") return { tag: "li", content: [unit.source] };
  if (unit.kind === "row") return { tag: "tr", content: [{ tag: "td", content: [unit.source] }] };
  return { tag: "p", class: "plain", attributes: { dir: "auto" }, content: [unit.source.trimEnd()] };
}

/** A block of code; it is found by its class when colours are at hand. */
export function codeOf(content: Content, info: string, texts: Texts): Description {
  const language = /^\S*/.exec(decode(info))?.[0].replace(/^\{?\.?|\}$/g, "") ?? "";
  const label = language === "" ? texts.code : `${texts.code}, ${language}`;
  return {
    tag: "figure",
    class: "code",
    attributes: { "data-language": language.toLowerCase(), dir: "ltr" },
    content: [
      {
        tag: "figcaption",
        content: [
          { tag: "span", content: [language === "" ? texts.code : language] },
          { tag: "button", class: "copy-code", attributes: { type: "button" }, content: [texts.copy] },
        ],
      },
      {
        tag: "pre",
        // What scrolls has to be reached without a mouse.
        attributes: { tabindex: "0", role: "group", "aria-label": label },
        content: [{ tag: "code", content }],
      },
    ],
  };
}

function mathOf(text: string, display: boolean): Description {
  const attributes = { dir: "ltr" };
  return display
    ? {
        tag: "div",
        class: "math",
        attributes: { ...attributes, tabindex: "0", role: "group", "aria-label": "TeX" },
        content: [{ tag: "code", content: [text.trim()] }],
      }
    : { tag: "code", class: "math", attributes, content: [text] };
}

class Reader {
  readonly #context: Context;
  readonly #open: boolean;
  outline: number[];

  constructor(context: Context, open: boolean) {
    this.#context = context;
    this.#open = open;
    this.outline = context.outline;
  }

  /** @param top whether these are blocks of the answer itself: its headings make an outline */
  blocks(tokens: readonly Token[], top: boolean, depth: number): Content {
    const shown = tokens.filter(({ type }) => type !== "space" && type !== "def");
    return shown.flatMap((token) => this.#block(token, top, depth));
  }

  #block(token: Token, top: boolean, depth: number): Content {
    if (depth > DEEPEST) return [{ tag: "p", class: "plain", content: [token.raw] }];
    // A language is found in a block as a whole: a list whose items had their own would not know on which side to count.
    const attributes: Record<string, string> = top ? { dir: "auto" } : {};
    switch (token.type) {
      case "heading": {
        const { depth: level, tokens } = token as Tokens.Heading;
        const content = this.inline(tokens);
        if (!top) return [{ tag: "p", class: `h${level}`, attributes, content }];
        this.outline = [...this.outline.filter((above) => above < level), level];
        const tag = `h${Math.min(6, FIRST_HEADING - 1 + this.outline.length)}`;
        return [{ tag, class: `h${level}`, attributes, content }];
      }
      case "hr":
        return [{ tag: "hr", content: [] }];
      case "code": {
        const { text, lang = "" } = token as Tokens.Code;
        return [codeOf([text], lang, this.#context.texts)];
      }
      case "blockquote":
        return [
          {
            tag: "blockquote",
            attributes,
            content: this.blocks((token as Tokens.Blockquote).tokens, false, depth + 1),
          },
        ];
      case "list": {
        const list = token as Tokens.List;
        const content = list.items.map((item) => this.#itemOf(item, list.loose, depth + 1));
        const { attributes: start, ...description } = listOf(list.ordered ? Number(list.start) : undefined, content);
        return [{ ...description, attributes: { ...start, ...attributes } }];
      }
      case "table":
        return [this.#table(token as Tokens.Table)];
      case "html":
        return [{ tag: "p", class: "plain", attributes, content: this.inline([token]) }];
      case "paragraph":
      case "text": {
        const { tokens, text } = token as Tokens.Paragraph;
        return [{ tag: "p", attributes, content: tokens ? this.inline(tokens) : [decode(text)] }];
      }
      default:
        return [{ tag: "p", attributes, content: this.inline([token]) }];
    }
  }

  /** The item of a text that is one. What is not of it, by the parser's own rules, follows in it. */
  item(tokens: readonly Token[], loose: boolean): Description {
    const blocks = tokens.filter(({ type }) => type !== "space" && type !== "def");
    const [list, ...rest] = blocks;
    const item = list?.type === "list" ? (list as Tokens.List).items[0] : undefined;
    if (list === undefined || item === undefined) return { tag: "li", content: this.blocks(blocks, false, 1) };
    const description = this.#itemOf(item, loose, 1);
    const others = (list as Tokens.List).items.slice(1).flatMap((each) => this.blocks(each.tokens, false, 1));
    description.content.push(...others, ...this.blocks(rest, false, 1));
    return description;
  }

  #itemOf(item: Tokens.ListItem, loose: boolean, depth: number): Description {
    const [box, words, ...rest] = item.tokens;
    // The box of a task stands in its line of text.
    const boxed =
      box?.type === "checkbox" && words?.type === "text"
        ? [{ ...words, tokens: [box, ...(words.tokens ?? [])] }, ...rest]
        : item.tokens;
    const description: Description = { tag: "li", content: this.blocks(boxed, false, depth) };
    const classes = [...(loose ? ["loose"] : []), ...(item.task ? ["task"] : [])];
    if (classes.length > 0) description.class = classes.join(" ");
    return description;
  }

  #table(table: Tokens.Table): Description {
    const rows = table.rows.map((row) => this.row(table, row, "td"));
    return {
      tag: "div",
      class: "table",
      attributes: { tabindex: "0", role: "group", "aria-label": this.#context.texts.table },
      content: [
        {
          tag: "table",
          attributes: { dir: "auto" },
          content: [
            { tag: "thead", content: [this.row(table, table.header, "th")] },
            { tag: "tbody", content: rows },
          ],
        },
      ],
    };
  }

  row(table: Tokens.Table, cells: readonly Tokens.TableCell[], tag: "th" | "td"): Description {
    const content = cells.map((cell, column): Description => {
      const align = table.align[column];
      return { tag, ...(align && { class: align }), content: this.inline(cell.tokens) };
    });
    return { tag: "tr", content };
  }

  inline(tokens: readonly Token[], depth = 0): Content {
    const content: Content = [];
    const say = (text: string) => {
      const last = content.length - 1;
      if (typeof content[last] === "string") content[last] += text;
      else if (text !== "") content.push(text);
    };
    tokens.forEach((token, index) => {
      const made = depth > DEEPEST ? token.raw : this.#inlineOf(token, index === tokens.length - 1, depth + 1);
      if (typeof made === "string") say(made);
      else for (const each of made) typeof each === "string" ? say(each) : content.push(each);
    });
    return content;
  }

  #inlineOf(token: Token, last: boolean, depth: number): Content | string {
    switch (token.type) {
      case "text": {
        const { tokens, text } = token as Tokens.Text;
        return tokens ? this.inline(tokens, depth) : decode(text);
      }
      case "escape":
        return (token as Tokens.Escape).text;
      case "strong":
      case "em":
      case "del":
        return [{ tag: token.type, content: this.inline((token as Tokens.Strong).tokens, depth) }];
      case "codespan":
        return [{ tag: "code", content: [(token as Tokens.Codespan).text] }];
      case "br":
        return [{ tag: "br", content: [] }];
      case "html":
        // The one piece of HTML that markdown has no other way to say, in a table's cell.
        return /^<br\s*\/?>$/i.test(token.raw.trim()) ? [{ tag: "br", content: [] }] : token.raw;
      case "math": {
        const { text, display } = token as Tokens.Generic as unknown as { text: string; display: boolean };
        return [{ tag: "code", class: display ? "math shown" : "math", attributes: { dir: "ltr" }, content: [text] }];
      }
      case "checkbox": {
        const { checked } = token as unknown as { checked: boolean };
        const label = checked ? this.#context.texts.done : this.#context.texts.open;
        return [
          {
            tag: "span",
            class: checked ? "box checked" : "box",
            attributes: { role: "img", "aria-label": label },
            content: [],
          },
        ];
      }
      case "link": {
        const { href, tokens, raw } = token as Tokens.Link;
        const words = this.inline(tokens, depth);
        // An address that is still being written leads nowhere yet.
        const half = this.#open && last && /^(?:https?:|www\.|\S+@)/.test(raw);
        const target = half ? null : linkTo(href);
        if (target === null) return words;
        return [
          {
            tag: "a",
            attributes: { href: target, target: "_blank", rel: "noopener noreferrer nofollow ugc" },
            content: words,
          },
        ];
      }
      case "image":
        return [this.#picture(token as Tokens.Image)];
      default:
        return decode(token.raw);
    }
  }

  #picture({ href, text }: Tokens.Image): Description {
    const alt = decode(text);
    const picture = pictureAt(href);
    if (picture === null) return { tag: "span", class: "image", content: [alt] };
    if (this.#context.images.includes(picture.origin)) return imageOf(picture.href, alt);
    const label = [this.#context.texts.showImage, alt].filter((each) => each !== "").join(": ");
    return {
      tag: "button",
      class: "image",
      attributes: { type: "button", "data-address": picture.href, "data-alt": alt },
      content: [label, { tag: "small", content: [picture.host] }],
    };
  }
}

/** A list of these items; without a number, one that does not count. */
export function listOf(start: number | undefined, content: Content): Description {
  if (start === undefined) return { tag: "ul", attributes: {}, content };
  return { tag: "ol", attributes: start === 1 ? {} : { start: String(start) }, content };
}

/** A picture that is loaded without telling its server from where. */
export function imageOf(address: string, alt: string): Description {
  return {
    tag: "img",
    attributes: { src: address, alt, referrerpolicy: "no-referrer", decoding: "async" },
    content: [],
  };
}
