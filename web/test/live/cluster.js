// Test cluster: gateways and workers as processes, a proxy that injects faults, and helpers that wait.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectTcp, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import * as undici from "undici";

import { connect } from "#dist/tokenwire.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const VENV = `${ROOT}.venv/bin/python`;
const PYTHON = process.env.TOKENWIRE_PYTHON ?? (existsSync(VENV) ? VENV : "python3");

/** Node's own from version 22 on. */
export const WebSocket = /** @type {any} */ (globalThis.WebSocket ?? undici.WebSocket);

/** Wait until a condition holds; fail with the result of `describe` after the timeout. */
export async function until(condition, { within = 20_000, describe = () => condition.toString() } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`condition not met within ${within} ms: ${describe()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Wait until a conversation meets a condition; checked after each of its changes. */
export function waitFor(chat, condition, within = 20_000) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      unsubscribe();
      reject(
        new Error(
          `condition not met within ${within} ms: ${condition}\n${JSON.stringify({ state: chat.state, fault: chat.fault, messages: chat.messages }, null, 1)}`,
        ),
      );
    }, within);
    const check = () => {
      if (!condition(chat)) return;
      clearTimeout(timer);
      unsubscribe();
      resolve(chat);
    };
    const unsubscribe = chat.subscribe(check);
    check();
  });
}

const processes = new Set();

/** Stop every process that still runs. */
export async function endProcesses() {
  await Promise.all([...processes].map((each) => each.kill("SIGTERM")));
}

/** A gateway, a worker, or both (`run`), on a free port. */
export class Process {
  /** @param options command line options; an object holds environment variables */
  static async start(command, ...options) {
    const variables = options.filter((option) => typeof option === "object");
    const environment = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !/^(TOKENWIRE|OPENAI|ANTHROPIC)_/.test(name)),
    );
    const port = command === "worker" ? [] : ["--port", "0"];
    const child = spawn(
      PYTHON,
      ["-m", "gateway", command, ...port, ...options.filter((option) => typeof option === "string")],
      {
        cwd: ROOT,
        env: { ...environment, PYTHONPATH: ROOT, PYTHONUNBUFFERED: "1", ...Object.assign({}, ...variables) },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    const started = new Process(child);
    const describe = () => `tokenwire ${command} did not start:\n${started.output}`;
    await until(() => started.announced || child.exitCode !== null, { within: 30_000, describe });
    if (!started.announced) throw new Error(describe());
    if (command !== "worker")
      await until(async () => (await fetch(`${started.url}/readyz`).catch(() => null))?.ok, { describe });
    return started;
  }

  output = "";
  announced = "";

  constructor(child) {
    this.child = child;
    processes.add(this);
    this.ended = new Promise((resolve) => child.once("exit", resolve)).then(() => processes.delete(this));
    for (const stream of [child.stdout, child.stderr]) {
      if (stream === null) continue;
      createInterface(stream).on("line", (line) => {
        this.output += `${line}\n`;
        if (line.startsWith("Tokenwire")) this.announced = line;
      });
    }
  }

  get url() {
    return /http:\S+/.exec(this.announced)[0];
  }

  /** Return the gateway's snapshot of a conversation. */
  async snapshot(conversation) {
    return (await fetch(`${this.url}/v1/conversations/${conversation}`)).json();
  }

  async kill(signal = "SIGKILL") {
    this.child.kill(signal);
    await this.ended;
  }
}

const proxies = new Set();

/** A TCP proxy in front of a gateway, with fault injection. */
export class FaultProxy {
  static async start(url) {
    const proxy = new FaultProxy(url);
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", () => resolve(undefined)));
    proxies.add(proxy);
    return proxy;
  }

  /** Bytes from the gateway until the disconnect, counted down; Infinity for never. */
  bytesLeft = Infinity;
  /** Called after that disconnect. */
  onDisconnect = () => {};
  /** Whether connections are refused. */
  down = false;
  /** Whether upgrades are refused, like a proxy without WebSocket support. */
  refuseUpgrades = false;
  /** Milliseconds for which WebSocket data is buffered. */
  bufferMs = 0;
  upgrades = 0;
  #pairs = new Set();

  constructor(url) {
    this.target = new URL(url);
    this.server = createServer((client) => this.#join(client));
  }

  get url() {
    return `http://127.0.0.1:${/** @type {import("node:net").AddressInfo} */ (this.server.address()).port}`;
  }

  /** Connect to another gateway from now on. */
  retarget(url) {
    this.target = new URL(url);
  }

  disconnect() {
    for (const pair of this.#pairs) pair.forEach((socket) => socket.destroy());
  }

  async close() {
    this.disconnect();
    await new Promise((resolve) => this.server.close(resolve));
  }

  #join(client) {
    if (this.down) return void client.destroy();
    const upstream = connectTcp(Number(this.target.port), this.target.hostname);
    const pair = [client, upstream];
    this.#pairs.add(pair);
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#pairs.delete(pair);
        pair.forEach((each) => each.destroy());
      });
    }
    client.on("data", (data) => {
      if (/^upgrade: websocket/im.test(data.toString("latin1"))) {
        this.upgrades += 1;
        if (this.refuseUpgrades) {
          client.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
          return;
        }
        client.upgraded = true;
      }
      upstream.write(data);
    });
    let buffered = [];
    upstream.on("data", (data) => {
      // Like a proxy that buffers the stream for inspection.
      if (this.bufferMs && client.upgraded) {
        buffered.push(data);
        if (buffered.length === 1) {
          setTimeout(() => {
            for (const each of buffered) client.write(each);
            buffered = [];
          }, this.bufferMs);
        }
        return;
      }
      if (data.length <= this.bytesLeft) {
        this.bytesLeft -= data.length;
        client.write(data);
        return;
      }
      client.write(data.subarray(0, this.bytesLeft), () => this.disconnect());
      this.bytesLeft = Infinity;
      this.onDisconnect();
    });
  }
}

