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
        "im_end eot_id endoftext complete completed completion done finish finished normal success pause_turn"
    ),
    "length": (
        "length max_tokens max_token max_length max_new_tokens max_output_tokens max_completion_tokens model_length "
        "token_limit tokens_limit max_tokens_reached length_limit context_length context_length_exceeded "
        "context_window_exceeded model_context_window_exceeded truncated"
    ),
    "filtered": (
        "content_filter content_filtered filter filtered safety recitation blocklist blocked prohibited_content spii "
        "image_safety image_prohibited_content model_armor sensitive moderation guardrail guardrail_intervened"
    ),
    "refused": "refusal refused",
    "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
}
_REASONS: Final[dict[str, FinishReason]] = {
    name.replace("_", ""): reason for reason, names in _NAMES.items() for name in names.split()
}
_NONE: Final = frozenset({"", "null", "none", "nil", "unspecified", "undefined", "false", "inprogress", "continue"})
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


def known(reason: str) -> FinishReason | None:
    """Return the meaning of a reason; None if it is unknown, which is never a success."""
    # "content_filter: SAFETY" has a reason of the provider's own after the common one.
    return _REASONS.get(_normal(reason)) or _REASONS.get(_normal(reason.partition(":")[0]))


def detail(reason: str) -> str:
    """Return a reason in characters that are safe in logs and pages."""
    return _UNSAFE.sub("_", reason.strip())[:MAX_DETAIL].strip("_")


def _normal(reason: str) -> str:
    return "".join(filter(str.isalnum, reason.lower().removeprefix("finish_reason_")))
