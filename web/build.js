// `node build.js` writes what is published, into dist/; `--check` fails where that is stale or too large; `--tests`
// writes each module by itself into .build/, which the tests import.
//
// Built files are in the repository, so that nobody needs Node to run a gateway.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build, transform } from "esbuild";

const WEB = dirname(fileURLToPath(import.meta.url));

/** What is bundled: each by itself, sharing code only with what it loads later. @type {Record<string, string>[]} */
const BUNDLES = [
  { tokenwire: "client/client.ts" },
  { chat: "widget/define.ts" },
  { react: "react/react.ts" },
  { "ai-sdk": "ai_sdk/ai_sdk.ts" },
];

/** Bytes that a built file may have, gzipped at the highest level; chunks by their name without the hash. @type {Record<string, number>} */
const MOST = {
  "dist/tokenwire.js": 6_400,
  // Loaded where no WebSocket can connect, and where there is a guard.
  "dist/event_stream_transport.js": 1_500,
  "dist/run_guard.js": 700,
  // Without the client, which it imports.
  "dist/chat.js": 16_000,
  // Without React, the client and the element.
  "dist/react.js": 1_000,
  // Without the AI SDK, of which it needs nothing but types, and the client.
  "dist/ai-sdk.js": 2_000,
  "dist/widget.js": 3_000,
  "dist/widget/panel.js": 22_000,
  "dist/widget/markdown.js": 22_000,
  "dist/widget/highlight.js": 10_000,
};

/** The same of the widget and all that it may load. */
const MOST_OF_WIDGET = 50_000;

/** The page at / is served by itself, with its own copy of the client and what that loads. */
const PAGE = /^dist\/(tokenwire|event_stream_transport|run_guard)[^/]*\.js$/;

/** Folders in which everything is built. */
const BUILT = ["dist", "page/client"];

/** The types of what the package exports. */
const TYPES = ["client/client.d.ts", "widget/define.d.ts", "react/react.d.ts", "ai_sdk/ai_sdk.d.ts"];

/** Folders of TypeScript that are compiled module by module for the tests. */
const MODULES = ["client", "widget", "markdown", "react", "ai_sdk"];

const SETTINGS = {
  absWorkingDir: WEB,
  target: "es2022",
  format: /** @type {const} */ ("esm"),
  charset: /** @type {const} */ ("utf8"),
};

/** Of marked only what reads: it also makes a parser and a renderer of HTML when it is loaded. @type {import("esbuild").Plugin} */
const LEXER_ONLY = {
  name: "lexer-only",
  setup({ onLoad }) {
    onLoad({ filter: /marked\.esm\.js$/ }, ({ path }) => {
      const source = readFileSync(path, "utf8");
      const names = source.slice(source.lastIndexOf("export{"));
      const [marked, lexer, tokenizer] = ["Marked", "Lexer", "Tokenizer"].map(
        (name) => new RegExp(`([\\w$]+) as ${name}\\b`).exec(names)?.[1],
      );
      const made = source.lastIndexOf(`=new ${marked};`);
      if (made === -1)
        throw new Error("marked is built in another way than it was: see what it does when it is loaded");
      return {
        contents: `${source.slice(0, source.lastIndexOf("var ", made))}export{${lexer} as Lexer,${tokenizer} as Tokenizer};`,
      };
    });
  },
};

/** Style sheets in scripts, without what only their readers need. @type {import("esbuild").Plugin} */
const SMALL_STYLES = {
  name: "small-styles",
  setup({ onLoad }) {
    onLoad({ filter: /widget\/styles\.ts$/ }, async ({ path }) => {
      const parts = readFileSync(path, "utf8").split("`");
      for (let index = 1; index < parts.length; index += 2) {
        parts[index] = (await transform(parts[index] ?? "", { loader: "css", minify: true })).code
          .trim()
          .replaceAll("\\", "\\\\");
      }
      return { contents: parts.join("`"), loader: "ts" };
    });
  },
};

/** Each part of the package once: who imports two of them has one client and one socket. @type {import("esbuild").Plugin} */
const PARTS_APART = {
  name: "parts-apart",
  setup({ onResolve }) {
    onResolve({ filter: /\/client\/client\.js$/ }, () => ({ path: "./tokenwire.js", external: true }));
    onResolve({ filter: /\/widget\/define\.js$/ }, () => ({ path: "./chat.js", external: true }));
    onResolve({ filter: /^react$/ }, () => ({ external: true }));
  },
};

/** What loads its chunks from the gateway instead of from its bundler. @type {import("esbuild").Plugin} */
const SERVED = {
  name: "served",
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/chunks\.js$/ }, () => ({ path: join(WEB, "widget/chunks.served.ts") }));
  },
};

/**
 * The widget as the gateway serves it: each file names the next with the hash of what is in it, so that who trusts the
 * first can trust all of them, and so that they are kept for good.
 *
 * @returns {Promise<Map<string, Buffer>>}
 */
