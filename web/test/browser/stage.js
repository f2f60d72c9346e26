// What the browser tests play on: a real gateway, a page of another origin under a strict policy, a real Chromium.

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

/** Where pictures of the states are kept. */
export const PICTURES = join(ROOT, "web/.pictures");

/** Why the tests cannot run here; undefined if they can. */
export const missing =
  CHROMIUM === undefined
    ? "no Chromium is installed (set CHROMIUM)"
    : existsSync(PYTHON)
      ? undefined
      : `no Python at ${PYTHON} (set TOKENWIRE_PYTHON)`;

/** A gateway with its worker, as `tokenwire run` starts it, on a free port. */
export class Gateway {
  /** @param paths where its generators are found; @param options of the command line */
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
    gateway.log = "";
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

  async stop(signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = once(this.process, "exit");
    this.process.kill(signal);
    await gone;
  }
}

/** A server of pages, each `{body, policy}` by its path, and of the npm package. Its origin is no gateway's. */
export class Pages {
  static async start() {
    const pages = new Pages();
    pages.all = new Map();
    pages.asked = [];
    pages.server = createServer((request, response) => {
      pages.asked.push(request.url);
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
    // Another name makes another origin.
    pages.origin = `http://localhost:${pages.server.address().port}`;
    return pages;
  }

  /** Serve a page with this in its body. Returns its address. */
  add(path, body, { policy, head = "", lang = "en", dir = "ltr" } = {}) {
    const start = `<!doctype html><html lang="${lang}" dir="${dir}"><head><meta charset="utf-8"><title>A page</title><meta name="viewport" content="width=device-width">${head}</head>`;
    this.all.set(path, {
      policy,
      body: `${start}<body><main><h1>A page of somebody else</h1><p>With a chat on it.</p></main>${body}</body></html>`,
    });
    return this.origin + path;
  }

  /** Serve a script. Returns its address. */
  addScript(path, body) {
    this.all.set(path, { type: "text/javascript", body });
    return this.origin + path;
  }

  stop() {
    this.server.close();
  }
}

/** A page that lets in nothing but the widget of this gateway, by its nonce. */
export function strict(gateway) {
  const socket = gateway.replace(/^http/, "ws");
  return `default-src 'none'; script-src 'nonce-n0nce'; connect-src ${gateway} ${socket}; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'`;
}

export async function browser() {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
}

/** Wait for a condition; throws when it has not come true within `most` milliseconds. */
export async function until(condition, most = 15_000) {
  const deadline = Date.now() + most;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`did not come true within ${most} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
}
