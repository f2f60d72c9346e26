// `node build.js` writes what is published, into dist/; `--check` fails where that is stale or too large; `--tests`
// writes each module by itself into .build/, which the tests import.
//
// Built files are in the repository, so that nobody needs Node to run a gateway.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const WEB = dirname(fileURLToPath(import.meta.url));

/** What is bundled: each by itself, sharing code only with what it loads later. @type {Record<string, string>[]} */
const BUNDLES = [{ tokenwire: "client/client.ts" }];

/** Bytes that a built file may have, gzipped at the highest level; chunks by their name without the hash. @type {Record<string, number>} */
const MOST = {
  "dist/tokenwire.js": 6_000,
  // Loaded where no WebSocket can connect, and where there is a guard.
  "dist/events.js": 1_500,
  "dist/judge.js": 700,
};

/** The page at / is served by itself, with its own copy of the client and what that loads. */
const PAGE = /^dist\/(tokenwire|events|judge)[^/]*\.js$/;

/** Folders in which everything is built. */
const BUILT = ["dist", "page/client"];

/** The types of what the package exports. */
const TYPES = ["client/client.d.ts"];

/** Folders of TypeScript that are compiled module by module for the tests. */
const MODULES = ["client", "widget", "markdown", "react"];

const SETTINGS = { absWorkingDir: WEB, target: "es2022", format: /** @type {const} */ ("esm"), charset: /** @type {const} */ ("utf8") };

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
    });
    for (const file of result.outputFiles) files.set(relative(WEB, file.path), Buffer.from(file.contents));
  }
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
  for (const [path, content] of [...files]) if (PAGE.test(path)) files.set(path.replace("dist", "page/client"), content);
  return files;
}

/** Declarations, and those that they import. @param {string[]} paths @returns {Set<string>} */
function reachable(paths) {
  const found = new Set(paths);
  for (const path of found) {
    for (const [, name] of readFileSync(path, "utf8").matchAll(/from "(\.[^"]+)\.js"/g)) found.add(join(dirname(path), `${name}.d.ts`));
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
  return fits;
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
