// Styles of the panel. A page overrides them with `--tokenwire-…` variables and with `::part(…)`. Logical properties
// throughout, so that right-to-left pages are mirrored.

export const PANEL_STYLES = `
:host {
  --accent: var(--tokenwire-accent, light-dark(#0b6b57, #5fd0b1));
  --on-accent: var(--tokenwire-on-accent, light-dark(#ffffff, #06231b));
  --background: var(--tokenwire-background, light-dark(#ffffff, #131817));
  --surface: var(--tokenwire-surface, light-dark(#f5f7f5, #1c2321));
  --ink: var(--tokenwire-text, light-dark(#17211d, #e8eeea));
  --muted: var(--tokenwire-muted, light-dark(#586660, #a1b0a9));
  --rule: var(--tokenwire-border, light-dark(#e2e8e4, #2c3633));
  --question: var(--tokenwire-question, light-dark(#e3f1eb, #1f3a32));
  --on-question: var(--tokenwire-on-question, light-dark(#0d2b23, #e3f5ee));
  --code: var(--tokenwire-code, light-dark(#f5f7f5, #0d1211));
  --good: var(--tokenwire-success, light-dark(#0b6b57, #5fd0b1));
  --warning: var(--tokenwire-warning, light-dark(#8a4b00, #f2b062));
  --wrong: var(--tokenwire-error, light-dark(#b3261e, #ff9d94));
  --radius: var(--tokenwire-radius, 20px);
  --font: var(--tokenwire-font, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
  --mono: var(--tokenwire-mono, ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace);
  --size: var(--tokenwire-size, 15px);
  --width: var(--tokenwire-width, 408px);
  --height: var(--tokenwire-height, 680px);
  --shadow: var(--tokenwire-shadow, 0 0 0 1px light-dark(rgb(11 50 40 / 6%), rgb(255 255 255 / 7%)), 0 12px 32px -8px rgb(8 30 24 / 22%), 0 32px 72px -16px rgb(8 30 24 / 26%));
  color-scheme: light dark;
}
:host([data-theme="light"]) { color-scheme: light; }
:host([data-theme="dark"]) { color-scheme: dark; }
* { box-sizing: border-box; }
[hidden] { display: none !important; }

.panel {
  display: flex;
  flex-direction: column;
  position: relative;
  overflow: hidden;
  height: 100%;
  min-height: 0;
  background: var(--background);
  color: var(--ink);
  font: var(--size)/1.55 var(--font);
  font-synthesis-weight: none;
  text-align: start;
  overflow-wrap: anywhere;
  -webkit-text-size-adjust: 100%;
  text-size-adjust: 100%;
}
:host(tokenwire-chat) { display: block; height: var(--height); min-height: 16rem; }
:host(tokenwire-chat) .panel { border-radius: var(--radius); border: 1px solid var(--rule); }
.floating {
  position: fixed;
  z-index: var(--tokenwire-layer, 2147483000);
  inset-block-end: calc(var(--tokenwire-offset, 20px) + 72px);
  inset-inline-end: var(--tokenwire-offset, 20px);
  width: min(var(--width), calc(100vw - 2 * var(--tokenwire-offset, 20px)));
  height: min(var(--height), calc(100dvh - 2 * var(--tokenwire-offset, 20px) - 72px));
  border-radius: var(--radius);
  box-shadow: var(--shadow);
  animation: rise 0.28s cubic-bezier(0.2, 0.9, 0.25, 1);
  transform-origin: 100% 100%;
}
.floating:dir(rtl) { transform-origin: 0 100%; }
:host([data-position="start"]) .floating { inset-inline: var(--tokenwire-offset, 20px) auto; transform-origin: 0 100%; }
@keyframes rise { from { opacity: 0; transform: translateY(14px) scale(0.97); } }

/* The dialog itself is focused for screen readers only, so it has no outline. */
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.panel:focus-visible { outline: 0; }
button { font: inherit; color: inherit; cursor: pointer; background: none; border: 0; margin: 0; padding: 0; text-align: start; }
button:disabled { cursor: default; opacity: 0.5; }
.icon { display: block; width: 20px; height: 20px; fill: none; stroke: currentColor; stroke-width: 1.9; stroke-linecap: round; stroke-linejoin: round; }
.icon-stop, .icon-on { fill: currentColor; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

/* Header and connection status. */
header {
  display: flex;
  align-items: center;
  gap: 10px;
  flex: none;
  padding: 12px 10px 12px 16px;
  padding-inline: 16px 10px;
  border-block-end: 1px solid var(--rule);
}
.mark { position: relative; flex: none; width: 32px; height: 32px; border-radius: 10px; background: var(--accent); color: var(--on-accent); }
.mark .signal { position: absolute; inset: 0; }
.mark .signal::before { content: ""; position: absolute; inset: 15px 4px; height: 2px; border-radius: 1px; background: currentColor; opacity: 0.4; }
.mark .signal::after {
  content: "";
  position: absolute;
  inset-block-start: 12.5px;
  inset-inline-start: 4px;
  width: 7px;
  height: 7px;
  border-radius: 50%;
  background: currentColor;
  box-shadow: 9px 0 0 -0.5px currentColor, 17px 0 0 -1.5px currentColor;
}
.mark .signal:dir(rtl)::after { box-shadow: -9px 0 0 -0.5px currentColor, -17px 0 0 -1.5px currentColor; }
.busy .mark .signal::after { animation: along 1.6s ease-in-out infinite; }
@keyframes along { 50% { opacity: 0.35; } }
.mark .dot {
  position: absolute;
  inset-block-end: -2px;
  inset-inline-end: -2px;
  width: 11px;
  height: 11px;
  border-radius: 50%;
  border: 2px solid var(--background);
  background: var(--muted);
}
.dot[data-tone="good"] { background: light-dark(#1fa36f, #45d69b); }
.dot[data-tone="warning"] { background: light-dark(#d9820a, #f2b062); }
.dot[data-tone="wrong"] { background: light-dark(#d1453b, #ff7f74); }
h2 { flex: 1; min-width: 0; margin: 0; font-size: 1.0667em; font-weight: 650; letter-spacing: -0.01em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.tool { flex: none; display: grid; place-items: center; width: 40px; height: 40px; border-radius: 12px; color: var(--muted); }
.tool:hover { background: var(--surface); color: var(--ink); }

.connection {
  position: absolute;
  z-index: 2;
  inset-inline: 12px;
  inset-block-start: 66px;
  display: flex;
  align-items: center;
  gap: 10px;
  margin: 0;
  padding: 8px 8px 8px 14px;
  padding-inline: 14px 8px;
  border-radius: 12px;
  background: var(--background);
  border: 1px solid var(--rule);
  box-shadow: 0 6px 20px -8px rgb(8 30 24 / 30%);
  font-size: 0.8667em;
  line-height: 1.4;
  font-variant-numeric: tabular-nums;
  animation: drop 0.2s ease-out;
}
/* Delay the status, so that a fast connection shows none. */
.connection.soon { animation: late 0.7s step-end; }
@keyframes late { from, 99% { visibility: hidden; } }
@keyframes drop { from { opacity: 0; transform: translateY(-6px); } }
.connection > span { flex: 1; padding-block: 2px; }
.connection::before { content: ""; flex: none; width: 8px; height: 8px; border-radius: 50%; background: var(--muted); }
.connection[data-tone="good"]::before { background: var(--good); }
.connection[data-tone="warning"] { color: var(--warning); }
.connection[data-tone="warning"]::before { background: var(--warning); }
.connection[data-tone="wrong"] { color: var(--wrong); }
.connection[data-tone="wrong"]::before { background: var(--wrong); }
.connection.busy::before { animation: pulse 1.2s ease-in-out infinite; }
@keyframes pulse { 50% { opacity: 0.25; } }

.pill {
  flex: none;
  min-height: 32px;
  padding: 4px 12px;
  border-radius: 16px;
  border: 1px solid var(--rule);
  background: var(--background);
  color: var(--ink);
  font-size: 0.8667em;
  font-weight: 550;
  white-space: nowrap;
}
.connection .pill { font-size: 1em; }
.pill:hover { border-color: var(--accent); }
.pill.first { background: var(--accent); border-color: var(--accent); color: var(--on-accent); }

/* Messages. */
.log { flex: 1; min-height: 0; overflow-y: auto; overscroll-behavior: contain; padding: 20px 18px 12px; scrollbar-width: thin; scrollbar-color: var(--rule) transparent; }
.log:focus-visible { outline-offset: -3px; border-radius: 8px; }
ol.messages { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 20px; }
.older { display: block; margin: 0 auto 16px; }
.empty { display: flex; flex-direction: column; justify-content: flex-end; min-height: 100%; gap: 6px; }
.empty h3 { margin: 0; font-size: 1.5333em; line-height: 1.25; font-weight: 650; letter-spacing: -0.02em; }
.empty > p { margin: 0; color: var(--muted); max-width: 34em; text-wrap: pretty; }
.prompts { display: flex; flex-direction: column; align-items: stretch; gap: 8px; margin-block-start: 18px; }
.prompt { display: flex; align-items: center; justify-content: space-between; gap: 12px; min-height: 44px; padding: 10px 14px; border-radius: 14px; border: 1px solid var(--rule); background: var(--background); }
.prompt::after { content: "↑"; color: var(--muted); font-weight: 600; }
.prompt:hover { border-color: var(--accent); background: var(--surface); }
.prompt:hover::after { color: var(--accent); }

.question { align-self: flex-end; max-width: 86%; display: flex; flex-direction: column; align-items: flex-end; gap: 6px; }
.question .text { padding: 9px 14px; border-radius: 18px; border-end-end-radius: 5px; background: var(--question); color: var(--on-question); white-space: pre-wrap; }
.question.sending .text { opacity: 0.72; }
.answer { min-width: 0; }
.note { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 10px; margin: 8px 0 0; color: var(--muted); font-size: 0.8667em; font-variant-numeric: tabular-nums; }
.question .note { margin: 0; justify-content: flex-end; }
.note[data-tone="warning"] { color: var(--warning); }
.note[data-tone="wrong"] { color: var(--wrong); }
.answer .text:empty + .note { margin-block-start: 0; }
.note.busy > span::after { content: "…"; display: inline-block; width: 1.2em; overflow: hidden; vertical-align: bottom; white-space: nowrap; animation: dots 1.4s steps(4) infinite; }
@keyframes dots { from { width: 0; } }
.actions { display: flex; flex-wrap: wrap; align-items: center; gap: 2px; margin: 6px -8px 0; color: var(--muted); min-height: 32px; }
.actions .pill { margin-inline: 8px 0; }
/* A read-only view has no buttons except those inside texts. */
.view :is(.actions, .note .pill) { display: none; }
.view .connection { inset-block-start: 10px; }
.action { display: grid; place-items: center; width: 32px; height: 32px; border-radius: 10px; }
.action .icon { width: 17px; height: 17px; }
.action:hover { background: var(--surface); color: var(--ink); }
.action.done { color: var(--good); }
/* Older answers show their buttons on hover; touch screens, which cannot hover, always show them. */
@media (hover: hover) {
  .answer:not(:last-child) > .actions { opacity: 0; }
  .answer:is(:hover, :focus-within) > .actions { opacity: 1; }
}
.facts { margin: 6px 0 0; color: var(--muted); font: 11.5px/1.5 var(--mono); }

.reasoning { margin: 0 0 10px; color: var(--muted); font-size: 0.9333em; }
.reasoning summary { width: fit-content; cursor: pointer; border-radius: 6px; }
.reasoning > div { margin-block-start: 6px; padding-inline-start: 12px; border-inline-start: 2px solid var(--rule); white-space: pre-wrap; }

/* Text of an answer. */
.answer .text > :first-child, .text :is(li, blockquote) > :first-child { margin-block-start: 0; }
.answer .text > :last-child, .text :is(li, blockquote) > :last-child { margin-block-end: 0; }
.text :is(p, ul, ol, figure, blockquote, .table, div.math) { margin: 0.75em 0; }
/* Layout containment: a new word affects only its own block. The property content-visibility is slower here, because the browser
   then observes each block. */
.answer .text > * { contain: layout paint style; }
.text :is(ul, ol) > li:last-child { margin-block-end: 0; }
.text :is(ul, ol) > li:first-child, .text :is(ul, ol) > li:first-child > p:first-child { margin-block-start: 0; }
.text .plain { white-space: pre-wrap; }
.text :is(h3, h4, h5, h6, .h1, .h2, .h3, .h4, .h5, .h6) { margin: 1.35em 0 0.5em; font-weight: 650; font-size: 1em; line-height: 1.3; letter-spacing: -0.01em; text-wrap: balance; }
.text .h1 { font-size: 1.3em; }
.text .h2 { font-size: 1.17em; }
.text .h3 { font-size: 1.06em; }
.text :is(ul, ol) { padding-inline-start: 1.45em; }
.text li { margin: 0.3em 0; }
.text li.loose { margin-block-start: 0.8em; }
.text li > p { margin: 0.3em 0; }
.text li::marker { color: var(--muted); font-variant-numeric: tabular-nums; }
.text li.task { list-style: none; }
.box { display: inline-block; width: 1em; height: 1em; margin-inline: -1.4em 0.4em; border: 1.5px solid var(--muted); border-radius: 4px; vertical-align: -0.12em; }
.box.checked { background: var(--accent); border-color: var(--accent); box-shadow: inset 0 0 0 2px var(--background); }
.text blockquote { margin-inline: 0; padding-inline-start: 14px; border-inline-start: 3px solid var(--rule); color: var(--muted); }
.text hr { border: 0; border-block-start: 1px solid var(--rule); margin: 1.4em 0; }
.text a { color: var(--accent); text-underline-offset: 0.17em; text-decoration-thickness: 1px; }
.text a:hover { text-decoration-thickness: 2px; }
.text code { font: 0.875em/1.5 var(--mono); background: var(--code); border: 1px solid var(--rule); border-radius: 6px; padding: 0.1em 0.35em; }
.text code.math { border: 0; background: none; padding: 0; font-style: italic; }
.text code.math.shown { display: block; text-align: center; }
.text div.math { overflow-x: auto; text-align: center; padding: 6px 0; }
.text div.math code { border: 0; background: none; white-space: pre; font-style: italic; }
.text figure { border: 1px solid var(--rule); border-radius: 14px; background: var(--code); overflow: hidden; text-align: left; }
.text figcaption { display: flex; align-items: center; justify-content: space-between; gap: 10px; padding: 4px 6px 4px 14px; border-block-end: 1px solid var(--rule); color: var(--muted); font-size: 0.8em; }
.copy-code { min-height: 28px; padding: 2px 10px; border-radius: 9px; font-weight: 550; }
.copy-code:hover { background: var(--rule); color: var(--ink); }
.copy-code.copied { color: var(--good); }
.copy-code.copied::before { content: "✓ "; }
.text pre { margin: 0; padding: 12px 14px; overflow-x: auto; overflow-wrap: normal; tab-size: 4; scrollbar-width: thin; }
.text pre:focus-visible, .table:focus-visible, div.math:focus-visible { outline-offset: -2px; border-radius: 10px; }
.text pre code { display: block; width: max-content; min-width: 100%; border: 0; padding: 0; background: none; font-size: 0.8667em; }
.text .table { overflow-x: auto; scrollbar-width: thin; }
.text table { border-collapse: collapse; font-size: 0.9333em; line-height: 1.45; }
.text :is(th, td) { padding: 7px 18px 7px 0; padding-inline: 0 18px; border-block-end: 1px solid var(--rule); text-align: start; vertical-align: top; overflow-wrap: normal; min-width: 4em; }
.text th { font-weight: 600; color: var(--muted); white-space: nowrap; }
.text .center { text-align: center; }
.text .right { text-align: end; }
.text img { display: block; max-width: 100%; border-radius: 12px; }
button.image { display: inline-flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; max-width: 100%; padding: 6px 12px; border: 1px dashed var(--muted); border-radius: 12px; color: var(--accent); font-size: 0.9333em; }
button.image small { color: var(--muted); font-size: 0.8571em; }
button.image:hover { border-style: solid; }
.text .keyword { color: light-dark(#8527b8, #d3a8ff); }
.text .string { color: light-dark(#0a6b4b, #93e0b8); }
.text .number { color: light-dark(#9a4500, #f5bd90); }
.text .comment { color: light-dark(#5e6b65, #93a39b); font-style: italic; }
.text .call, .text .name { color: light-dark(#1a5aa8, #93c6ff); }
.text .type { color: light-dark(#0a6478, #84d9ec); }
.text .added { color: light-dark(#0a6b4b, #93e0b8); }
.text .removed { color: light-dark(#b3261e, #ff9d94); }

/* Cursor after the last word. */
.writing .text > :is(p, h3, h4, h5, h6):last-child::after,
.writing .text > :is(ul, ol):last-child > li:last-child > p:last-child::after {
  content: "";
  display: inline-block;
  width: 8px;
  height: 8px;
  margin-inline-start: 6px;
  border-radius: 50%;
  background: var(--accent);
  vertical-align: 0.06em;
  animation: pulse 1.2s ease-in-out infinite;
}

/* Composer. */
footer { position: relative; flex: none; padding: 4px 12px max(12px, env(safe-area-inset-bottom)); }
.to-end {
  position: absolute;
  z-index: 1;
  inset-block-end: calc(100% + 8px);
  inset-inline-start: 50%;
  display: grid;
  place-items: center;
  width: 40px;
  height: 40px;
  margin-inline-start: -20px;
  border-radius: 50%;
  background: var(--background);
  border: 1px solid var(--rule);
  box-shadow: 0 6px 18px -6px rgb(8 30 24 / 35%);
}
.to-end.has-new::after { content: ""; position: absolute; inset-block-start: -1px; inset-inline-end: -1px; width: 11px; height: 11px; border-radius: 50%; background: var(--accent); border: 2px solid var(--background); }
form { display: flex; align-items: flex-end; gap: 6px; padding: 5px; border: 1px solid var(--rule); border-radius: 24px; background: var(--surface); }
form:focus-within { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
textarea {
  flex: 1;
  min-width: 0;
  min-height: 38px;
  max-height: 9.5em;
  margin: 0;
  padding: 8px 6px 8px 12px;
  padding-inline: 12px 6px;
  border: 0;
  outline: 0;
  resize: none;
  background: none;
  color: inherit;
  font: inherit;
  line-height: 1.45;
  field-sizing: content;
}
textarea:focus-visible { outline: 0; }
textarea::placeholder { color: var(--muted); opacity: 1; }
.send, .stop { flex: none; display: grid; place-items: center; width: 38px; height: 38px; border-radius: 50%; background: var(--accent); color: var(--on-accent); }
.send:disabled { background: var(--rule); color: var(--muted); opacity: 1; }
.stop { background: var(--ink); color: var(--background); }
.stop[aria-disabled="true"] { opacity: 0.5; }
:is(.send, .stop):active:enabled { transform: scale(0.94); }

/* On a phone the panel covers the page. */
@media (max-width: 30rem) {
  .floating { inset: var(--viewport-top, 0) 0 auto; width: 100vw; height: var(--viewport-height, 100dvh); border-radius: 0; box-shadow: none; }
  :host([data-position="start"]) .floating { inset: var(--viewport-top, 0) 0 auto; }
  /* iOS zooms in on focused fields with a smaller font. */
  textarea { font-size: max(16px, 1em); }
}
@media (pointer: coarse) {
  .action { width: 44px; height: 44px; }
  .copy-code, .pill { min-height: 40px; }
  .tool, .send, .stop { width: 44px; height: 44px; }
}
@media (prefers-reduced-motion: reduce) {
  *, *::before, *::after { animation: none !important; transition: none !important; }
  .log { scroll-behavior: auto; }
}
@media (forced-colors: active) {
  .mark, .box.checked, .dot, .connection::before { forced-color-adjust: none; }
  .panel, .pill, .send, .stop, .question .text { border: 1px solid CanvasText; }
}
`;