async function widget() {
  const files = new Map();
  /** @param {string} entry @param {Record<string, {file: string, integrity: string}>} names @param {"esm" | "iife"} format */
  const bundle = async (entry, names, format = "esm") => {
    const define = Object.fromEntries(Object.entries(names).map(([name, chunk]) => [name, JSON.stringify(chunk)]));
    const plugins = [LEXER_ONLY, SMALL_STYLES, SERVED];
    const options = {
      bundle: true,
      minify: true,
      write: /** @type {const} */ (false),
      legalComments: /** @type {const} */ ("none"),
    };
    const { outputFiles } = await build({ ...SETTINGS, ...options, format, define, plugins, entryPoints: [entry] });
    return Buffer.from(/** @type {import("esbuild").OutputFile} */ (outputFiles[0]).contents);
  };
  /** @param {string} entry @param {Record<string, {file: string, integrity: string}>} names */
  const chunk = async (entry, names = {}) => {
    const content = await bundle(entry, names);
    const file = `${basename(entry, ".ts")}-${createHash("sha256").update(content).digest("hex").slice(0, 8).toUpperCase()}.js`;
    files.set(`dist/widget/${file}`, content);
    return { file, integrity: `sha384-${createHash("sha384").update(content).digest("base64")}` };
  };
  const [MARKDOWN, HIGHLIGHT] = [await chunk("markdown/markdown.ts"), await chunk("markdown/highlight.ts")];
  const PANEL = await chunk("widget/panel.ts", { MARKDOWN, HIGHLIGHT });
  files.set("dist/widget.js", await bundle("widget/launcher.ts", { PANEL }, "iife"));
  return files;
}

/** All that is published, by its path in this folder. @returns {Promise<Map<string, Buffer>>} */
async function published() {
  const files = new Map();
  for (const entryPoints of BUNDLES) {
    const result = await build({
      ...SETTINGS,
      entryPoints,
      bundle: true,
      splitting: true,
      minify: true,
      write: false,
      outdir: "dist",
      chunkNames: "[name]-[hash]",
      legalComments: "none",
      plugins: [LEXER_ONLY, SMALL_STYLES, PARTS_APART],
    });
    for (const file of result.outputFiles) files.set(relative(WEB, file.path), Buffer.from(file.contents));
  }
  for (const [path, content] of await widget()) files.set(path, content);
  const folder = mkdtempSync(join(tmpdir(), "tokenwire-types-"));
  try {
    const compiler = join(WEB, "node_modules", ".bin", "tsc");
    const options = ["--project", "tsconfig.build.json", "--emitDeclarationOnly", "--outDir", folder];
    execFileSync(compiler, options, { cwd: WEB, stdio: "inherit" });
    for (const path of reachable(TYPES.map((name) => join(folder, name)))) {
      files.set(join("dist/types", relative(folder, path)), readFileSync(path));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  for (const [path, content] of [...files])
    if (PAGE.test(path)) files.set(path.replace("dist", "page/client"), content);
  return files;
}

/** Declarations, and those that they import. @param {string[]} paths @returns {Set<string>} */
function reachable(paths) {
  const found = new Set(paths);
  for (const path of found) {
    for (const [, name] of readFileSync(path, "utf8").matchAll(/from "(\.[^"]+)\.js"/g))
      found.add(join(dirname(path), `${name}.d.ts`));
  }
  return found;
}

/** @param {string} folder @returns {string[]} */
function filesIn(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** @param {string} path */
function existing(path) {
  try {
    return readFileSync(join(WEB, path));
  } catch {
    return null;
  }
}

/** @param {Map<string, Buffer>} files @returns {string[]} the paths that the repository has otherwise, or for nothing */
function stale(files) {
  const there = BUILT.flatMap((folder) => (existsSync(join(WEB, folder)) ? filesIn(join(WEB, folder)) : []));
  return [
    ...[...files].filter(([path, content]) => !existing(path)?.equals(content)).map(([path]) => path),
    ...there.map((path) => relative(WEB, path)).filter((path) => !files.has(path)),
  ];
}

/** @param {Map<string, Buffer>} files @returns {boolean} whether every file is within its limit */
function weigh(files) {
  let fits = true;
  const named = new Map([...files].map(([path, content]) => [path.replace(/-[A-Z0-9]{8}\.js$/, ".js"), content]));
  for (const [path, most] of Object.entries(MOST)) {
    const content = named.get(path);
    if (content === undefined) throw new Error(`${path} has a limit and is not built`);
    const size = gzipSync(content, { level: 9 }).length;
    console.log(`${path}: ${size} bytes gzipped, of ${most}`);
    if (size > most) {
      console.error(`${path} is too large by ${size - most} bytes`);
      fits = false;
    }
  }
  const whole = [...files].filter(([path]) => path.startsWith("dist/widget"));
  const size = whole.reduce((sum, [, content]) => sum + gzipSync(content, { level: 9 }).length, 0);
  console.log(`the whole widget: ${size} bytes gzipped, of ${MOST_OF_WIDGET}`);
  return fits && size <= MOST_OF_WIDGET;
}

/** @param {Map<string, Buffer>} files */
function write(files) {
  for (const folder of BUILT) rmSync(join(WEB, folder), { recursive: true, force: true });
  for (const [path, content] of files) {
    mkdirSync(dirname(join(WEB, path)), { recursive: true });
    writeFileSync(join(WEB, path), content);
  }
}

if (process.argv.includes("--tests")) {
  const present = new Set(readdirSync(WEB));
  const modules = MODULES.filter((folder) => present.has(folder)).flatMap((folder) => filesIn(join(WEB, folder)));
  const entryPoints = modules.filter((path) => /\.tsx?$/.test(path)).map((path) => relative(WEB, path));
  rmSync(join(WEB, ".build"), { recursive: true, force: true });
  await build({ ...SETTINGS, entryPoints, outdir: ".build", outbase: ".", sourcemap: "inline" });
} else {
  const files = await published();
  const fits = weigh(files);
  if (process.argv.includes("--check")) {
    const old = stale(files);
    for (const path of old) console.error(`${path} is stale: run \`npm run build\` in web/`);
    process.exitCode = fits && old.length === 0 ? 0 : 1;
  } else {
    write(files);
    process.exitCode = fits ? 0 : 1;
  }
}
