// Converts units of markdown into element descriptions, with the tokens of marked. HTML in a text is shown as text.
// Pure: no document.

import { Lexer, type Token, Tokenizer, type Tokens } from "marked";
import { completeMarkup } from "./complete_markup.js";
import type { Unit } from "./units.js";
import { decode, safeImage, safeLink } from "./urls.js";

/** An element to create. Tags and attribute names are chosen by this module, never by the text. */
export interface Description {
  tag: string;
  class?: string;
  attributes?: Record<string, string>;
  content: Content;
}

export type Content = (Description | string)[];

/** Definitions of link references, by their normalised label. */
export type Links = Record<string, Pick<Tokens.Link | Tokens.Image, "href" | "title">>;

/** Texts of the elements that the markdown does not contain. */
export interface Texts {
  copy: string;
  code: string;
  table: string;
  showImage: string;
  done: string;
  open: string;
}

/** Input besides the unit. `outline`: levels of the headings above; `images`: origins whose images load without a click. */
export interface Context {
  links: Links;
  outline: number[];
  images: readonly string[];
  texts: Texts;
}

export interface ParsedUnit {
  content: Content;
  /** Definitions that this unit adds. */
  links: Links;
  outline: number[];
}

/** Maximum nesting of quotes, lists and emphasis, because a text can nest without limit. */
const MAX_DEPTH = 12;

/** Longer units are shown as plain text, because parsing time grows faster than the text. */
const MAX_LENGTH = 20_000;
/** The same for the number of marks whose closing mark the parser searches. */
const MAX_MARKS = 400;

/** Level of an answer's first heading. The page and the panel use the levels above. */
const FIRST_HEADING = 3;

const NESTED = new RegExp(
  `^(?![-* \\t]*$)[ \\t]*(?:(?:>|[-*+](?=[ \\t])|\\d{1,9}[.)](?=[ \\t]))[ \\t]*){${MAX_DEPTH},}`,
  "m",
);

