// Builds the npm package into dist/, and the files of the gateway into served/.
//
//   node build.js          build both; run it before `npm publish`
//   node build.js --check  fail if a file is too large or served/ is out of date
//   node build.js --tests  build the package, and compile each module into .build/ for the tests
//
// served/ is in the repository, so that a gateway runs without Node. dist/ is not.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build, transform } from "esbuild";

const WEB = dirname(fileURLToPath(import.meta.url));

/** @typedef {Map<string, Buffer>} Files content by path in this folder */
/** @typedef {Record<string, {file: string, integrity: string}>} Chunks */

/** Entries of the package. Separate bundles, each with its lazy chunks. @type {Record<string, string>[]} */
const PACKAGE = [
  { tokenwire: "client/client.ts" },
  { chat: "widget/define.ts" },
  { react: "react/react.ts" },
  { "ai-sdk": "ai_sdk/ai_sdk.ts" },
];

/** Types of those entries. */
const PACKAGE_TYPES = ["client/client.d.ts", "widget/define.d.ts", "react/react.d.ts", "ai_sdk/ai_sdk.d.ts"];

/** Maximum gzipped bytes of a built file. Names of chunks are without their hashes. @type {Record<string, number>} */
const MAX_BYTES = {
  "dist/tokenwire.js": 6_800,
  // Loaded only without WebSocket.
  "dist/event_stream_transport.js": 1_600,
  // Loaded only with a guard.
  "dist/run_guard.js": 700,
  // Excluding the client.
  "dist/chat.js": 16_000,
  // Excluding React, the client and the element.
  "dist/react.js": 1_000,
  // Excluding the client. The AI SDK is imported only for its types.
  "dist/ai-sdk.js": 2_000,
  "served/widget.js": 3_100,
  "served/widget/panel.js": 22_000,
  "served/widget/markdown.js": 22_000,
  "served/widget/highlight.js": 10_000,
};

/** Maximum gzipped bytes of the widget with all its chunks. */
const MAX_WIDGET_BYTES = 50_000;

/** Folders of TypeScript modules that the tests import. */
const MODULES = ["client", "widget", "markdown", "react", "ai_sdk"];

const SETTINGS = {
  absWorkingDir: WEB,
  target: "es2022",
  format: /** @type {const} */ ("esm"),
  charset: /** @type {const} */ ("utf8"),
};

const BUNDLE = {
  ...SETTINGS,
  bundle: true,
  minify: true,
  write: /** @type {const} */ (false),
  legalComments: /** @type {const} */ ("none"),
};

/** Keeps only the lexer of marked, whose module also creates a parser and an HTML renderer. @type {import("esbuild").Plugin} */
const LEXER_ONLY = {
  name: "lexer-only",
  setup({ onLoad }) {
    onLoad({ filter: /marked\.esm\.js$/ }, ({ path }) => {
      const source = readFileSync(path, "utf8");
      const names = source.slice(source.lastIndexOf("export{"));
      const [marked, lexer, tokenizer] = ["Marked", "Lexer", "Tokenizer"].map(
        (name) => new RegExp(`([\\w$]+) as ${name}\\b`).exec(names)?.[1],
      );
      const instance = source.lastIndexOf(`=new ${marked};`);
      if (instance === -1) throw new Error(`${path} has a new structure: adapt the plugin lexer-only in build.js`);
      const end = source.lastIndexOf("var ", instance);
      return { contents: `${source.slice(0, end)}export{${lexer} as Lexer,${tokenizer} as Tokenizer};` };
    });
  },
};

/** Minifies the style sheets inside styles.ts. @type {import("esbuild").Plugin} */
const MINIFIED_STYLES = {
  name: "minified-styles",
  setup({ onLoad }) {
    onLoad({ filter: /widget\/styles\.ts$/ }, async ({ path }) => {
      const parts = readFileSync(path, "utf8").split("`");
      for (let index = 1; index < parts.length; index += 2) {
        const { code } = await transform(parts[index] ?? "", { loader: "css", minify: true });
        parts[index] = code.trim().replaceAll("\\", "\\\\");
      }
      return { contents: parts.join("`"), loader: "ts" };
    });
  },
};

