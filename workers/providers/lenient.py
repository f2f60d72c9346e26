"""Reads what providers send in other shapes than documented: each field by itself, and what cannot be read is left out.

The readers of `openai.py` and `anthropic.py` come here with every event that their typed decoders do not read whole. A
core module.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, Literal, NamedTuple

from gateway.streams.log_entries import MAX_COUNT

MAX_OBJECTS: Final = 1_000
"""Of one event: each takes about 70 microseconds, in which no other answer of the worker goes on."""

MAX_VALUES: Final = 50_000
"""Of one event, over all of its lists and objects: each takes up to 4 microseconds."""

SMALL_CHARACTERS: Final = 65_536
"""An event of this size has no more than MAX_VALUES values, so they are not counted."""

_PREFIXES: Final = re.compile(r"(?:data:\s*)+")

MAX_DEPTH: Final = 8
"""Of text inside of text; deeper parts are left out."""

Object = dict[str, Any]

_DONE: Final = re.compile(rb"\W*(?:data\W+)?(?:done|(?<=\[)end(?=\]))\W*", re.ASCII | re.IGNORECASE)
_MAX_DONE: Final = 64

DONE: Final[Object] = {"done": True}
"""The terminal marker as an object; some servers send this one."""

END_TYPES: Final = ("done", "end", "message_stop", "stream_end")
"""Types of events that end an answer."""


def is_done(data: bytes) -> bool:
    """Tell whether the data of an event are the terminal marker `[DONE]`, in any wrapping."""
    return len(data) <= _MAX_DONE and _DONE.fullmatch(data) is not None


def objects(data: bytes) -> list[Object] | None:
    """Return the JSON objects of an event's data; an empty list for a filler; None if an object is incomplete.

    Half a character becomes U+FFFD. Lone surrogates are kept: the other half may be in the next event.
    """
    text = data.decode("utf-8", "replace").strip().removeprefix("\ufeff")
    if (prefix := _PREFIXES.match(text)) is not None:
        # Relays add a prefix to lines that have one.
        text = text[prefix.end() :]
    if not text.startswith(("{", "[")):
        return []
    found = _parsed(text)
    if found is None and "\n" in text:
        # Servers that send no empty line between events.
        lines = [_parsed(line.strip().removeprefix("data:").strip()) for line in text.split("\n") if line.strip()]
        found = None if None in lines else [each for line in lines if line is not None for each in line]
    return found


def _parsed(text: str) -> list[Object] | None:
    try:
        value = json.loads(text, strict=False)
    except RecursionError:
        # Nothing of an answer is nested so deeply.
        return []
    except ValueError:
        return [DONE] if is_done(text[:_MAX_DONE].encode("utf-8", "replace")) else None
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_OBJECTS or (len(text) > SMALL_CHARACTERS and _has_too_many(items)):
        return None
    return [item for item in items if isinstance(item, dict)]


def _has_too_many(items: list[Any]) -> bool:
    """Tell whether lists and objects have more than MAX_VALUES values; it counts no further."""
    count, waiting = 0, [items]
    while waiting and count <= MAX_VALUES:
        for item in waiting.pop():
            count += 1
            if isinstance(item, dict):
                waiting.append(list(item.values()))
            elif isinstance(item, list):
                waiting.append(item)
    return count > MAX_VALUES


def choice_of(choices: Any) -> Object:
    """Return the first choice of a chunk: of a list, of an object under its number, or the object itself."""
    if isinstance(choices, dict):
        numbered = {name: each for name, each in choices.items() if name.isdigit() and isinstance(each, dict)}
        return numbered[min(numbered, key=lambda name: (len(name), name))] if numbered else choices
    found = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    if len(found) < 2:
        return found[0] if found else {}
    return min(found, key=lambda each: count(each.get("index")) or 0)


class Pieces(NamedTuple):
    """The text of an event, in order: `text`, `refusal` or `reasoning`, and the characters."""

    kind: Literal["text", "refusal", "reasoning"]
    text: str


REASONING_FIELDS: Final = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "thinking_content",
    "thinking_blocks",
    "thought",
    "thoughts",
    "reasoning_details",
)
"""Names of the reasoning; the first with text counts, because servers send the same text under two names."""

_TEXT_FIELDS: Final = ("text", "content", "value", "parts", "summary", "output_text", "answer")
_HIDDEN: Final = ("tool", "function", "redacted", "encrypted", "signature", "image", "audio", "citation", "json")
"""Parts of these types have no text for viewers."""


def content(value: Any) -> list[Pieces]:
    """Return the text of a message or of a delta: its reasoning, its content and its refusal."""
    if not isinstance(value, dict):
        return _walk(value, "text", 0)
    return [*_first(value, REASONING_FIELDS, "reasoning", 0), *_body(value, "text", 0)]


def _body(value: Object, kind: Literal["text", "refusal", "reasoning"], depth: int) -> list[Pieces]:
    return [*_first(value, _TEXT_FIELDS, kind, depth), *_walk(value.get("refusal"), "refusal", depth + 1)]


def _first(
    value: Object, names: tuple[str, ...], kind: Literal["text", "refusal", "reasoning"], depth: int
) -> list[Pieces]:
    return next((found for name in names if (found := _walk(value.get(name), kind, depth + 1))), [])


def _walk(value: Any, kind: Literal["text", "refusal", "reasoning"], depth: int) -> list[Pieces]:
    """Return the text of a string, a part, or a list of them."""
    if depth > MAX_DEPTH:
        return []
    match value:
        case str():
            return [Pieces(kind, value)] if value else []
        case list():
            return [piece for item in value for piece in _walk(item, kind, depth + 1)]
        case dict():
            part = str(value.get("type") or "").lower()
            if any(name in part for name in _HIDDEN):
                return []
            if value.get("thought") is True or part.startswith(("think", "thought", "reason", "summary")):
                kind = "reasoning"
            return [*_first(value, REASONING_FIELDS, "reasoning", depth), *_body(value, kind, depth)]
        case int() | float() if not isinstance(value, bool) and depth <= 1:
            return [Pieces(kind, str(value))]
        case _:
            return []


def count(value: Any) -> int | None:
    """Return a token count of any shape; None if it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value <= MAX_COUNT else None


_USAGE: Final = {
    "input_tokens": ("prompt_tokens", "input_tokens", "prompt_eval_count", "promptTokenCount"),
    "output_tokens": ("completion_tokens", "output_tokens", "eval_count", "candidatesTokenCount"),
    "reasoning_tokens": ("reasoning_tokens", "thinking_tokens"),
    "cached_tokens": ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
}
_DETAILS: Final = (
    "prompt_tokens_details",
    "input_tokens_details",
    "completion_tokens_details",
    "output_tokens_details",
)


def usage(value: Any) -> dict[str, int]:
    """Return the counts of a usage object under the names of `Finish.usage`; what is no count is left out."""
    if not isinstance(value, dict):
        return {}
    places = [value, *(details for name in _DETAILS if isinstance(details := value.get(name), dict))]
    found: dict[str, int] = {}
    for name, spellings in _USAGE.items():
        counts = [number for place in places for each in spellings if (number := count(place.get(each))) is not None]
        if counts:
            found[name] = counts[0]
    return found