/** `$x$`, `$$x$$`, `\(x\)` and `\[x\]`. Not amounts of money: there, a space precedes or a digit follows the second "$". */
const MATH =
  /^(?:\$\$(?=\S)([^$]*?[^\s$\\])\$\$|\$(?=[^\s$])([^$\n]*?[^\s$\\])\$(?!\d)|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/;

class StrictDelTokenizer extends Tokenizer {
  override del(source: string, mask: string, before?: string): Tokens.Del | undefined {
    // A single "~" means "about", as in "~20 or ~30".
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

/** Return the blocks and link definitions of a text. `open`: its end may be missing. */
function lex(source: string, links: Links, open: boolean): { tokens: Token[]; links: Links } {
  const lexer = new Lexer({ ...OPTIONS, tokenizer: new StrictDelTokenizer() });
  const own = Object.create(links) as Links;
  lexer.tokens.links = own;
  const tokens: Token[] = [];
  lexer.blockTokens(source.replaceAll("\r", ""), tokens);
  if (open && endsOpen(tokens)) {
    const last = lexer.inlineQueue.findLast(({ src }) => src !== "");
    if (last !== undefined) last.src = completeMarkup(last.src);
  }
  for (let index = 0; index < lexer.inlineQueue.length; index += 1) {
    const { src, tokens: into } = lexer.inlineQueue[index] as { src: string; tokens: Token[] };
    lexer.inlineTokens(src, into);
  }
  return { tokens, links: Object.fromEntries(Object.entries(own)) };
}

/** Whether the text ends with inline content. */
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

/** Return the types of the blocks of a text; see `Types` in units.ts. */
export function types(source: string): string[] {
  if (isPlain(source)) return ["paragraph"];
  const tokens: Token[] = [];
  new Lexer(OPTIONS).blockTokens(source, tokens);
  return tokens.flatMap(({ type }) => (type === "space" ? [] : [type]));
}

function isPlain(source: string): boolean {
  if (source.length > MAX_LENGTH || NESTED.test(source)) return true;
  return source.length > 2 * MAX_MARKS && (source.match(/[*_~]+|\[/g)?.length ?? 0) > MAX_MARKS;
}

/**
 * Parse a unit. The content is usually one element; none for a text without visible content, and several for blocks
 * without a blank line between them.
 *
 * @param open whether its end may be missing
 */
export function parse(unit: Unit, open: boolean, context: Context): ParsedUnit {
  const { outline } = context;
  if (unit.kind === "code") return { content: [unit.source], links: {}, outline };
  if (unit.kind === "math") return { content: [mathOf(unit.source, true)], links: {}, outline };
  if (isPlain(unit.source)) return { content: [plainOf(unit)], links: {}, outline };
  const source =
    unit.kind === "row" ? unit.head + unit.source : open && unit.kind === "flow" ? asTable(unit.source) : unit.source;
  const { tokens, links } = lex(source, context.links, open);
  const parser = new UnitParser(context, open);
  if (unit.kind === "item") return { content: [parser.item(tokens, unit.loose)], links, outline };
  if (unit.kind === "row") {
    const table = tokens.find((token): token is Tokens.Table => token.type === "table");
    return { content: table ? table.rows.map((row) => parser.row(table, row, "td")) : [], links, outline };
  }
  return { content: parser.blocks(tokens, true, 0), links, outline: parser.outline };
}

/** Return the first number of a list that starts with this item; undefined for a bullet list. */
export function startOf(source: string): number | undefined {
  const number = /^\s*(\d{1,9})[.)]/.exec(source)?.[1];
  return number === undefined ? undefined : parseInt(number, 10);
}

/** Complete a trailing line with pipes to a table header, so that it is not shown as a paragraph first. */
function asTable(source: string): string {
  const line = source.trimEnd().split("\n").at(-1) ?? "";
  if (!/^ {0,3}\|/.test(line)) return source;
  const cells = line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/);
  return `${source.trimEnd()}${cells.length > 1 && cells.at(-1)?.trim() === "" ? "\u00a0" : ""}\n|${"-|".repeat(cells.length)}\n`;
}

/** Return a unit as plain text. */
export function plainOf(unit: Unit): Description {
  if (unit.kind === "item") return { tag: "li", content: [unit.source] };
  if (unit.kind === "row") return { tag: "tr", content: [{ tag: "td", content: [unit.source] }] };
  return { tag: "p", class: "plain", attributes: { dir: "auto" }, content: [unit.source.trimEnd()] };
}

/** Return a code block. Its class identifies it for syntax highlighting. */
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
        // A scrolling element must be reachable by keyboard.
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

class UnitParser {
  readonly #context: Context;
  readonly #open: boolean;
  outline: number[];

  constructor(context: Context, open: boolean) {
    this.#context = context;
    this.#open = open;
    this.outline = context.outline;
  }

  /** @param top whether these are top-level blocks, whose headings form the outline */
  blocks(tokens: readonly Token[], top: boolean, depth: number): Content {
    const shown = tokens.filter(({ type }) => type !== "space" && type !== "def");
    return shown.flatMap((token) => this.#block(token, top, depth));
  }

  #block(token: Token, top: boolean, depth: number): Content {
    if (depth > MAX_DEPTH) return [{ tag: "p", class: "plain", content: [token.raw] }];
    // The direction is set for a whole block: a list needs one side for all its numbers.
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

  /** Return the list item of an `item` unit. Blocks that marked places after the item are added to it. */
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
    const [box, label, ...rest] = item.tokens;
    // The checkbox belongs to the item's first line of text.
    const boxed =
      box?.type === "checkbox" && label?.type === "text"
        ? [{ ...label, tokens: [box, ...(label.tokens ?? [])] }, ...rest]
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
    const append = (text: string) => {
      const last = content.length - 1;
      if (typeof content[last] === "string") content[last] += text;
      else if (text !== "") content.push(text);
    };
    tokens.forEach((token, index) => {
      const parsed = depth > MAX_DEPTH ? token.raw : this.#inlineOf(token, index === tokens.length - 1, depth + 1);
      if (typeof parsed === "string") append(parsed);
      else for (const each of parsed) typeof each === "string" ? append(each) : content.push(each);
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
        // The only supported HTML: markdown has no other line break inside a table cell.
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
        const label = this.inline(tokens, depth);
        // An incomplete URL is not a link yet.
        const half = this.#open && last && /^(?:https?:|www\.|\S+@)/.test(raw);
        const target = half ? null : safeLink(href);
        if (target === null) return label;
        return [
          {
            tag: "a",
            attributes: { href: target, target: "_blank", rel: "noopener noreferrer nofollow ugc" },
            content: label,
          },
        ];
      }
      case "image":
        return [this.#image(token as Tokens.Image)];
      default:
        return decode(token.raw);
    }
  }

  #image({ href, text }: Tokens.Image): Description {
    const alt = decode(text);
    const image = safeImage(href);
    if (image === null) return { tag: "span", class: "image", content: [alt] };
    if (this.#context.images.includes(image.origin)) return imageOf(image.href, alt);
    const label = [this.#context.texts.showImage, alt].filter((each) => each !== "").join(": ");
    return {
      tag: "button",
      class: "image",
      attributes: { type: "button", "data-address": image.href, "data-alt": alt },
      content: [label, { tag: "small", content: [image.host] }],
    };
  }
}

/** Return a list of these items; a bullet list if `start` is undefined. */
export function listOf(start: number | undefined, content: Content): Description {
  if (start === undefined) return { tag: "ul", attributes: {}, content };
  return { tag: "ol", attributes: start === 1 ? {} : { start: String(start) }, content };
}

/** Return an image that is requested without a referrer. */
export function imageOf(address: string, alt: string): Description {
  return {
    tag: "img",
    attributes: { src: address, alt, referrerpolicy: "no-referrer", decoding: "async" },
    content: [],
  };
}
