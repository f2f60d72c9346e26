"""Checks of the events and errors of a provider before they are written: every gateway reads them, clients see them.

A generator is the operator's code, so no type annotation holds at run time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from gateway.streams.log_entries import MAX_COUNT
from workers.providers import Finish, FinishReason, ProviderError

if TYPE_CHECKING:
    from types import TracebackType

FAILED: Final = "generator_failed"
MESSAGE: Final = "The answer could not be finished."

MAX_MESSAGE_CHARACTERS: Final = 500
"""Of an error; clients show it in one line."""

MAX_COUNTS: Final = 32
"""Token counts of one answer."""

_PACKAGE: Final = Path(__file__).parent.parent
_REASONS: Final = get_args(FinishReason)
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


def finish(event: Finish) -> Finish | None:
    """Return a copy of the event that may be written; None if its reason or its usage may not."""
    reason: Any = event.reason
    usage: Any = event.usage
    if not isinstance(reason, str) or reason not in _REASONS or not isinstance(usage, Mapping):
        return None
    counts = dict(usage.items())
    if len(counts) > MAX_COUNTS or not all(_is_count(name, count) for name, count in counts.items()):
        return None
    # Servers report an unknown count as -1, which a generator may pass on.
    return Finish(event.reason, {name: count for name, count in counts.items() if count >= 0})


def _is_count(name: Any, count: Any) -> bool:
    named = isinstance(name, str) and _NAME.fullmatch(name) is not None
    return named and type(count) is int and abs(count) <= MAX_COUNT


def failure(error: ProviderError) -> ProviderError:
    """Return an error that may be written: the same one, or one that says in its place that the generator failed."""
    checked = _failure(error)
    # A subclass of the operator's may have no such attributes, or others.
    detail, usage = getattr(error, "detail", ""), finish(Finish("complete", getattr(error, "usage", {})))
    checked.detail = detail if isinstance(detail, str) and _NAME.fullmatch(detail) else ""
    checked.usage = usage.usage if usage is not None else {}
    return checked


def _failure(error: ProviderError) -> ProviderError:
    code, message, retry_after = (getattr(error, name, None) for name in ("code", "message", "retry_after"))
    retryable = getattr(error, "retryable", None) is True
    if not isinstance(code, str) or _NAME.fullmatch(code) is None:
        return ProviderError(FAILED, MESSAGE, retryable=retryable)
    if _is_message(message) and error.retryable is retryable and (retry_after is None or _is_pause(retry_after)):
        return error
    return ProviderError(
        code,
        message.encode("utf-8", "replace").decode()[:MAX_MESSAGE_CHARACTERS] if isinstance(message, str) else MESSAGE,
        retryable=retryable,
        retry_after=float(retry_after) if retry_after is not None and _is_pause(retry_after) else None,
    )


def operator_traceback(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return what a log prints of an exception: its traceback from the first frame on that is not of this package."""
    traceback = error.__traceback__
    while traceback is not None and Path(traceback.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE):
        traceback = traceback.tb_next
    return type(error), error, traceback


def _is_message(message: Any) -> bool:
    if not isinstance(message, str) or len(message) > MAX_MESSAGE_CHARACTERS:
        return False
    # UTF-8 cannot encode lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in message)


def _is_pause(seconds: Any) -> bool:
    return type(seconds) in (int, float) and math.isfinite(seconds) and seconds >= 0
