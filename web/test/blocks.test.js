// Tests of blocks.js: texts that grow a character at a time, and what no text may do.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";

import { describe, read } from "../page/blocks.js";

const RICH = {
  everything: `# A short answer 🌊

> Why **now**, and not \`later\`?
> - because
>
> It is *time*.

Words are **bold**, *italic*, _slanted_, __strong__ and \`code * with _marks_\`; snake_case_name stays.
A second line, **bold with *italic* inside**, and [a page](https://example.com/a_(b)) or https://example.com/c_d.

1. The first \`1-42\`.
2. The second, *after everything*.
   - nested **deep**
     - deeper

   A paragraph of the item.
3. The third.

| who | keeps | costs |
|---|:---:|---:|
| writer | **the next** | \`1\` |
| reader | *the last* | one \\| two |

\`\`\`python
def read(log, *cursor):
    return log[cursor:], len(log)  # **not bold**

\`\`\`

---

記録 (*kiroku*), 少即是多, 시작이 반이다. ✅
`,
  fences: `Before:
\`\`\`\`markdown
\`\`\`js
let a = \`1\`;
\`\`\`
\`\`\`\`
Between.

~~~ sh
echo "a" | tail -n 1
~~~
- in a list:

  \`\`\`js
  const needed = wishes.filter((wish) => wish.matters);
  \`\`\`
- after

Not a fence:
\`\`\`one\`\`\` is code in a line, and so is \`\` a\`b \`\`.

\`\`\`
without an end
* * *
`,
  lists: `To do:
* one
* two, which
goes on
* * *
+ other
1. not in it
   > quoted *well*
10. ten

In 1999
2000. is no list, but
1. is one.

- loose

- also **loose**


# Heading #
#hashtag
***bold and italic*** and **bold *both*** at last.  
A break, and another\\
one. \\*Not italic\\*.
`,
  windows: `a **b**

- c
- d *e*

\`\`\`js
f
\`\`\`

| g | h |
|---|---|
| i | j |

End.
`.replaceAll("\n", "\r\n"),
};

/** A text from its first code point on, one more each time. */
function prefixes(text) {
  const points = Array.from(text);
  return points.map((_, index) => points.slice(0, index + 1).join(""));
}

function described({ blocks }) {
  return blocks.map((block) => describe(block));
}

/** Every element of a description, the outer ones first. */
function elements(content) {
  return content.flatMap((each) => (typeof each === "string" ? [] : [each, ...elements(each.content)]));
}

/** What a reader sees, without what is in an element with one of these tags. */
function seen(content, ...without) {
  const words = (each) => (without.includes(each.tag) ? "" : seen(each.content, ...without));
  return content.map((each) => (typeof each === "string" ? each : words(each))).join("");
}

function shown(text, open = true) {
  return described(read(text, open));
}

function linksOf(text, open = false) {
  return elements(shown(text, open)).filter(({ tag }) => tag === "a").map(({ href }) => href);
}

/** Numbers in [0, 1) that look random and are the same in every run (mulberry32). */
function numbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const PIECES = [
  ..."a;b ;1;10;+;=;é🌊;\n;\n;\n\n;\r\n;\t;  ;    ;\u00a0;* ;- ;1. ;2) ;# ;> ;---;|;| a | b |\n;|-|-|\n".split(";"),
  ..."*;**;_;`;``;```;```js;~~~;\\;<;![;[;](;];);[t](https://e.example);https://e.example/_a_;javascript:".split(";"),
];

/** Texts that nobody would write, of the pieces that mean something. */
function scrambled(count) {
  const random = numbers(1);
  const pick = () => PIECES[Math.floor(random() * PIECES.length)];
  return Array.from({ length: count }, () => Array.from({ length: 3 + Math.floor(random() * 14) }, pick).join(""));
}

const TEXTS = [...Object.values(RICH), ...scrambled(1500)];

