// Renders a growing markdown text. Nodes of closed units do not change, so the cost of a token depends only on its unit.
// A shell: units.ts splits the text, and parse.ts converts it into element descriptions.

import type { Highlighter } from "./highlight.js";
import { nodeOf, patch } from "./nodes.js";
import {
  type Content,
  type Context,
  codeOf,
  type Description,
  imageOf,
  type Links,
  listOf,
  type ParsedUnit,
  parse,
  plainOf,
  startOf,
  type Texts,
  types,
} from "./parse.js";
import { isUndecided, type Open, step, type Unit, unit } from "./units.js";

/** A renderer of a growing text. */
export interface Markdown {
  /** Append text. Call it at most once for each animation frame. */
  write(delta: string): void;
  /** Replace the text with another growing text. */
  reset(text: string): void;
  /** End the text. Unclosed markup is shown as text. */
  end(): void;
}

export interface Options {
  /** Origins whose images load without a click. */
  images?: readonly string[];
  /** Translations of the texts of buttons and labels. */
  texts?: Partial<Texts>;
  /** Load the syntax highlighter. Called at the first closed code block. */
  highlighter?: () => Promise<Highlighter>;
  /** Called after code was copied. */
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

/** An element with `count` settled children, followed by the unsettled children `tail`. */
interface Level {
  node: Node;
  count: number;
  tail: Content;
}

/** Containers whose parts settle separately: a list, a table or a code block. */
type ContainerKind = "item" | "row" | "code";

/** Top-level elements, or the parts of one container. */
interface Group {
  kind: "blocks" | ContainerKind;
  /** The empty container, if it is new. */
  shell: Description | null;
  content: Content;
  /** Number of elements of closed units. */
  settled: number;
  /** Whether it contains a closed unit, including a table header. */
  started: boolean;
}

/** Nodes of a group: its settled parts, the table header, and the container. */
interface GroupNodes {
  items: Node[];
  heads: Node[];
  container: Node | null;
}

/** Position of a closed unit in its group: index of its first element, and their number. */
interface UnitPosition {
  unit: Unit;
  outline: number[];
  group: Group;
  from: number;
  length: number;
}

/** A closed unit with a link reference that is not defined yet. */
interface UnresolvedUnit {
  unit: Unit;
  nodes: Node[];
  outline: number[];
}

const REFERENCE = /\[[^\]]+\](?!\()/;

/**
 * Render markdown into an empty element.
 *
 * @param parent contains the nodes, and handles their click events
 */
export function markdown(parent: HTMLElement, options: Options = {}): Markdown {
  return new GrowingMarkdown(parent, options);
}

class GrowingMarkdown implements Markdown {
  readonly #parent: HTMLElement;
  readonly #options: Options;
  readonly #texts: Texts;
  #open: Open | null = null;
  /** The incomplete last line. */
  #line = "";
  #root: Level;
  /** The container of the last closed unit, which may continue. */
  #container: (Level & { kind: ContainerKind }) | null = null;
  #links: Links = Object.create(null) as Links;
  #outline: number[] = [];
  #unresolved: UnresolvedUnit[] = [];
  #ended = false;

  constructor(parent: HTMLElement, options: Options) {
    this.#parent = parent;
    this.#options = options;
    this.#texts = { ...TEXTS, ...options.texts };
    this.#root = { node: parent, count: 0, tail: [] };
    parent.addEventListener("click", (event) => this.#click(event));
  }

  write(delta: string): void {
    if (this.#ended) throw new Error("write() after end(): call reset() first");
    const lines = (this.#line + delta).split("\n");
    this.#line = lines.pop() ?? "";
    const closed = lines.flatMap((line) => this.#addLine(line));
    this.#show(closed, this.#preview());
  }

  reset(text: string): void {
    this.#open = null;
    this.#line = "";
    this.#container = null;
    this.#links = Object.create(null) as Links;
    this.#outline = [];
    this.#unresolved = [];
    this.#ended = false;
    this.#parent.replaceChildren();
    this.#root = { node: this.#parent, count: 0, tail: [] };
    this.write(text);
  }

  end(): void {
    if (this.#ended) return;
    const closed = this.#line === "" ? [] : this.#addLine(this.#line);
    this.#line = "";
    if (this.#open !== null) closed.push(unit(this.#open));
    this.#open = null;
    this.#show(closed, []);
    this.#ended = true;
  }

  #addLine(line: string): Unit[] {
    const { closed, open } = step(this.#open, line.replace(/\r$/, ""), types);
    this.#open = open;
    return closed;
  }

  /** Return the open units as if the text ended here. */
  #preview(): Unit[] {
    const shown = this.#line !== "" && !isUndecided(this.#open, this.#line);
    const { closed, open } = shown ? step(this.#open, this.#line, types) : { closed: [], open: this.#open };
    return open === null ? closed : [...closed, unit(open)];
  }

  #show(closed: readonly Unit[], preview: readonly Unit[]): void {
    const container = this.#container;
    const groups: Group[] = [];
    if (container !== null) groups.push({ kind: container.kind, shell: null, content: [], settled: 0, started: true });
    const positions: UnitPosition[] = [];
    const defined: string[] = [];
    let outline = this.#outline;
    closed.forEach((each) => {
      const { content, links, outline: extended } = this.#parse(each, false, outline);
      positions.push(addToGroup(each, content, groups, outline, this.#texts));
      outline = extended;
      for (const [label, link] of Object.entries(links)) {
        if (label in this.#links) continue;
        this.#links[label] = link;
        defined.push(label);
      }
    });
    this.#outline = outline;
    for (const { group, length } of positions) {
      group.started = true;
      group.settled += length;
    }
    preview.forEach((each, index) => {
      const parsed = this.#parse(each, index === preview.length - 1, outline);
      addToGroup(each, parsed.content, groups, outline, this.#texts);
      outline = parsed.outline;
    });

    const nodes = this.#draw(groups, positions.at(-1));
    for (const { unit: each, outline: above, group, from, length } of positions) {
      if (each.kind === "code") {
        if (each.last) this.#highlight(nodes.get(group)?.container ?? null);
        continue;
      }
      const own =
        each.kind === "table"
          ? (nodes.get(group)?.heads ?? [])
          : (nodes.get(group)?.items.slice(from, from + length) ?? []);
      for (const node of own) this.#highlight(node);
      if (REFERENCE.test(each.source)) this.#unresolved.push({ unit: each, nodes: own, outline: above });
    }
    if (defined.length > 0) this.#resolve(defined);
  }

  #parse(each: Unit, open: boolean, outline: number[]): ParsedUnit {
    const context: Context = { links: this.#links, outline, images: this.#options.images ?? [], texts: this.#texts };
    try {
      return parse(each, open, context);
    } catch {
      // If the parser fails, the user can still read the plain text.
      return { content: [plainOf(each)], links: {}, outline };
    }
  }

  /** @param last position of the last closed unit; its list, table or code block may continue */
  #draw(groups: readonly Group[], last: UnitPosition | undefined): Map<Group, GroupNodes> {
    const nodes = new Map<Group, GroupNodes>();
    const container = this.#container;
    const continued = container === null ? undefined : groups[0];
    if (container !== null && continued !== undefined) {
      const items = grow(container, continued);
      nodes.set(continued, { items, heads: [], container: container.node });
    }
    if (last !== undefined && (last.group !== continued || (last.unit.kind === "code" && last.unit.last)))
      this.#container = null;
    const others = continued === undefined ? groups : groups.slice(1);
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
        nodes.set(group, { items, heads: [], container: null });
        at += content.length;
        done += settled;
        continue;
      }
      at += 1;
      if (!group.started || top === undefined) continue;
      done += 1;
      const node = slotOf(top, kind);
      const items = Array.from(node.childNodes).slice(0, settled);
      nodes.set(group, { items, heads: node.previousSibling === null ? [] : [node.previousSibling], container: node });
      const ended = last?.unit.kind === "code" && last.unit.last;
      if (group === last?.group && !ended)
        this.#container = { kind, node, count: settled, tail: content.slice(settled) };
    }
    this.#root.count += done;
    this.#root.tail = shown.slice(done);
    return nodes;
  }

  /** Render units with newly defined link references again. Their elements remain, with new content. */
  #resolve(labels: readonly string[]): void {
    for (const { unit: each, nodes, outline } of this.#unresolved) {
      const source = each.source.toLowerCase().replace(/\s+/g, " ");
      if (!labels.some((label) => source.includes(`[${label}]`))) continue;
      const content =
        each.kind === "table"
          ? headsOf(this.#parse(each, false, outline).content)
          : this.#parse(each, false, outline).content;
      nodes.forEach((node, index) => {
        const wanted = content[index];
        if (!(node instanceof HTMLElement) || typeof wanted !== "object" || node.localName !== wanted.tag) return;
        node.replaceChildren(...wanted.content.map(nodeOf));
        this.#highlight(node);
      });
    }
  }

  #highlight(node: Node | null): void {
    const { highlighter } = this.#options;
    if (highlighter === undefined || !(node instanceof Element)) return;
    const blocks = node.matches("pre > code") ? [node] : Array.from(node.querySelectorAll("pre > code"));
    for (const code of blocks) {
      const language = code.closest("figure")?.getAttribute("data-language") ?? "";
      const text = code.textContent ?? "";
      if (language === "" || text.trim() === "") continue;
      void highlighter().then(
        (highlight) => {
          const tokens = highlight(text, language);
          // Highlighting must not clear a selection, or overwrite a newer text.
          if (tokens === null || code.textContent !== text || isSelected(code)) return;
          code.replaceChildren(...tokens.map(([kind, token]) => (kind === "" ? token : tokenNode(kind, token))));
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

/** Add the content of a unit to its group. */
function addToGroup(each: Unit, content: Content, groups: Group[], outline: number[], texts: Texts): UnitPosition {
  const last = groups.at(-1);
  const shell = shellOf(each, content, texts);
  const kind = each.kind === "item" || each.kind === "row" || each.kind === "code" ? each.kind : "blocks";
  const position = (group: Group, from: number, length: number): UnitPosition => ({
    unit: each,
    outline,
    group,
    from,
    length,
  });
  if (shell === null && last?.kind === kind) {
    const from = last.content.length;
    last.content.push(...content);
    return position(last, from, content.length);
  }
  const parts = each.kind === "table" && shell !== null ? [] : [...content];
  const group: Group = {
    kind: each.kind === "table" && shell !== null ? "row" : kind,
    shell,
    content: parts,
    settled: 0,
    started: false,
  };
  groups.push(group);
  return position(group, 0, parts.length);
}

/** Return the empty container that a unit starts; null if it continues the last one, or needs none. */
function shellOf(each: Unit, content: Content, texts: Texts): Description | null {
  if (each.kind === "item" && each.first) {
    const list = listOf(startOf(each.source), []);
    return { ...list, attributes: { ...list.attributes, dir: "auto" } };
  }
  if (each.kind === "code" && each.first) return codeOf([], each.info, texts);
  return each.kind === "table" && headsOf(content).length > 0 ? (content[0] as Description) : null;
}

/** Update the parts of an existing container. Return the nodes of the newly settled parts. */
function grow(level: Level, group: Group): Node[] {
  patch(level.node, level.count, level.tail, group.content);
  const nodes = Array.from({ length: group.settled }, (_, index) => level.node.childNodes[level.count + index] as Node);
  level.count += group.settled;
  level.tail = group.content.slice(group.settled);
  return nodes;
}

function filled(shell: Description, { kind, content }: Group): Description {
  if (kind === "item") return { ...shell, content };
  // The parts belong into the last element, in a table as in a code block.
  const last = shell.content.at(-1) as Description;
  if (kind === "code")
    return { ...shell, content: [...shell.content.slice(0, -1), { ...last, content: [{ tag: "code", content }] }] };
  return { ...shell, content: [{ ...last, content: [last.content[0] as Description, { tag: "tbody", content }] }] };
}

function slotOf(node: Node, kind: ContainerKind): Node {
  return kind === "item" ? node : (node.lastChild?.lastChild as Node);
}

/** Return the header of a table. */
function headsOf(content: Content): Content {
  const wrapper = content[0];
  const table = typeof wrapper === "object" && wrapper.class === "table" ? wrapper.content[0] : undefined;
  return typeof table === "object" ? table.content.slice(0, 1) : [];
}

/** Whether the user has selected something in an element, also in a shadow root. */
function isSelected(element: Element): boolean {
  const root = element.getRootNode() as Partial<Document>;
  const selection = root.getSelection?.() ?? document.getSelection();
  return selection !== null && !selection.isCollapsed && selection.containsNode(element, true);
}

function tokenNode(kind: string, token: string): HTMLElement {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = token;
  return span;
}
