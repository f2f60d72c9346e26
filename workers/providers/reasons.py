"""Finish reasons: the names that providers and compatible servers give to the end of an answer. A core module."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from workers.providers import FinishReason

MAX_DETAIL: Final = 64
"""Characters of an unknown reason that clients get."""

_NAMES: Final[dict[FinishReason, str]] = {
    "complete": (
        "stop eos eos_token end end_turn end_of_turn end_of_text stop_sequence stop_token stop_string stop_word "
        "im_end eot_id endoftext complete completed completion done finish finished normal success pause_turn stopped "
        "stop_sequences stop_words stop_str stop_strings stop_token_id stop_token_ids stop_id stop_eos stopped_eos "
        "stopped_word stop_criteria stopping_criteria matched_stop eos_token_id end_of_sequence end_of_stream "
        "end_of_message end_of_sentence eot eom eom_id eog eod s natural ok"
    ),
    "length": (
        "length max_tokens max_token max_length max_new_tokens max_output_tokens max_completion_tokens model_length "
        "token_limit tokens_limit max_tokens_reached length_limit context_length context_length_exceeded "
        "context_window_exceeded model_context_window_exceeded truncated stopped_limit error_limit max_length_reached "
        "max_output_length output_limit maximum_length maximum_tokens"
    ),
    "filtered": (
        "content_filter content_filtered filter filtered safety recitation blocklist blocked prohibited_content spii "
        "image_safety image_prohibited_content model_armor sensitive moderation guardrail guardrail_intervened "
        "error_toxic content_filtering"
    ),
    "refused": "refusal refused",
    "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
}
_REASONS: Final[dict[str, FinishReason]] = {
    name.replace("_", ""): reason for reason, names in _NAMES.items() for name in names.split()
}
_SUCCESSES: Final = ("complete", "tool_calls")
_PREFIXES: Final = re.compile("(?:finish|stop|done|end)reason")
_NONE: Final = frozenset(
    {
        "notfinished",
        "unfinished",
        "running",
        "pending",
        "processing",
        "generating",
        "",
        "null",
        "none",
        "nil",
        "unspecified",
        "undefined",
        "false",
        "inprogress",
        "continue",
    }
)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.:-]+", re.ASCII)


def given(value: Any) -> str | None:
    """Return the reason that a field of any shape gives; None if it gives none."""
    match value:
        case str():
            return None if _normal(value) in _NONE else value
        case dict():
            return next((found for name in ("type", "reason", "name") if (found := given(value.get(name)))), None)
        case list():
            return next((found for item in value if (found := given(item))), None)
        case None | bool():
            return None
        case _:
            return str(value)


def merged(first: str | None, later: str | None) -> str | None:
    """Return the reason that counts of two: the first one, unless only the later one is no success.

    Servers that cut an answer off may report a common end after it.
    """
    if first is None or later is None:
        return first or later
    return later if known(first) in _SUCCESSES and known(later) not in _SUCCESSES else first


def known(reason: str) -> FinishReason | None:
    """Return the meaning of a reason; None if it is unknown, which is never a success."""
    # "content_filter: SAFETY" has a reason of the provider's own after the common one.
    return _REASONS.get(_normal(reason)) or _REASONS.get(_normal(reason.partition(":")[0]))


def detail(reason: str) -> str:
    """Return a reason in characters that are safe in logs and pages."""
    return _UNSAFE.sub("_", reason.strip())[:MAX_DETAIL].strip("_")


def _normal(reason: str) -> str:
    return _PREFIXES.sub("", "".join(filter(str.isalnum, reason.lower())), 1)
