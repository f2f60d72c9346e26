// Approximate syntax highlighting with regular expressions. Loaded with the first closed code block. Pure.

/** Split a text into tokens with a class name or "". Null if the language is unknown or the text is too long. */
export type Highlighter = (text: string, language: string) => [kind: string, token: string][] | null;

interface Language {
  words: string;
  /** Start of a line comment. */
  line?: string;
  /** Start and end of a block comment. */
  block?: [string, string];
  /** Quotes of strings. */
  quotes?: string;
  /** Whether triple quotes delimit multi-line strings. */
  triple?: boolean;
  /** Whether keywords are case-insensitive. */
  ignoreCase?: boolean;
}

const MAX_LENGTH = 60_000;

const C = { line: "//", block: ["/*", "*/"] as [string, string], quotes: "\"'" };
const CONTROL = "if else for while do switch case default break continue return";
const OOP =
  "class interface extends implements new this super public private protected static abstract final try catch finally throw";
const SCRIPT: Language = {
  ...C,
  quotes: "\"'`",
  words: `${CONTROL} ${OOP} const let var function async await yield import export from as of in typeof instanceof delete void null undefined true false type enum readonly declare namespace keyof satisfies get set`,
};
const SHELL: Language = {
  line: "#",
  quotes: "\"'",
  words:
    "if then elif else fi for while until do done case esac in function return export local set unset echo cd exit source alias sudo trap read shift eval exec true false",
};
const MARKED: Language = { words: "", block: ["<!--", "-->"], quotes: "\"'" };
const YAML: Language = { line: "#", quotes: "\"'", words: "true false null yes no on off" };

const LANGUAGES: Record<string, Language> = {
  javascript: SCRIPT,
  python: {
    line: "#",
    quotes: "\"'",
    triple: true,
    words:
      "and as assert async await break class continue def del elif else except finally for from global if import in is lambda match case nonlocal not or pass raise return try while with yield None True False self cls",
  },
  json: { ...C, quotes: '"', words: "true false null" },
  bash: SHELL,
  html: MARKED,
  css: {
    block: ["/*", "*/"],
    quotes: "\"'",
    words: "important media supports keyframes import layer container font-face property var calc",
  },
  sql: {
    line: "--",
    block: ["/*", "*/"],
    quotes: "'\"",
    ignoreCase: true,
    words:
      "select from where and or not in is null as on join left right inner outer full cross group by order having limit offset union all distinct insert into values update set delete create table index view drop alter add primary key foreign references unique default check constraint begin commit rollback with recursive returning case when then else end exists between like ilike asc desc count sum avg min max integer text boolean timestamp varchar",
  },
  go: {
    ...C,
    quotes: "\"'`",
    words: `${CONTROL} func package import var const type struct interface map chan go defer select range fallthrough goto nil true false string int bool byte error make len append any`,
  },
  rust: {
    ...C,
    quotes: '"',
    words: `${CONTROL} fn let mut const static struct enum impl trait pub use mod crate self Self super match loop where move ref dyn async await unsafe as in type true false Some None Ok Err String Vec Option Result Box`,
  },
  java: {
    ...C,
    words: `${CONTROL} ${OOP} package import void int long double float boolean char byte short var record enum sealed permits instanceof null true false throws synchronized volatile transient String`,
  },
  c: {
    ...C,
    words: `${CONTROL} ${OOP} void int long double float bool char short unsigned signed struct union enum typedef sizeof const constexpr auto inline extern namespace using template typename virtual override operator friend delete nullptr NULL true false include define ifdef ifndef endif pragma std size_t`,
  },
  csharp: {
    ...C,
    words: `${CONTROL} ${OOP} namespace using void int long double float bool char string var record struct enum async await foreach in is as null true false get set init virtual override sealed readonly ref out where select from yield`,
  },
  php: {
    ...C,
    words: `${CONTROL} ${OOP} function fn echo namespace use require include foreach as array null true false const trait match yield isset unset`,
  },
  ruby: {
    line: "#",
    quotes: "\"'",
    words:
      "def end class module if elsif else unless case when while until for in do begin rescue ensure raise return yield self super nil true false and or not then require require_relative include extend attr_accessor attr_reader puts lambda proc new",
  },
  swift: {
    ...C,
    quotes: '"',
    triple: true,
    words: `${CONTROL} ${OOP} func let var struct enum protocol extension guard in is as self Self init deinit nil true false import async await throws rethrows inout some any where defer lazy weak`,
  },
  kotlin: {
    ...C,
    triple: true,
    words: `${CONTROL} ${OOP} fun val var object data sealed companion when in is as null true false import package override open suspend lateinit by init internal inline reified`,
  },
  lua: {
    line: "--",
    quotes: "\"'",
    words:
      "and break do else elseif end false for function goto if in local nil not or repeat return then true until while",
  },
  yaml: YAML,
  dockerfile: {
    line: "#",
    quotes: "\"'",
    words:
      "FROM RUN CMD LABEL EXPOSE ENV ADD COPY ENTRYPOINT VOLUME USER WORKDIR ARG ONBUILD STOPSIGNAL HEALTHCHECK SHELL AS",
  },
};

