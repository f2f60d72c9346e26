// The published npm package, used by another project.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe as group, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const WEB = fileURLToPath(new URL("..", import.meta.url));

const USE = `
import { connect, type Conversation, type Guard, Refusal } from "tokenwire";
import { TokenwireTransport, type TokenwireMessage } from "tokenwire/ai-sdk";
import type { TokenwireChat as Element } from "tokenwire/chat";
import { TokenwireChat, useConversation } from "tokenwire/react";
import { Chat } from "@ai-sdk/react";

const guard: Guard = { tokens: 50, check: (text) => (text.includes("sky") ? "ok" : { stop: true, refine: "The sky?" }) };
const client = connect({ url: "http://127.0.0.1", guard });
const conversation: Conversation = client.conversation("c1");
export const sent: Promise<{ response: string }> = conversation.send("Why?", { model: "fast", ifBusy: "reject" });
// @ts-expect-error there is no such option
void conversation.send("Why?", { modle: "fast" });
const transport = new TokenwireTransport(client);
const chat = new Chat<TokenwireMessage>({ id: "c1", transport });
export const end: () => void = transport.follow(chat);
export const text: string | undefined = useConversation(conversation).answering?.text;
export const view = TokenwireChat({ url: "http://127.0.0.1", onMessage: ({ role }) => console.log(role) });
export const element = (node: Element) => node.conversation?.stop();
export const code = new Refusal("busy", "Wait.").code;
`;

group("the package", () => {
  let folder, files;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "tokenwire-package-"));
    const { stdout } = await run("npm", ["pack", "--json", "--loglevel", "error", "--pack-destination", folder], {
      cwd: WEB,
    });
    const [packed] = JSON.parse(stdout);
    files = packed.files.map(({ path }) => path);
    const modules = join(folder, "node_modules");
    mkdirSync(join(modules, "tokenwire"), { recursive: true });
    await run("tar", [
      "-xzf",
      join(folder, packed.filename),
      "-C",
      join(modules, "tokenwire"),
      "--strip-components",
      "1",
    ]);
    for (const name of readdirSync(join(WEB, "node_modules"))) {
      if (!name.startsWith(".")) symlinkSync(join(WEB, "node_modules", name), join(modules, name));
    }
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test("contains the built files, their types and the README only", () => {
    const { exports } = JSON.parse(readFileSync(join(WEB, "package.json"), "utf8"));
    for (const { types, default: file } of Object.values(exports))
      for (const path of [types, file]) assert.ok(files.includes(path.slice(2)), path);
    assert.deepEqual(
      files.filter((path) => !path.startsWith("dist/")),
      ["README.md", "package.json"],
    );
  });

  for (const [module, moduleResolution] of [
    ["esnext", "bundler"],
    ["nodenext", "nodenext"],
  ]) {
    test(`has types for module resolution ${moduleResolution}`, async () => {
      writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module" }));
      writeFileSync(join(folder, "use.ts"), USE);
      const options = {
        module,
        moduleResolution,
        target: "es2022",
        strict: true,
        noEmit: true,
        skipLibCheck: true,
        types: ["react"],
        lib: ["es2023", "dom", "dom.iterable", "dom.asynciterable"],
      };
      writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files: ["use.ts"] }));
      const { stdout } = await run(join(WEB, "node_modules/.bin/tsc"), ["-p", folder]).catch((error) => error);
      assert.equal(stdout, "");
    });
  }

  test("can be imported in Node without a DOM", async () => {
    const script = `const names = await Promise.all(["tokenwire", "tokenwire/ai-sdk", "tokenwire/chat", "tokenwire/react"].map((name) => import(name).then(Object.keys)));
      console.log(JSON.stringify(names));`;
    writeFileSync(join(folder, "use.js"), script);
    const { stdout } = await run(process.execPath, [join(folder, "use.js")]);
    assert.deepEqual(JSON.parse(stdout), [
      ["Refusal", "connect"],
      ["TokenwireTransport"],
      ["TokenwireChat"],
      ["TokenwireChat", "useConversation"],
    ]);
  });
});