/** Imports the client and the element from their bundles, so that all entries share one client. @type {import("esbuild").Plugin} */
const SHARED_ENTRIES = {
  name: "shared-entries",
  setup({ onResolve }) {
    onResolve({ filter: /\/client\/client\.js$/ }, () => ({ path: "./tokenwire.js", external: true }));
    onResolve({ filter: /\/widget\/define\.js$/ }, () => ({ path: "./chat.js", external: true }));
    onResolve({ filter: /^react$/ }, () => ({ external: true }));
  },
};

/** Replaces chunks.ts by the version that loads chunks from the gateway. @type {import("esbuild").Plugin} */
const SERVED_CHUNKS = {
  name: "served-chunks",
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/chunks\.js$/ }, () => ({ path: join(WEB, "widget/chunks.served.ts") }));
  },
};

/** Build the npm package without types. @returns {Promise<Files>} */
async function packageFiles() {
  /** @type {Files} */
  const files = new Map();
  for (const entryPoints of PACKAGE) {
    const { outputFiles } = await build({
      ...BUNDLE,
      entryPoints,
      splitting: true,
      outdir: "dist",
      chunkNames: "[name]-[hash]",
      plugins: [LEXER_ONLY, MINIFIED_STYLES, SHARED_ENTRIES],
    });
    for (const file of outputFiles) files.set(relative(WEB, file.path), Buffer.from(file.contents));
  }
  return files;
}