/** Styles of the floating button, loaded with the page. */
export const LAUNCHER_STYLES = `
:host{--accent:var(--tokenwire-accent,light-dark(#0b6b57,#5fd0b1));--on-accent:var(--tokenwire-on-accent,light-dark(#fff,#06231b));color-scheme:light dark}
:host([data-theme=light]){color-scheme:light}
:host([data-theme=dark]){color-scheme:dark}
.launcher{position:fixed;z-index:var(--tokenwire-layer,2147483000);inset-block-end:var(--tokenwire-offset,20px);inset-inline-end:var(--tokenwire-offset,20px);display:grid;place-items:center;width:56px;height:56px;padding:0;border:0;border-radius:50%;background:var(--accent);color:var(--on-accent);cursor:pointer;box-shadow:0 1px 2px rgb(8 30 24/20%),0 10px 28px -6px rgb(8 30 24/45%)}
:host([data-position=start]) .launcher{inset-inline:var(--tokenwire-offset,20px) auto}
.launcher:hover{transform:scale(1.06)}
.launcher:focus-visible{outline:3px solid var(--accent);outline-offset:3px}
svg{width:26px;height:26px;fill:none;stroke:currentColor;stroke-width:1.9;stroke-linecap:round;stroke-linejoin:round}
.badge{position:absolute;inset-block-start:-3px;inset-inline-end:-3px;min-width:22px;height:22px;padding:0 6px;border-radius:11px;background:#c3281c;color:#fff;font:600 12px/22px system-ui,sans-serif;text-align:center}
[hidden]{display:none!important}
@media (max-width:30rem){[aria-expanded=true]{display:none}}
@media (prefers-reduced-motion:no-preference){.launcher{transition:transform .18s}}
`;