/** Return a free port. */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Path of nginx; undefined if it is not installed. */
export const NGINX = ["/usr/sbin/nginx", "/usr/local/bin/nginx", "/opt/homebrew/bin/nginx"].find(existsSync);

/** Start nginx in front of a gateway with its default proxy settings: it buffers and refuses upgrades. */
export async function nginx(gateway) {
  const folder = mkdtempSync(join(tmpdir(), "tokenwire-nginx-"));
  const port = await freePort();
  writeFileSync(
    join(folder, "nginx.conf"),
    `daemon off; master_process off; pid ${folder}/pid; error_log ${folder}/errors;
     events {}
     http {
       access_log off;
       client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/fastcgi;
       uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
       server { listen 127.0.0.1:${port}; location / { proxy_pass ${gateway}; proxy_buffering on; } }
     }`,
  );
  const child = spawn(NGINX, ["-p", folder, "-c", join(folder, "nginx.conf")], { stdio: "ignore" });
  const started = new Process(child);
  started.ended.then(() => rmSync(folder, { recursive: true, force: true }));
  const url = `http://127.0.0.1:${port}`;
  await until(async () => (await fetch(`${url}/healthz`).catch(() => null))?.ok, {
    describe: () => "nginx did not start",
  });
  return { url, process: started };
}

const clients = new Set();

/** Return a separate client, like the one of another tab. @returns {any} */
export function tab(url, options = {}) {
  const client = connect({ url, shared: false, WebSocket, ...options });
  clients.add(client);
  return client;
}

/** Close all clients and proxies of a test. */
export async function closeAll() {
  for (const client of clients) client.close();
  clients.clear();
  await Promise.all([...proxies].map((proxy) => proxy.close()));
  proxies.clear();
}

/** An in-memory replacement for `sessionStorage`. */
export class MemoryStore {
  items = new Map();

  getItem(name) {
    return this.items.get(name) ?? null;
  }

  setItem(name, value) {
    this.items.set(name, value);
  }
}

let count = 0;

/** Return a new conversation id. */
export function newId() {
  count += 1;
  return `c-${process.pid}-${count}`;
}