/** Return the type declarations of the package. @returns {Files} */
function packageTypes() {
  /** @type {Files} */
  const files = new Map();
  const folder = mkdtempSync(join(tmpdir(), "tokenwire-types-"));
  try {
    const compiler = join(WEB, "node_modules", ".bin", "tsc");
    execFileSync(compiler, ["--emitDeclarationOnly", "--outDir", folder], { cwd: WEB, stdio: "inherit" });
    for (const path of withImports(PACKAGE_TYPES.map((name) => join(folder, name)))) {
      files.set(join("dist/types", relative(folder, path)), readFileSync(path));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return files;
}

/** Return declaration files and all that they import. @param {string[]} paths @returns {Set<string>} */
function withImports(paths) {
  const found = new Set(paths);
  for (const path of found) {
    for (const [, name] of readFileSync(path, "utf8").matchAll(/from "(\.[^"]+)\.js"/g)) {
      found.add(join(dirname(path), `${name}.d.ts`));
    }
  }
  return found;
}

/** Build what the gateway serves: the widget, and the client of the page at /. @returns {Promise<Files>} */
async function servedFiles() {
  const files = await widgetFiles();
  const { outputFiles } = await build({
    ...BUNDLE,
    entryPoints: { client: "client/client.ts" },
    splitting: true,
    outdir: "served/client",
    chunkNames: "[name]-[hash]",
  });
  for (const file of outputFiles) files.set(relative(WEB, file.path), Buffer.from(file.contents));
  return files;
}

/**
 * Build the widget. Each file contains the names and hashes of the chunks that it loads. So the integrity of the first
 * file covers all of them, and browsers can cache chunks forever.
 *
 * @returns {Promise<Files>}
 */
async function widgetFiles() {
  /** @type {Files} */
  const files = new Map();
  /** @param {string} entry @param {Chunks} chunks @param {"esm" | "iife"} format */
  const bundle = async (entry, chunks, format = "esm") => {
    const define = Object.fromEntries(Object.entries(chunks).map(([name, chunk]) => [name, JSON.stringify(chunk)]));
    const plugins = [LEXER_ONLY, MINIFIED_STYLES, SERVED_CHUNKS];
    const { outputFiles } = await build({ ...BUNDLE, format, define, plugins, entryPoints: [entry] });
    return Buffer.from(/** @type {import("esbuild").OutputFile} */ (outputFiles[0]).contents);
  };
  /** @param {string} entry @param {Chunks} chunks */
  const chunk = async (entry, chunks = {}) => {
    const content = await bundle(entry, chunks);
    const hash = createHash("sha256").update(content).digest("hex").slice(0, 8).toUpperCase();
    const file = `${basename(entry, ".ts")}-${hash}.js`;
    files.set(`served/widget/${file}`, content);
    return { file, integrity: `sha384-${createHash("sha384").update(content).digest("base64")}` };
  };
  const MARKDOWN = await chunk("markdown/markdown.ts");
  const HIGHLIGHT = await chunk("markdown/highlight.ts");
  const PANEL = await chunk("widget/panel.ts", { MARKDOWN, HIGHLIGHT });
  files.set("served/widget.js", await bundle("widget/launcher.ts", { PANEL }, "iife"));
  return files;
}

/** @param {string} folder @returns {string[]} */
function filesIn(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Return the paths in served/ that differ from the built files. @param {Files} files @returns {string[]} */
function outdated(files) {
  const folder = join(WEB, "served");
  const existing = existsSync(folder) ? filesIn(folder).map((path) => relative(WEB, path)) : [];
  return [
    ...[...files]
      .filter(([path, content]) => !existing.includes(path) || !readFileSync(join(WEB, path)).equals(content))
      .map(([path]) => path),
    ...existing.filter((path) => !files.has(path)),
  ];
}

/** @param {Buffer} content */
const gzippedBytes = (content) => gzipSync(content, { level: 9 }).length;

/** Print all sizes; return whether every file is within its limit. @param {Files} files */
function checkSizes(files) {
  const named = new Map([...files].map(([path, content]) => [path.replace(/-[A-Z0-9]{8}\.js$/, ".js"), content]));
  const sizes = Object.entries(MAX_BYTES).map(([path, max]) => {
    const content = named.get(path);
    if (content === undefined) throw new Error(`${path} is not built: remove its limit from MAX_BYTES`);
    return { path, size: gzippedBytes(content), max };
  });
  const widget = [...files].filter(([path]) => path.startsWith("served/widget"));
  const size = widget.reduce((sum, [, content]) => sum + gzippedBytes(content), 0);
  sizes.push({ path: "served/widget.js with its chunks", size, max: MAX_WIDGET_BYTES });
  for (const { path, size, max } of sizes) {
    console.log(`${path}: ${size} of ${max} bytes, gzipped${size > max ? ": TOO LARGE" : ""}`);
  }
  return sizes.every(({ size, max }) => size <= max);
}

/** Replace the content of a folder. @param {string} folder @param {Files} files */
function write(folder, files) {
  rmSync(join(WEB, folder), { recursive: true, force: true });
  for (const [path, content] of files) {
    mkdirSync(dirname(join(WEB, path)), { recursive: true });
    writeFileSync(join(WEB, path), content);
  }
}

/** Compile each TypeScript module into .build/. */
async function compileModules() {
  const paths = MODULES.flatMap((folder) => filesIn(join(WEB, folder)));
  const entryPoints = paths.filter((path) => /\.tsx?$/.test(path)).map((path) => relative(WEB, path));
  rmSync(join(WEB, ".build"), { recursive: true, force: true });
  await build({ ...SETTINGS, entryPoints, outdir: ".build", outbase: ".", sourcemap: "inline" });
}

const dist = await packageFiles();
if (process.argv.includes("--check")) {
  const served = await servedFiles();
  const stale = outdated(served);
  for (const path of stale) console.error(`${path} is out of date: run \`npm run build\` in web/`);
  process.exitCode = checkSizes(new Map([...dist, ...served])) && stale.length === 0 ? 0 : 1;
} else {
  write("dist", new Map([...dist, ...packageTypes()]));
  if (process.argv.includes("--tests")) {
    await compileModules();
  } else {
    const served = await servedFiles();
    write("served", served);
    process.exitCode = checkSizes(new Map([...dist, ...served])) ? 0 : 1;
  }
}
