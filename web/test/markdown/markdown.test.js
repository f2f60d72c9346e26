// Tests of web/markdown/ with texts that grow by one character or by chunks of any size.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";
import { completeMarkup } from "#src/markdown/complete_markup.js";
import { highlight } from "#src/markdown/highlight.js";
import { elements, lite, markdown, render, renderAll, shape, visibleText } from "./page.js";
import { ANSWERS, EXAMPLES, scrambled, seededRandom } from "./texts.js";

const TEXTS = [...new Set([...EXAMPLES.map(([text]) => text), ...ANSWERS, ...scrambled(400)])];

group("a growing text", () => {
  for (const renderer of [markdown, lite]) {
    test(`equals the complete text (${renderer.name})`, () => {
      for (const text of TEXTS) {
        const { parent, view } = render(renderer);
        for (const character of text) view.write(character);
        view.end();
        assert.equal(shape(parent), shape(renderAll(text, renderer)), JSON.stringify(text));
      }
    });
  }

  test("equals the complete text for chunks of any size", () => {
    const random = seededRandom(2);
    for (const text of [...TEXTS, ANSWERS.join("\n\n")]) {
      const wanted = shape(renderAll(text));
      for (let round = 0; round < (text.length > 500 ? 8 : 2); round += 1) {
        const { parent, view } = render();
        const maxLength = 1 + Math.floor(random() * Math.min(80, text.length));
        for (let at = 0, next; at < text.length; at = next) {
          next = at + 1 + Math.floor(random() * maxLength);
          view.write(text.slice(at, next));
        }
        view.end();
        assert.equal(shape(parent), wanted);
      }
    }
  });

  test("does not change settled blocks", () => {
    // Only blocks after the last blank line can change: at most two in these texts.
    for (const text of [...TEXTS, ANSWERS.join("\n\n")]) {
      const { parent, view } = render();
      const records = [];
      for (const character of `${text}\n\nThe end.`) {
        view.write(character);
        const settled = parent.childNodes.length - 3;
        for (let index = 0; index < settled; index += 1) {
          const node = parent.childNodes[index];
          records[index] ??= { node, shape: shape(node) };
          assert.equal(node, records[index].node, JSON.stringify(text));
        }
      }
      // Only a link reference with a later definition may change a settled block.
      if (/\]:/.test(text)) continue;
      for (const record of records) assert.equal(shape(record.node), record.shape, JSON.stringify(text));
    }
  });

  test("keeps settled list items and table rows", () => {
    for (const text of [
      "- a\n- b **c**\n- d\n  - e\n- f\n\n- g\n",
      "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | *4* |\n| 5 | 6 |\n",
    ]) {
      const { parent, view } = render();
      let before = [];
      for (const character of text) {
        view.write(character);
        const items = [...parent.querySelectorAll(":scope > ul > li, tbody > tr")].slice(0, -1);
        before.forEach((node, index) => assert.equal(items[index], node));
        before = items;
      }
      assert.ok(before.length > 1);
    }
  });

  test("can be replaced and continued", () => {
    const { parent, view } = render();
    view.write("One.\n\n- two\n- thr");
    view.reset("| a | b |\n|---|---|\n| c ");
    view.write("| d |\n");
    view.end();
    assert.equal(shape(parent), shape(renderAll("| a | b |\n|---|---|\n| c | d |\n")));
    view.reset("");
    assert.equal(parent.childNodes.length, 0);
  });

  test("rejects a write after its end", () => {
    const { view } = render();
    view.end();
    assert.throws(() => view.write("more"), /reset/);
    view.end();
  });

  test("follows the specifications, except HTML, relative URLs and rare entities", () => {
    const same = EXAMPLES.filter(([text, html]) => squashed(ours(renderAll(text))) === squashed(theirs(html)));
    // Of 1329 examples. The others have raw HTML, an unknown entity, or a URL that marked parses differently.
    assert.ok(same.length >= 1240, `${same.length} of ${EXAMPLES.length}`);
  });
});

