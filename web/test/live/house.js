// Real gateways in processes of their own, a line to them that can be cut, and waiting for what must come.

import { spawn } from "node:child_process";
import { connect as connectTcp, createServer } from "node:net";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import * as undici from "undici";

import { connect } from "../../dist/tokenwire.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const VENV = `${ROOT}.venv/bin/python`;
const PYTHON = process.env.TOKENWIRE_PYTHON ?? (existsSync(VENV) ? VENV : "python3");

/** The one that Node has from version 22 on. */
export const WebSocket = globalThis.WebSocket ?? undici.WebSocket;

/** Wait until a condition holds; fail with what `say` tells when it does not in time. */
export async function until(condition, { within = 20_000, say = () => condition.toString() } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${say()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Wait until a conversation is as it should be, told of each change by itself. */
export function seen(chat, condition, within = 20_000) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      end();
      reject(new Error(`not within ${within} ms: ${condition}\n${JSON.stringify({ state: chat.state, fault: chat.fault, messages: chat.messages }, null, 1)}`));
    }, within);
    const look = () => {
      if (!condition(chat)) return;
      clearTimeout(late);
      end();
      resolve(chat);
    };
    const end = chat.subscribe(look);
    look();
  });
}

const processes = new Set();

/** End every process that still runs, however a test went. */
export async function endProcesses() {
  await Promise.all([...processes].map((each) => each.kill("SIGTERM")));
}

/** A gateway, a worker, or both (`run`), on a free port. */
export class Process {
  /** @param options of the command line; an object among them has environment variables */
  static async start(command, ...options) {
    const variables = options.filter((option) => typeof option === "object");
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(TOKENWIRE|OPENAI|ANTHROPIC)_/.test(name)));
    const port = command === "worker" ? [] : ["--port", "0"];
    const child = spawn(PYTHON, ["-m", "gateway", command, ...port, ...options.filter((option) => typeof option === "string")], {
      cwd: ROOT,
      env: { ...environment, PYTHONPATH: ROOT, PYTHONUNBUFFERED: "1", ...Object.assign({}, ...variables) },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const started = new Process(child);
    const say = () => `tokenwire ${command} did not start:\n${started.output}`;
    await until(() => started.announced || child.exitCode !== null, { within: 30_000, say });
    if (!started.announced) throw new Error(say());
    if (command !== "worker") await until(async () => (await fetch(`${started.url}/readyz`).catch(() => null))?.ok, { say });
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

  /** What a gateway has of a conversation. */
  async snapshot(conversation) {
    return (await fetch(`${this.url}/v1/conversations/${conversation}`)).json();
  }

  async kill(signal = "SIGKILL") {
    this.child.kill(signal);
    await this.ended;
  }
}

const wires = new Set();

/** A line to a gateway that a test can cut, hold and spoil. */
export class Wire {
  static async to(url) {
    const wire = new Wire(url);
    await new Promise((resolve) => wire.server.listen(0, "127.0.0.1", resolve));
    wires.add(wire);
    return wire;
  }

  /** Bytes of the gateway after which the line is cut, counted down; Infinity for never. */
  left = Infinity;
  /** Called when that has happened. */
  onCut = () => {};
  /** Whether nobody can connect. */
  down = false;
  /** Whether an upgrade is refused, as proxies do that do not know WebSockets. */
  plain = false;
  /** Milliseconds for which what comes is gathered. */
  gather = 0;
  upgrades = 0;
  #pairs = new Set();

  constructor(url) {
    this.target = new URL(url);
    this.server = createServer((near) => this.#join(near));
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  /** Lead to another gateway from now on. */
  lead(url) {
    this.target = new URL(url);
  }

  cut() {
    for (const pair of this.#pairs) pair.forEach((socket) => socket.destroy());
  }

  async close() {
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }

  #join(near) {
    if (this.down) return void near.destroy();
    const far = connectTcp(Number(this.target.port), this.target.hostname);
    const pair = [near, far];
    this.#pairs.add(pair);
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#pairs.delete(pair);
        pair.forEach((each) => each.destroy());
      });
    }
    near.on("data", (data) => {
      if (/^upgrade: websocket/im.test(data.toString("latin1"))) {
        this.upgrades += 1;
        if (this.plain) {
          near.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
          return;
        }
        near.upgraded = true;
      }
      far.write(data);
    });
    let gathered = [];
    far.on("data", (data) => {
      // As a proxy that inspects what it does not know.
      if (this.gather && near.upgraded) {
        gathered.push(data);
        if (gathered.length === 1) {
          setTimeout(() => {
            for (const each of gathered) near.write(each);
            gathered = [];
          }, this.gather);
        }
        return;
      }
      if (data.length <= this.left) {
        this.left -= data.length;
        near.write(data);
        return;
      }
      near.write(data.subarray(0, this.left), () => this.cut());
      this.left = Infinity;
      this.onCut();
    });
  }
}

/** A port that nothing listens on now. */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** The nginx of this machine, if it has one. */
export const NGINX = ["/usr/sbin/nginx", "/usr/local/bin/nginx", "/opt/homebrew/bin/nginx"].find(existsSync);

/** An nginx in front of a gateway, as its manual sets it up for HTTP: it buffers, and knows no upgrade. */
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
  await until(async () => (await fetch(`${url}/healthz`).catch(() => null))?.ok, { say: () => "nginx did not start" });
  return { url, process: started };
}

const clients = new Set();

/** A client of its own, as another tab would have. */
export function tab(url, options = {}) {
  const client = connect({ url, shared: false, WebSocket, ...options });
  clients.add(client);
  return client;
}

/** Close every client and every wire that a test has left. */
export async function tidy() {
  for (const client of clients) client.close();
  clients.clear();
  await Promise.all([...wires].map((wire) => wire.close()));
  wires.clear();
}

/** What a storage of the browser is. */
export class Memory {
  kept = new Map();

  getItem(name) {
    return this.kept.get(name) ?? null;
  }

  setItem(name, value) {
    this.kept.set(name, value);
  }
}

let count = 0;

/** A conversation that no other test has. */
export function name() {
  count += 1;
  return `c-${process.pid}-${count}`;
}