const NAMES: Record<string, string> = {
  js: "javascript",
  jsx: "javascript",
  mjs: "javascript",
  cjs: "javascript",
  ts: "javascript",
  tsx: "javascript",
  typescript: "javascript",
  py: "python",
  python3: "python",
  jsonc: "json",
  json5: "json",
  sh: "bash",
  shell: "bash",
  zsh: "bash",
  console: "bash",
  fish: "bash",
  xml: "html",
  svg: "html",
  vue: "html",
  svelte: "html",
  scss: "css",
  less: "css",
  postgresql: "sql",
  mysql: "sql",
  sqlite: "sql",
  golang: "go",
  rs: "rust",
  "c++": "c",
  cpp: "c",
  h: "c",
  hpp: "c",
  cc: "c",
  objc: "c",
  cs: "csharp",
  "c#": "csharp",
  rb: "ruby",
  kt: "kotlin",
  scala: "kotlin",
  dart: "java",
  groovy: "java",
  yml: "yaml",
  toml: "yaml",
  ini: "yaml",
  conf: "yaml",
  docker: "dockerfile",
  makefile: "bash",
};

const grammars = new Map<Language, RegExp>();

/** See `Highlighter`. Every character of the text is in exactly one token. */
export const highlight: Highlighter = (text, language) => {
  if (text.length > MAX_LENGTH) return null;
  const name = language.toLowerCase();
  if (name === "diff" || name === "patch") return diff(text);
  const known = NAMES[name] ?? name;
  const definition = Object.hasOwn(LANGUAGES, known) ? LANGUAGES[known] : undefined;
  if (definition === undefined) return null;
  const grammar = grammars.get(definition) ?? grammarOf(definition);
  grammars.set(definition, grammar);
  const words = new Set(definition.words.split(" "));
  const tokens: [string, string][] = [];
  let at = 0;
  for (const found of text.matchAll(grammar)) {
    const [token] = found;
    if (token === "") continue;
    if (found.index > at) add(tokens, "", text.slice(at, found.index));
    add(tokens, kindOf(found.groups ?? {}, token, words, definition, text[found.index + token.length]), token);
    at = found.index + token.length;
  }
  if (at < text.length) add(tokens, "", text.slice(at));
  return tokens;
};

function kindOf(
  groups: Record<string, string | undefined>,
  token: string,
  words: Set<string>,
  language: Language,
  after: string | undefined,
): string {
  if (groups["comment"] !== undefined) return "comment";
  // A string before a colon is a key.
  if (groups["string"] !== undefined) return language === LANGUAGES["json"] && after === ":" ? "name" : "string";
  if (groups["number"] !== undefined) return "number";
  if (groups["tag"] !== undefined) return "keyword";
  if (groups["field"] !== undefined) return "name";
  if (groups["word"] === undefined) return "";
  if (words.has(language.ignoreCase ? token.toLowerCase() : token)) return "keyword";
  if (after === "(") return "call";
  return /^[A-Z][a-zA-Z0-9]*[a-z]/.test(token) ? "type" : "";
}

function grammarOf({ line, block, quotes = "", triple, words }: Language): RegExp {
  const comments: string[] = [];
  // A "#" inside a word or a hexadecimal colour does not start a comment.
  if (line !== undefined) comments.push(`${line === "#" ? "(?<![\\w$&{])" : ""}${escaped(line)}[^\\n]*`);
  if (block !== undefined) comments.push(`${escaped(block[0])}[\\s\\S]*?(?:${escaped(block[1])}|$)`);
  const strings = [
    ...(triple ? ['"""[\\s\\S]*?(?:"""|$)', "'''[\\s\\S]*?(?:'''|$)"] : []),
    ...[...quotes].map(
      (quote) => `${quote}(?:\\\\[\\s\\S]|[^${quote}\\\\${quote === "`" ? "" : "\\n"}])*(?:${quote}|(?=\\n)|$)`,
    ),
  ];
  const marked = words === "" ? ["(?<tag><\\/?[\\w:.-]+|\\/?>)", "(?<field>[\\w:@.-]+(?==))"] : [];
  const yaml =
    quotes === "\"'" && line === "#" && words.startsWith("true")
      ? ["(?<field>^[ \\t-]*[\\w.\"'/-]+(?=\\s*[:=])|^\\s*\\[[^\\]\\n]+\\])"]
      : [];
  const parts = [
    comments.length > 0 ? `(?<comment>${comments.join("|")})` : "",
    ...marked,
    ...yaml,
    strings.length > 0 ? `(?<string>${strings.join("|")})` : "",
    "(?<number>\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w*)",
    "(?<word>[\\p{L}_$@][\\p{L}\\p{N}_$]*)",
  ];
  return new RegExp(parts.filter((part) => part !== "").join("|"), "gmu");
}

function diff(text: string): [string, string][] {
  return text.split(/(?<=\n)/).map((line) => {
    if (line.startsWith("+")) return ["added", line];
    if (line.startsWith("-")) return ["removed", line];
    return [line.startsWith("@@") ? "comment" : "", line];
  });
}

function add(tokens: [string, string][], kind: string, token: string): void {
  const last = tokens.at(-1);
  if (last !== undefined && last[0] === kind) last[1] += token;
  else tokens.push([kind, token]);
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
}
