// Attack texts must stay harmless at every prefix. test/browser/ tests them in a real browser.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";
import { FOREIGN, HOSTILE } from "./hostile.js";
import { elements, render, renderAll } from "./page.js";
import { scrambled } from "./texts.js";

const TAGS = new Set(
  "a blockquote br button code del div em figcaption figure h3 h4 h5 h6 hr img li ol p pre small span strong table tbody td th thead tr ul".split(
    " ",
  ),
);
const ATTRIBUTES = new Set(
  "alt aria-label class data-address data-alt data-language dir href rel role start tabindex target type".split(" "),
);
const CLASSES =
  /^(?:(?:code|copy-code|image|table|math|shown|plain|box|checked|loose|task|left|center|right|h[1-6])( |$))*$/;

/** Assert that no element runs code, loads anything, or imitates a part of the page. */
function assertHarmless(parent, text) {
  for (const element of elements(parent)) {
    assert.ok(TAGS.has(element.localName), `${element.localName} of ${JSON.stringify(text)}`);
    // An image of an unlisted origin is a button until the click.
    assert.notEqual(element.localName, "img", JSON.stringify(text));
    for (const { name, value } of element.attributes) {
      assert.ok(ATTRIBUTES.has(name), `${name} of ${JSON.stringify(text)}`);
      if (name === "href") assert.match(value, /^(?:https?:\/\/|mailto:)/, JSON.stringify(text));
      if (name === "data-address") assert.match(value, /^https?:\/\//, JSON.stringify(text));
      if (name === "class") assert.match(value, CLASSES);
    }
    if (element.localName === "a") assert.equal(element.getAttribute("rel"), "noopener noreferrer nofollow ugc");
  }
}

group("an attack text", () => {
  test(`is harmless when split at any index (${HOSTILE.length} texts)`, () => {
    assert.ok(HOSTILE.length >= 300);
    for (const text of HOSTILE) {
      for (let at = 0; at <= text.length; at += 1) {
        const { parent, view } = render();
        view.write(text.slice(0, at));
        assertHarmless(parent, text.slice(0, at));
        view.write(text.slice(at));
        view.end();
        assertHarmless(parent, text);
      }
    }
    assert.equal(globalThis.hacked, undefined);
    assert.equal({}.polluted, undefined);
  });

  test("is harmless character by character and inside other texts", () => {
    for (const text of [...HOSTILE, HOSTILE.join("\n\n"), HOSTILE.join(" "), ...scrambled(300, 9)]) {
      const { parent, view } = render();
      const step = text.length > 5000 ? 211 : 1;
      for (let at = 0; at < text.length; at += step) view.write(text.slice(at, at + step));
      view.end();
      assertHarmless(parent, text);
    }
  });

  test("loads images of listed origins only", () => {
    const images = ["https://pictures.example"];
    const text = `![a](https://pictures.example/1.png) ![b](https://${FOREIGN}/2.png) ![c](http://pictures.example/3.png)`;
    const parent = renderAll(text, undefined, { images });
    const loaded = [...parent.querySelectorAll("img")];
    assert.deepEqual(
      loaded.map((image) => image.getAttribute("src")),
      ["https://pictures.example/1.png"],
    );
    assert.equal(loaded[0].getAttribute("referrerpolicy"), "no-referrer");
    assert.equal(parent.querySelectorAll("button.image").length, 2);
  });

  test("loads another image after a click", () => {
    const parent = renderAll(`![a cat](https://${FOREIGN}/2.png)`);
    const button = parent.querySelector("button.image");
    assert.match(button.textContent, /a cat/);
    assert.match(button.textContent, new RegExp(FOREIGN));
    button.click();
    assert.equal(parent.querySelector("img").getAttribute("src"), `https://${FOREIGN}/2.png`);
    assert.equal(parent.querySelector("img").getAttribute("alt"), "a cat");
  });
});