group("a text that grows", () => {
  test("can be read at every prefix, whether its end may be missing or not", () => {
    for (const text of TEXTS) {
      for (const prefix of prefixes(text)) {
        for (const open of [true, false]) assert.doesNotThrow(() => shown(prefix, open), JSON.stringify(prefix));
      }
    }
  });

  test("is read as if it had come at once", () => {
    for (const text of TEXTS) {
      let reading;
      for (const prefix of prefixes(text)) {
        reading = read(prefix, true, reading);
        assert.deepEqual(reading, read(prefix, true), JSON.stringify(prefix));
      }
      assert.deepEqual(read(text, false, reading), read(text, false), JSON.stringify(text));
    }
  });

  test("is read as if it had come at once, however it is cut", () => {
    const random = numbers(2);
    for (const text of Object.values(RICH)) {
      for (let round = 0; round < 50; round += 1) {
        let reading;
        for (let end = 1; end < text.length; end += 1 + Math.floor(random() * 60)) {
          reading = read(text.slice(0, end), true, reading);
        }
        assert.deepEqual(read(text, false, reading), read(text, false));
      }
    }
  });

  test("does not change the blocks that are finished", () => {
    for (const text of TEXTS) {
      let finished = [];
      for (const prefix of prefixes(text)) {
        // Each prefix is read anew, so that nothing is taken over that would make this true by itself.
        const { blocks } = read(prefix, true);
        assert.deepEqual(blocks.slice(0, finished.length), finished, JSON.stringify(prefix));
        finished = blocks.slice(0, -1);
      }
      assert.deepEqual(read(text, false).blocks.slice(0, finished.length), finished, JSON.stringify(text));
    }
  });

  test("takes the finished blocks over as they are", () => {
    const before = read("One.\n\n- two\n\nThr", true);
    const { blocks } = read("One.\n\n- two\n\nThree", true, before);
    assert.equal(blocks[0], before.blocks[0]);
    assert.equal(blocks[1], before.blocks[1]);
    assert.equal(blocks[2].source, "Three");
  });

  test("that is replaced by another is read anew", () => {
    const before = read("One.\n\nTwo.\n\nThree.", true);
    assert.deepEqual(read("Another.\n\nOne.", true, before), read("Another.\n\nOne.", true));
    assert.deepEqual(read("", true, before).blocks, []);
  });
});

