// The text of an answer as nodes that grow. Everything before the last unit is settled: its nodes stay as they are,
// and a token costs no more than the unit that it falls into.
// A shell: where a text is cut is decided in units.ts, what it says in reading.ts.

import type { Colour } from "./colours.js";
import { nodeOf, patch } from "./nodes.js";
import {
  type Content,
  type Context,
  codeOf,
  type Description,
  imageOf,
  type Links,
  listOf,
  plainOf,
  type Reading,
  read,
  startOf,
  type Texts,
  types,
} from "./reading.js";
import { isUndecided, type Open, step, type Unit, unit } from "./units.js";

/** How a text is shown that grows at its end. The same for every renderer. */
export interface Markdown {
  /** Show more of the text. One call a frame is enough, however many tokens came. */
  write(delta: string): void;
  /** Show another text instead, which goes on. */
  reset(text: string): void;
  /** No more comes: what was left open is shown as it was written. */
  end(): void;
}

export interface Options {
  /** Origins from which images are loaded at once; those of all others are asked for with a click. */
  images?: readonly string[];
  /** What the elements say that the text does not, in the reader's language. */
  texts?: Partial<Texts>;
  /** Loads the colours for code; asked for at the first block of code that is closed. */
  colours?: () => Promise<Colour>;
  /** Told when something was copied. */
  copied?: () => void;
}

const TEXTS: Texts = {
  copy: "Copy",
  code: "Code",
  table: "Table",
  showImage: "Show image",
  done: "Done",
  open: "To do",
};

/** An element with `count` children that are settled, and behind them others that are not: `tail`. */
interface Level {
  node: Node;
  count: number;
  tail: Content;
}

/** What holds parts that are settled one by one: a list, a table or a block of code. */
type Holder = "item" | "row" | "code";

/** Elements of the text itself, or the parts of one holder. */
interface Group {
  kind: "blocks" | Holder;
  /** The holder without its parts, where it is a new one. */
  shell: Description | null;
  content: Content;
  /** How many of the elements are of closed units. */
  settled: number;
  /** Whether any closed unit is in it, be it the head of a table. */
  begun: boolean;
}

/** What a group has become: its settled parts, the head of a table, and what holds them. */
interface Drawn {
  items: Node[];
  heads: Node[];
  holder: Node | null;
}

/** A closed unit in its group: `from` which of the elements, and how many. */
interface Place {
  unit: Unit;
  outline: number[];
  group: Group;
  from: number;
  length: number;
}

/** A closed unit that names a link which is not defined, yet. */
interface Waiting {
  unit: Unit;
  nodes: Node[];
  outline: number[];
}