group("unclosed markup", () => {
  test("no prefix shows a mark", () => {
    for (const text of [
      ANSWERS[0],
      ANSWERS[5],
      "See **the [docs](https://a.example/b) and `co de`** or ~~not __this__~~ at *all*.\n",
    ]) {
      const { parent, view } = render();
      let prefix = "";
      for (const character of text) {
        view.write(character);
        prefix += character;
        // Characters that are not marks: in names and URLs, and after a backslash.
        const words = visibleText(parent, "code", "figcaption").replace(/snake_\w*|https:\S*|one \|/g, "");
        assert.doesNotMatch(words, /[*_`#|~[\]]|\]\(|^>/m, JSON.stringify(prefix.slice(-60)));
      }
    }
  });

  test("completeMarkup closes or removes open marks", () => {
    const cases = {
      "so **this": "so **this**",
      "so **this*": "so **this**",
      "so **this is ": "so **this is**",
      "so *this **and": "so *this **and***",
      "so **": "so",
      "so `a * b": "so `a * b`",
      "so ``a`b": "so ``a`b``",
      "so `": "so",
      "so [a pa": "so a pa",
      "so [a *pa": "so a *pa*",
      "so [a page](https://a.exam": "so a page",
      "so **[a page](https://a.exam": "so **a page**",
      "so ![a pic": "so",
      "so ~~not": "so ~~not~~",
      "so [1": "so",
      "so [1]": "so [1]",
      "2 * 3": "2 * 3",
      snake_case_na: "snake_case_na",
      "so $x^2": "so $x^2$",
      "$5 and": "$5 and",
      "so \\(x^2": "so \\(x^2\\)",
      "a \\": "a",
      "a &am": "a",
      "see <https://a.ex": "see",
    };
    for (const [text, wanted] of Object.entries(cases))
      assert.equal(completeMarkup(text), wanted, JSON.stringify(text));
  });

  test("completeMarkup keeps closed markup", () => {
    for (const [text] of EXAMPLES) {
      if (!/^[\w **`]+\.\n$/.test(text)) continue;
      assert.equal(completeMarkup(text.trim()), text.trim());
    }
  });

  test("a table is rendered from its first line", () => {
    const text = "| a | b |\n|---|:-:|\n| 1 | 2 |\n";
    const { parent, view } = render();
    for (const character of text) {
      view.write(character);
      if (parent.firstChild !== null) assert.equal(parent.firstChild.className, "table");
      assert.doesNotMatch(visibleText(parent), /[|:-]/);
    }
  });

  test("a code block is rendered from its first line", () => {
    const { parent, view } = render();
    for (const character of "```js\n# a\n- **b**\n``") {
      view.write(character);
      if (parent.firstChild !== null) assert.equal(parent.firstChild.localName, "figure");
      assert.equal(
        elements(parent).some(({ localName }) => ["h3", "strong", "li"].includes(localName)),
        false,
      );
    }
    assert.equal(parent.querySelector("code").textContent, "# a\n- **b**");
  });
});

group("headings", () => {
  test("form an outline without gaps", () => {
    const tags = (text) =>
      elements(renderAll(text))
        .map(({ localName }) => localName)
        .filter((name) => /^h\d/.test(name));
    assert.deepEqual(tags("# a\n## b\n## c\n# d\n"), ["h3", "h4", "h4", "h3"]);
    assert.deepEqual(tags("#### a\n## b\n###### c\n"), ["h3", "h3", "h4"]);
    assert.deepEqual(tags("> # a\n\n- # b\n"), []);
  });
});

group("link references with a later definition", () => {
  test("become links in the existing element", () => {
    const { parent, view } = render();
    view.write("See [the docs][1] and **[paper]**.\n\nMore.\n\n");
    const [first] = parent.childNodes;
    assert.equal(elements(parent).filter(({ localName }) => localName === "a").length, 0);
    view.write("[1]: https://a.example/\n[Paper]: https://b.example/\n");
    view.end();
    assert.equal(parent.firstChild, first);
    assert.deepEqual(
      [...first.querySelectorAll("a")].map((link) => link.getAttribute("href")),
      ["https://a.example/", "https://b.example/"],
    );
  });
});

group("rendering cost", () => {
  test("a token costs the same at the start and end of a text", () => {
    const paragraph = "Some **words** of `code` in a [link](https://a.example), with *more* of them.\n\n";
    const kinds = {
      paragraphs: paragraph,
      items: "- an item with **bold** words and `code` in it\n",
      rows: "| one | **two** | three |\n",
      code: "  const value = compute(the, rest); // and so on\n",
    };
    const heads = { paragraphs: "", items: "", rows: "| a | b | c |\n|---|---|---|\n", code: "```js\n" };
    for (const [kind, piece] of Object.entries(kinds)) {
      const { parent, view } = render();
      view.write(heads[kind]);
      const spent = (rounds) => {
        const from = process.cpuUsage();
        for (let round = 0; round < rounds; round += 1)
          for (let at = 0; at < piece.length; at += 5) view.write(piece.slice(at, at + 5));
        const { user, system } = process.cpuUsage(from);
        return user + system;
      };
      spent(20);
      const first = spent(60);
      for (let round = 0; round < 600; round += 1) view.write(piece);
      const last = spent(60);
      assert.ok(parent.childNodes.length > 0);
      assert.ok(last < 5 * first + 20_000, `${kind}: ${first} µs, then ${last}`);
    }
  });

  test("no text takes unbounded time", () => {
    const nested = Array.from({ length: 400 }, (_, index) => `${" ".repeat(2 * index)}- a`).join("\n");
    const texts = [
      ">".repeat(5000),
      "> ".repeat(5000),
      "- ".repeat(5000),
      nested,
      "*a **b ".repeat(3000),
      "[".repeat(20_000),
      "`".repeat(20_001),
      "![".repeat(9000),
    ];
    for (const text of [
      ...texts,
      "$".repeat(9000),
      "<".repeat(20_000),
      "\\".repeat(20_000),
      "|".repeat(20_000),
      "a [b](".repeat(3000),
      "&".repeat(20_000),
    ]) {
      const from = process.cpuUsage();
      const { parent, view } = render();
      for (let at = 0; at < text.length; at += 2000) view.write(text.slice(at, at + 2000));
      view.end();
      const { user, system } = process.cpuUsage(from);
      assert.ok(user + system < 5_000_000, `${text.slice(0, 20)} took ${user + system} µs`);
      assert.ok(depth(parent) < 60);
    }
  });
});

group("syntax highlighting", () => {
  test("keeps every character", () => {
    const random = seededRandom(5);
    const pieces = [
      "'",
      '"',
      "`",
      "//",
      "/*",
      "*/",
      "#",
      "\\",
      "\n",
      "<a ",
      ">",
      "class",
      "if (",
      "1.5e3",
      "0xff",
      "äö",
      "$x",
      "@y",
      "--",
      '"""',
      "<!--",
      "x=",
      ": ",
      "- ",
    ];
    for (const language of [
      "js",
      "python",
      "json",
      "sh",
      "html",
      "css",
      "sql",
      "go",
      "rust",
      "java",
      "cpp",
      "yaml",
      "toml",
      "diff",
      "php",
      "c#",
      "lua",
      "dockerfile",
    ]) {
      for (let round = 0; round < 200; round += 1) {
        const text = Array.from({ length: 12 }, () => pieces[Math.floor(random() * pieces.length)]).join("");
        const found = highlight(text, language);
        assert.equal(found.map(([, piece]) => piece).join(""), text);
      }
    }
  });

  test("distinguishes keywords, strings, numbers and comments", () => {
    const found = highlight("const a = `b`; // c\nreturn f(1.5)", "ts");
    assert.deepEqual(
      found.filter(([kind]) => kind !== ""),
      [
        ["keyword", "const"],
        ["string", "`b`"],
        ["comment", "// c"],
        ["keyword", "return"],
        ["call", "f"],
        ["number", "1.5"],
      ],
    );
    assert.equal(highlight("x", "brainfuck"), null);
    assert.equal(highlight("x", "constructor"), null);
  });

  test("applies to closed code blocks only", async () => {
    let loads = 0;
    const highlighter = () => {
      loads += 1;
      return Promise.resolve(highlight);
    };
    const { parent, view } = render(markdown, { highlighter });
    view.write("```js\nlet a = 1;\n");
    assert.equal(loads, 0);
    view.write("```\n");
    await Promise.resolve();
    await Promise.resolve();
    assert.equal(parent.querySelector("code > span.keyword").textContent, "let");
    assert.equal(parent.querySelector("code").textContent, "let a = 1;");
  });
});

function depth(node) {
  return 1 + Math.max(0, ...[...node.childNodes].map(depth));
}

/** Return the significant elements and text, comparable with those of `theirs`. */
function ours(node) {
  if (node.nodeType === 3) return node.data;
  const name = node.localName;
  const inside = [...node.childNodes].map(ours).join("");
  if (name === "figcaption") return "";
  if (/^h\d$/.test(name) || /^h\d$/.test(node.className)) return `<h>${inside}</h>`;
  if (["figure", "div", "p", "thead", "tbody", "tr"].includes(name)) return inside;
  if (node.className === "image") return "<img>";
  if (name === "span") return inside;
  return name === "br" || name === "hr" ? `<${name}>` : `<${name}>${inside}</${name}>`;
}

function theirs(html) {
  const text = html
    .replace(/<img[^>]*>/g, "<img>")
    .replace(/<(\/?)h[1-6]>/g, "<$1h>")
    .replace(/<input[^>]*>/g, "")
    .replace(/<a href="(?!https?:|mailto:)[^"]*"[^>]*>([\s\S]*?)<\/a>/g, "$1")
    .replace(/<(\w+) [^>]*>/g, "<$1>")
    .replace(/<\/?(p|thead|tbody|tr)>/g, "")
    .replace(/<(br|hr) ?\/>/g, "<$1>");
  const entities = { lt: "<", gt: ">", quot: '"', amp: "&" };
  return `<div>${text.replace(/&(lt|gt|quot|amp);/g, (_, name) => entities[name])}</div>`;
}

function squashed(text) {
  return text.replace(/^<div>|<\/div>$/g, "").replace(/\s+/g, "");
}
