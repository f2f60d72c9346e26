// What no text may do, wherever it is cut. Tests of the same texts in a real browser are in test/browser/.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";
import { FOREIGN, HOSTILE } from "./hostile.js";
import { begun, elements, whole } from "./page.js";
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

/** Assert that nothing in here can act, or be taken for a part of the page. */
function harmless(parent, text) {
  for (const element of elements(parent)) {
    assert.ok(TAGS.has(element.localName), `${element.localName} of ${JSON.stringify(text)}`);
    // An image of an origin that was not allowed is a button until it is asked for.
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

group("a text that wants to do something", () => {
  test(`does nothing, cut at any place (${HOSTILE.length} texts)`, () => {
    assert.ok(HOSTILE.length >= 300);
    for (const text of HOSTILE) {
      for (let at = 0; at <= text.length; at += 1) {
        const { parent, view } = begun();
        view.write(text.slice(0, at));
        harmless(parent, text.slice(0, at));
        view.write(text.slice(at));
        view.end();
        harmless(parent, text);
      }
    }
    assert.equal(globalThis.hacked, undefined);
    assert.equal({}.polluted, undefined);
  });

  test("does nothing, character by character, nor among others", () => {
    for (const text of [...HOSTILE, HOSTILE.join("\n\n"), HOSTILE.join(" "), ...scrambled(300, 9)]) {
      const { parent, view } = begun();
      const step = text.length > 5000 ? 211 : 1;
      for (let at = 0; at < text.length; at += step) view.write(text.slice(at, at + step));
      view.end();
      harmless(parent, text);
    }
  });

  test("loads an image from an origin that is allowed, and from no other", () => {
    const images = ["https://pictures.example"];
    const text = `![a](https://pictures.example/1.png) ![b](https://${FOREIGN}/2.png) ![c](http://pictures.example/3.png)`;
    const parent = whole(text, undefined, { images });
    const loaded = [...parent.querySelectorAll("img")];
    assert.deepEqual(
      loaded.map((image) => image.getAttribute("src")),
      ["https://pictures.example/1.png"],
    );
    assert.equal(loaded[0].getAttribute("referrerpolicy"), "no-referrer");
    assert.equal(parent.querySelectorAll("button.image").length, 2);
  });

  test("loads another image when the reader asks for it", () => {
    const parent = whole(`![a cat](https://${FOREIGN}/2.png)`);
    const button = parent.querySelector("button.image");
    assert.match(button.textContent, /a cat/);
    assert.match(button.textContent, new RegExp(FOREIGN));
    button.click();
    assert.equal(parent.querySelector("img").getAttribute("src"), `https://${FOREIGN}/2.png`);
    assert.equal(parent.querySelector("img").getAttribute("alt"), "a cat");
  });
});