const REFERENCE = /\[[^\]]+\](?!\()/;

/**
 * Show markdown in an element, which has to be empty.
 *
 * @param parent gets the nodes, and the clicks on what is in them
 */
export function markdown(parent: HTMLElement, options: Options = {}): Markdown {
  return new Growing(parent, options);
}

class Growing implements Markdown {
  readonly #parent: HTMLElement;
  readonly #options: Options;
  readonly #texts: Texts;
  #open: Open | null = null;
  /** The last line, without its line feed. */
  #line = "";
  #root: Level;
  /** What the last closed unit was a part of: it may go on. */
  #container: (Level & { kind: Holder }) | null = null;
  #links: Links = Object.create(null) as Links;
  #outline: number[] = [];
  #waiting: Waiting[] = [];
  #ended = false;

  constructor(parent: HTMLElement, options: Options) {
    this.#parent = parent;
    this.#options = options;
    this.#texts = { ...TEXTS, ...options.texts };
    this.#root = { node: parent, count: 0, tail: [] };
    parent.addEventListener("click", (event) => this.#click(event));
  }

  write(delta: string): void {
    if (this.#ended) throw new Error("This text has ended; reset() begins another.");
    const lines = (this.#line + delta).split("\n");
    this.#line = lines.pop() ?? "";
    const closed = lines.flatMap((line) => this.#take(line));
    this.#show(closed, this.#preview());
  }

  reset(text: string): void {
    this.#open = null;
    this.#line = "";
    this.#container = null;
    this.#links = Object.create(null) as Links;
    this.#outline = [];
    this.#waiting = [];
    this.#ended = false;
    this.#parent.replaceChildren();
    this.#root = { node: this.#parent, count: 0, tail: [] };
    this.write(text);
  }

  end(): void {
    if (this.#ended) return;
    const closed = this.#line === "" ? [] : this.#take(this.#line);
    this.#line = "";
    if (this.#open !== null) closed.push(unit(this.#open));
    this.#open = null;
    this.#show(closed, []);
    this.#ended = true;
  }

  #take(line: string): Unit[] {
    const { closed, open } = step(this.#open, line.replace(/\r$/, ""), types);
    this.#open = open;
    return closed;
  }

  /** The units that would be if the text ended here. */
  #preview(): Unit[] {
    const shown = this.#line !== "" && !isUndecided(this.#open, this.#line);
    const { closed, open } = shown ? step(this.#open, this.#line, types) : { closed: [], open: this.#open };
    return open === null ? closed : [...closed, unit(open)];
  }

  #show(closed: readonly Unit[], preview: readonly Unit[]): void {
    const container = this.#container;
    const groups: Group[] = [];
    if (container !== null) groups.push({ kind: container.kind, shell: null, content: [], settled: 0, begun: true });
    const places: Place[] = [];
    const defined: string[] = [];
    let outline = this.#outline;
    closed.forEach((each) => {
      const { content, links, outline: below } = this.#read(each, false, outline);
      places.push(placed(each, content, groups, outline, this.#texts));
      outline = below;
      for (const [label, link] of Object.entries(links)) {
        if (label in this.#links) continue;
        this.#links[label] = link;
        defined.push(label);
      }
    });
    this.#outline = outline;
    for (const { group, length } of places) {
      group.begun = true;
      group.settled += length;
    }
    preview.forEach((each, index) => {
      const reading = this.#read(each, index === preview.length - 1, outline);
      placed(each, reading.content, groups, outline, this.#texts);
      outline = reading.outline;
    });

    const nodes = this.#draw(groups, places.at(-1));
    for (const { unit: each, outline: above, group, from, length } of places) {
      if (each.kind === "code") {
        if (each.last) this.#colour(nodes.get(group)?.holder ?? null);
        continue;
      }
      const own =
        each.kind === "table"
          ? (nodes.get(group)?.heads ?? [])
          : (nodes.get(group)?.items.slice(from, from + length) ?? []);
      for (const node of own) this.#colour(node);
      if (REFERENCE.test(each.source)) this.#waiting.push({ unit: each, nodes: own, outline: above });
    }
    if (defined.length > 0) this.#resolve(defined);
  }

  #read(each: Unit, open: boolean, outline: number[]): Reading {
    const context: Context = { links: this.#links, outline, images: this.#options.images ?? [], texts: this.#texts };
    try {
      return read(each, open, context);
    } catch {
      // A text that the parser cannot read is still one that a person can.
      return { content: [plainOf(each)], links: {}, outline };
    }
  }

  /** @param last where the last closed unit is, which a list, a table or code goes on in */
  #draw(groups: readonly Group[], last: Place | undefined): Map<Group, Drawn> {
    const nodes = new Map<Group, Drawn>();
    const container = this.#container;
    const goesOn = container === null ? undefined : groups[0];
    if (container !== null && goesOn !== undefined) {
      const items = grow(container, goesOn);
      nodes.set(goesOn, { items, heads: [], holder: container.node });
    }
    if (last !== undefined && (last.group !== goesOn || (last.unit.kind === "code" && last.unit.last)))
      this.#container = null;
    const others = goesOn === undefined ? groups : groups.slice(1);
    const shown = others.flatMap((group) => (group.shell === null ? group.content : [filled(group.shell, group)]));
    const { node: parent, count: first } = this.#root;
    patch(parent, first, this.#root.tail, shown);
    let at = 0;
    let done = 0;
    for (const group of others) {
      const { kind, shell, settled, content } = group;
      const top = parent.childNodes[first + at];
      if (shell === null || kind === "blocks") {
        const items = Array.from({ length: settled }, (_, index) => parent.childNodes[first + at + index] as Node);
        nodes.set(group, { items, heads: [], holder: null });
        at += content.length;
        done += settled;
        continue;
      }
      at += 1;
      if (!group.begun || top === undefined) continue;
      done += 1;
      const node = slotOf(top, kind);
      const items = Array.from(node.childNodes).slice(0, settled);
      nodes.set(group, { items, heads: node.previousSibling === null ? [] : [node.previousSibling], holder: node });
      const ended = last?.unit.kind === "code" && last.unit.last;
      if (group === last?.group && !ended)
        this.#container = { kind, node, count: settled, tail: content.slice(settled) };
    }
    this.#root.count += done;
    this.#root.tail = shown.slice(done);
    return nodes;
  }

  /** Make links of what names one that is defined only now. The elements stay; what is in them is made again. */
  #resolve(labels: readonly string[]): void {
    for (const { unit: each, nodes, outline } of this.#waiting) {
      const source = each.source.toLowerCase().replace(/\s+/g, " ");
      if (!labels.some((label) => source.includes(`[${label}]`))) continue;
      const content =
        each.kind === "table"
          ? headsOf(this.#read(each, false, outline).content)
          : this.#read(each, false, outline).content;
      nodes.forEach((node, index) => {
        const wanted = content[index];
        if (!(node instanceof HTMLElement) || typeof wanted !== "object" || node.localName !== wanted.tag) return;
        node.replaceChildren(...wanted.content.map(nodeOf));
        this.#colour(node);
      });
    }
  }

  #colour(node: Node | null): void {
    const { colours } = this.#options;
    if (colours === undefined || !(node instanceof Element)) return;
    const blocks = node.matches("pre > code") ? [node] : Array.from(node.querySelectorAll("pre > code"));
    for (const code of blocks) {
      const language = code.closest("figure")?.getAttribute("data-language") ?? "";
      const text = code.textContent ?? "";
      if (language === "" || text.trim() === "") continue;
      void colours().then(
        (colour) => {
          const pieces = colour(text, language);
          // Colours are not worth to lose what was selected, or what another text has put there since.
          if (pieces === null || code.textContent !== text || isSelected(code)) return;
          code.replaceChildren(...pieces.map(([kind, piece]) => (kind === "" ? piece : coloured(kind, piece))));
        },
        () => undefined,
      );
    }
  }

  #click(event: MouseEvent): void {
    const button = event.target instanceof Element ? event.target.closest("button") : null;
    if (button === null) return;
    if (button.classList.contains("copy-code")) {
      const text = button.closest("figure")?.querySelector("code")?.textContent ?? "";
      void navigator.clipboard?.writeText(text).then(
        () => {
          button.classList.add("copied");
          setTimeout(() => button.classList.remove("copied"), 1500);
          this.#options.copied?.();
        },
        () => undefined,
      );
    } else if (button.classList.contains("image")) {
      const address = button.getAttribute("data-address") ?? "";
      const image = nodeOf(imageOf(address, button.getAttribute("data-alt") ?? ""));
      button.replaceWith(image);
    }
  }
}

/** Put what a unit became into the group where it belongs. */
function placed(each: Unit, content: Content, groups: Group[], outline: number[], texts: Texts): Place {
  const last = groups.at(-1);
  const shell = shellOf(each, content, texts);
  const kind = each.kind === "item" || each.kind === "row" || each.kind === "code" ? each.kind : "blocks";
  const place = (group: Group, from: number, length: number): Place => ({ unit: each, outline, group, from, length });
  if (shell === null && last?.kind === kind) {
    const from = last.content.length;
    last.content.push(...content);
    return place(last, from, content.length);
  }
  const parts = each.kind === "table" && shell !== null ? [] : [...content];
  const group: Group = {
    kind: each.kind === "table" && shell !== null ? "row" : kind,
    shell,
    content: parts,
    settled: 0,
    begun: false,
  };
  groups.push(group);
  return place(group, 0, parts.length);
}

/** The empty holder that a unit begins; null if it goes on in the one before, or needs none. */
function shellOf(each: Unit, content: Content, texts: Texts): Description | null {
  if (each.kind === "item" && each.first) {
    const list = listOf(startOf(each.source), []);
    return { ...list, attributes: { ...list.attributes, dir: "auto" } };
  }
  if (each.kind === "code" && each.first) return codeOf([], each.info, texts);
  return each.kind === "table" && headsOf(content).length > 0 ? (content[0] as Description) : null;
}

/** Show the parts of a holder that is there. Returns the nodes of those that are settled now. */
function grow(level: Level, group: Group): Node[] {
  patch(level.node, level.count, level.tail, group.content);
  const nodes = Array.from({ length: group.settled }, (_, index) => level.node.childNodes[level.count + index] as Node);
  level.count += group.settled;
  level.tail = group.content.slice(group.settled);
  return nodes;
}

function filled(shell: Description, { kind, content }: Group): Description {
  if (kind === "item") return { ...shell, content };
  // The parts go into the last element, of a table and of a block of code alike.
  const last = shell.content.at(-1) as Description;
  if (kind === "code")
    return { ...shell, content: [...shell.content.slice(0, -1), { ...last, content: [{ tag: "code", content }] }] };
  return { ...shell, content: [{ ...last, content: [last.content[0] as Description, { tag: "tbody", content }] }] };
}

function slotOf(node: Node, kind: Holder): Node {
  return kind === "item" ? node : (node.lastChild?.lastChild as Node);
}

/** The head of the table that this content is. */
function headsOf(content: Content): Content {
  const wrapper = content[0];
  const table = typeof wrapper === "object" && wrapper.class === "table" ? wrapper.content[0] : undefined;
  return typeof table === "object" ? table.content.slice(0, 1) : [];
}

/** Whether the reader has selected something in an element, also in a shadow root. */
function isSelected(element: Element): boolean {
  const root = element.getRootNode() as Partial<Document>;
  const selection = root.getSelection?.() ?? document.getSelection();
  return selection !== null && !selection.isCollapsed && selection.containsNode(element, true);
}

function coloured(kind: string, piece: string): HTMLElement {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = piece;
  return span;
}
