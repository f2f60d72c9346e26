// Which URLs an answer may link to and load. Answers can contain text of strangers, so a link must not run code in the page,
// and an image must not report the user's visit.
// Pure.

/** Allowed protocols of links. */
const LINK_PROTOCOLS = ["http:", "https:", "mailto:"];

/** Character references that models use. Others remain unchanged. */
const CHARACTER_REFERENCES: Record<string, string> = Object.assign(Object.create(null) as Record<string, string>, {
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

/** Return the text with its character references decoded. */
export function decode(text: string): string {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]\w{1,30}));/g, (whole, decimal, hex, name) => {
    if (name !== undefined) return CHARACTER_REFERENCES[name as string] ?? whole;
    const point = decimal !== undefined ? parseInt(decimal as string, 10) : parseInt(hex as string, 16);
    const valid = point > 0 && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
    return valid ? String.fromCodePoint(point) : "\ufffd";
  });
}

/** Return the URL of a link; null unless it is an absolute http, https or mailto URL. */
export function safeLink(address: string): string | null {
  const url = absolute(address);
  return url !== null && LINK_PROTOCOLS.includes(url.protocol) ? url.href : null;
}

/** Return the URL of an image; null unless it is an absolute http or https URL. */
export function safeImage(address: string): { href: string; origin: string; host: string } | null {
  const url = absolute(address);
  if (url === null || (url.protocol !== "https:" && url.protocol !== "http:")) return null;
  return { href: url.href, origin: url.origin, host: url.host };
}

function absolute(address: string): URL | null {
  try {
    // Without a base: a relative URL could trigger an action of the page's own site.
    return new URL(decode(address));
  } catch {
    return null;
  }
}
