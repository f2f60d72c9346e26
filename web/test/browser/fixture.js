// Fixtures of the browser tests: a real gateway, pages of another origin, and Chromium.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const PYTHON = process.env.TOKENWIRE_PYTHON ?? join(ROOT, ".venv/bin/python");
const CHROMIUM =
  process.env.CHROMIUM ??
  ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));

/** Folder for screenshots. */
export const SCREENSHOTS = join(ROOT, "web/.screenshots");

/** Reason to skip the tests; undefined if they can run. */
export const missing =
  CHROMIUM === undefined
    ? "no Chromium is installed (set CHROMIUM)"
    : existsSync(PYTHON)
      ? undefined
      : `no Python at ${PYTHON} (set TOKENWIRE_PYTHON)`;

/** A gateway and a worker, started with `tokenwire run` on a free port. */
export class Gateway {
  /** @type {import("node:child_process").ChildProcess} */
  process;
  log = "";
  url = "";

  /** @param paths folders with Python generators; @param options command line options */
  static async start(settings = {}, paths = [], options = []) {
    const gateway = new Gateway();
    const env = {
      ...process.env,
      PYTHONPATH: [ROOT, ...paths].join(delimiter),
      TOKENWIRE_STORE: "memory://",
      TOKENWIRE_DEMO_RATE: "60",
      ...settings,
    };
    gateway.process = spawn(PYTHON, ["-m", "gateway", "run", "--port", String(settings.port ?? 0), ...options], {
      cwd: ROOT,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    gateway.url = await new Promise((resolve, reject) => {
      const read = (data) => {
        gateway.log += data;
        const found = /https?:\/\/(?:127\.0\.0\.1|localhost):(\d+)/.exec(gateway.log);
        if (found) resolve(found[0]);
      };
      gateway.process.stdout.on("data", read);
      gateway.process.stderr.on("data", read);
      gateway.process.once("exit", () => reject(new Error(`the gateway did not start:\n${gateway.log}`)));
    });
    await until(async () => (await fetch(`${gateway.url}/readyz`).catch(() => null))?.ok);
    return gateway;
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  async stop(/** @type {NodeJS.Signals} */ signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exited = once(this.process, "exit");
    this.process.kill(signal);
    await exited;
  }
}

/** A web server for pages `{body, policy}` by path, and for the npm package. Its origin differs from the gateway's. */
export class Pages {
  /** Pages by path. @type {Map<string, {body: string, policy?: string, type?: string}>} */
  all = new Map();
  origin = "";
  /** @type {import("node:http").Server} */
  server;

  static async start() {
    const pages = new Pages();
    pages.server = createServer((request, response) => {
      const { pathname } = new URL(request.url, "http://page");
      const file = /^\/package\/([\w-]+\.js)$/.exec(pathname)?.[1];
      if (file !== undefined) {
        response.writeHead(200, { "content-type": "text/javascript" });
        return response.end(readFileSync(join(ROOT, "web/dist", file)));
      }
      const page = pages.all.get(pathname);
      if (page === undefined) return response.writeHead(pathname === "/favicon.ico" ? 204 : 404).end();
      response.writeHead(200, {
        "content-type": page.type ?? "text/html; charset=utf-8",
        ...(page.policy && { "content-security-policy": page.policy }),
      });
      response.end(page.body);
    });
    pages.server.listen(0, "127.0.0.1");
    await once(pages.server, "listening");
    // Another host name is another origin.
    pages.origin = `http://localhost:${/** @type {import("node:net").AddressInfo} */ (pages.server.address()).port}`;
    return pages;
  }

  /** Serve a page with this body. Returns its URL. */
  add(path, body, /** @type {any} */ { policy, head = "", lang = "en", dir = "ltr" } = {}) {
    const start = `<!doctype html><html lang="${lang}" dir="${dir}"><head><meta charset="utf-8"><title>A page</title><meta name="viewport" content="width=device-width">${head}</head>`;
    this.all.set(path, {
      policy,
      body: `${start}<body><main><h1>A page of another site</h1><p>With a chat.</p></main>${body}</body></html>`,
    });
    return this.origin + path;
  }

  /** Serve a script. Returns its URL. */
  addScript(path, body) {
    this.all.set(path, { type: "text/javascript", body });
    return this.origin + path;
  }

  stop() {
    this.server.close();
  }
}

/** Return a policy that allows only the widget of this gateway, by its nonce. */
export function strictPolicy(gateway) {
  const socket = gateway.replace(/^http/, "ws");
  return `default-src 'none'; script-src 'nonce-n0nce'; connect-src ${gateway} ${socket}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'`;
}

export async function browser() {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
}

/** Wait until a condition holds; throw after `timeoutMs`. */
export async function until(condition, timeoutMs = 15_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`condition not met within ${timeoutMs} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
}