group("what is half open", () => {
  test("a fence is code from its first line on", () => {
    const text = "Look:\n\n```js\nlet a = `1`;\n# no heading\n\n- **no list**\n```\n\nDone.";
    const begin = text.indexOf("let");
    const end = text.indexOf("\n```\n\nDone");
    for (let length = begin; length <= end + 4; length += 1) {
      const [before, code, ...more] = shown(text.slice(0, length));
      assert.deepEqual(before, { tag: "p", content: ["Look:"] });
      assert.equal(code.tag, "pre");
      assert.deepEqual(elements([code]).map(({ tag }) => tag), ["pre", "code"]);
      assert.ok(`${text.slice(begin, end)}\n`.startsWith(seen([code])), seen([code]));
      assert.deepEqual(more, []);
    }
  });

  test("a fence without an end is code too when no more comes", () => {
    assert.deepEqual(shown("~~~\n**a**", false), [{ tag: "pre", content: [{ tag: "code", content: ["**a**"] }] }]);
  });

  test("what a fence becomes is waited for", () => {
    for (const prefix of prefixes("```js")) assert.deepEqual(shown(prefix), []);
    const [paragraph, ...more] = shown("So\n```js``` it is");
    assert.equal(seen([paragraph]), "So\njs it is");
    assert.deepEqual(more, []);
  });

  test("emphasis is emphasis, and half of its closing mark is not shown", () => {
    for (const [mark, tag] of [["*", "em"], ["_", "em"], ["**", "strong"], ["__", "strong"]]) {
      for (const prefix of prefixes(`so ${mark}this is${mark}`).slice("so ".length + mark.length)) {
        const [paragraph] = shown(prefix);
        const [, emphasis, ...more] = paragraph.content;
        assert.equal(emphasis.tag, tag, prefix);
        assert.ok("this is".startsWith(seen([emphasis])), prefix);
        assert.deepEqual(more, []);
      }
    }
  });

  test("code in a line is code", () => {
    for (const prefix of prefixes("so `a * b`").slice(4)) {
      const [, code] = shown(prefix)[0].content;
      assert.equal(code.tag, "code");
      assert.ok("a * b".startsWith(seen([code])));
    }
  });

  test("no prefix shows a mark", () => {
    const { everything, windows } = RICH;
    for (const prefix of [...prefixes(everything), ...prefixes(windows)]) {
      // What is no mark: in a name, in an address, and behind a backslash.
      const words = seen(shown(prefix), "code").replace(/snake_\w*|https:\S*|one \|/g, "");
      assert.doesNotMatch(words, /[*_`#|~]|\]\(|^>/m, JSON.stringify(prefix.slice(-40)));
    }
  });

  test("marks that stay open are words once no more comes", () => {
    assert.equal(seen(shown("so **this", false)), "so **this");
    assert.equal(seen(shown("3 * 4 ` 5", false)), "3 * 4 ` 5");
  });

  test("a last line of nothing but marks is what it is once no more comes", () => {
    assert.deepEqual(shown("a\n\n---").map(({ tag }) => tag), ["p"]);
    assert.deepEqual(shown("a\n\n---", false).map(({ tag }) => tag), ["p", "hr"]);
    assert.deepEqual(shown("a\n```js", false).map(({ tag }) => tag), ["p", "pre"]);
  });
});

group("links", () => {
  test("lead to pages of the web and to letters", () => {
    assert.deepEqual(linksOf("[a](https://a.example/b_(c)) [b](http://b.example) [c](mailto:c@c.example)"), [
      "https://a.example/b_(c)",
      "http://b.example/",
      "mailto:c@c.example",
    ]);
    assert.deepEqual(linksOf("<https://a.example> and https://b.example/x_y_z, done."), [
      "https://a.example/",
      "https://b.example/x_y_z",
    ]);
  });

  test("lead nowhere else, and their words remain", () => {
    const targets = [
      "javascript:alert`1`",
      "JaVaScRiPt:alert`1`",
      "javascript&colon;alert`1`",
      "data:text/html,x",
      "vbscript:x",
      "file:///etc/passwd",
      "blob:a",
      "ftp://a.example",
      "//a.example",
      "/v1/ws",
      "?a",
      "#c=b",
      "",
    ];
    for (const target of targets) {
      for (const text of [`[word](${target})`, `[word](<${target}>)`, `![word](${target})`, `<${target}>`]) {
        assert.deepEqual(linksOf(text), [], text);
        if (text.includes("word")) assert.match(seen(shown(text, false)), /word/);
      }
    }
  });

  test("lead nowhere while their address is being written", () => {
    const text = "see [a page](https://a.example/b)";
    for (const prefix of prefixes(text).slice(0, -1)) {
      assert.deepEqual(linksOf(prefix, true), []);
      assert.ok("see a page".startsWith(seen(shown(prefix)).trimEnd()), prefix);
    }
    const [paragraph] = shown("[a page](https://a.example/b_(c)");
    assert.equal(seen([paragraph]), "a page");
  });

  test("do not lie inside of each other", () => {
    assert.deepEqual(linksOf("[*https://a.example*](https://b.example)"), ["https://b.example/"]);
  });

  test("of no prefix of any text lead elsewhere", () => {
    for (const text of TEXTS) {
      for (const prefix of prefixes(text)) {
        for (const open of [true, false]) {
          for (const href of linksOf(prefix, open)) assert.match(href, /^(?:https?|mailto):/);
        }
      }
    }
  });
});

group("what a text can do", () => {
  test("its elements are these and no others", () => {
    const known = "p h2 h3 h4 h5 h6 hr pre code blockquote div table tr th td ul ol li a span em strong br".split(" ");
    for (const text of [...TEXTS, "<script>a()</script> <img src=x onerror=a()>\n\n<b>c</b>"]) {
      for (const { tag } of elements(shown(text, false))) assert.ok(known.includes(tag), tag);
    }
    assert.equal(seen(shown("<script>a()</script>", false)), "<script>a()</script>");
  });

  test("it nests no deeper than can be drawn", () => {
    const depth = (content) =>
      content.reduce((most, each) => Math.max(most, typeof each === "string" ? 0 : 1 + depth(each.content)), 0);
    const stairs = Array.from({ length: 500 }, (_, index) => `${" ".repeat(2 * index)}- a`).join("\n");
    for (const text of [">".repeat(5000) + "a", stairs, "*a **b ".repeat(5000), "[".repeat(5000)]) {
      for (const open of [true, false]) assert.ok(depth(shown(text, open)) < 40);
    }
  });
});
