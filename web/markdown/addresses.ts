// What an answer may lead to and load. An answer is written by a stranger's words: it must not act in the name of the
// reader, nor tell anybody that it is read.
// Pure.

/** What a link may lead to: a page of the web, or a letter. */
const LINKS = ["http:", "https:", "mailto:"];

/** The character references that models write; all others stay as they are. */
const NAMED: Record<string, string> = Object.assign(Object.create(null) as Record<string, string>, {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
  copy: "©",
  reg: "®",
  trade: "™",
  hellip: "…",
  mdash: "—",
  ndash: "–",
  lsquo: "‘",
  rsquo: "’",
  ldquo: "“",
  rdquo: "”",
  laquo: "«",
  raquo: "»",
  bull: "•",
  middot: "·",
  times: "×",
  divide: "÷",
  minus: "−",
  plusmn: "±",
  deg: "°",
  micro: "µ",
  para: "¶",
  sect: "§",
  euro: "€",
  pound: "£",
  yen: "¥",
  cent: "¢",
  larr: "←",
  uarr: "↑",
  rarr: "→",
  darr: "↓",
  harr: "↔",
  rArr: "⇒",
  hArr: "⇔",
  le: "≤",
  ge: "≥",
  ne: "≠",
  asymp: "≈",
  infin: "∞",
  sum: "∑",
  prod: "∏",
  radic: "√",
  alpha: "α",
  beta: "β",
  gamma: "γ",
  delta: "δ",
  Delta: "Δ",
  epsilon: "ε",
  theta: "θ",
  lambda: "λ",
  mu: "μ",
  pi: "π",
  sigma: "σ",
  Sigma: "Σ",
  phi: "φ",
  omega: "ω",
  Omega: "Ω",
  forall: "∀",
  exist: "∃",
  isin: "∈",
  empty: "∅",
  colon: ":",
  sol: "/",
  lpar: "(",
  rpar: ")",
  lsqb: "[",
  rsqb: "]",
  ast: "*",
  lowbar: "_",
  grave: "`",
  num: "#",
  Tab: "\t",
  NewLine: "\n",
  auml: "ä",
  ouml: "ö",
  uuml: "ü",
  Auml: "Ä",
  Ouml: "Ö",
  Uuml: "Ü",
  szlig: "ß",
  eacute: "é",
  egrave: "è",
  agrave: "à",
  ccedil: "ç",
  ntilde: "ñ",
  check: "✓",
  cross: "✗",
  star: "☆",
});

/** The text with its character references read. */
export function decode(text: string): string {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]\w{1,30}));/g, (whole, decimal, hex, name) => {
    if (name !== undefined) return NAMED[name as string] ?? whole;
    const point = decimal !== undefined ? parseInt(decimal as string, 10) : parseInt(hex as string, 16);
    const valid = point > 0 && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
    return valid ? String.fromCodePoint(point) : "\ufffd";
  });
}

/** Where a link leads, or null where it may not be followed: anything but an absolute http, https or mailto address. */
export function linkTo(address: string): string | null {
  const url = absolute(address);
  return url !== null && LINKS.includes(url.protocol) ? url.href : null;
}

/** Where a picture lies, or null where it may not be loaded even when asked for. */
export function pictureAt(address: string): { href: string; origin: string; host: string } | null {
  const url = absolute(address);
  if (url === null || (url.protocol !== "https:" && url.protocol !== "http:")) return null;
  return { href: url.href, origin: url.origin, host: url.host };
}

function absolute(address: string): URL | null {
  try {
    // Without a base: an address that leans on the page's own could call something there.
    return new URL(decode(address));
  } catch {
    return null;
  }
}
