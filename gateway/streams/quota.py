"""Quotas: how many responses of a subject are open, and how many bytes it stores a day.

The counters of a subject are in the slot of its digest, apart from its conversations. They are reserved before a submit
and released after the end. A release that is lost expires with the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Literal

from gateway.streams import keys
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, milliseconds

logger = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
COPIES: Final = 2
"""Of an answer: its log, and its message of the history."""

MIN_OPEN_S: Final = 3600.0
"""How long a response counts as open at least: a renewed one may be open for longer than logs are kept."""

RELEASE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one subject and of one conversation; 0: no limit. Bytes are those of a day."""

    open_responses: int = 0
    subject_bytes: int = 0
    conversation_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Nothing was reserved. `open`: too many responses are open. `bytes`: the day's bytes are used up; `retry_after` is
    the seconds until the day ends.
    """

    reason: Literal["open", "bytes"]
    retry_after: float


async def reserve(store: Store, subject: str, response: str, size: int, limits: Limits) -> Exceeded | None:
    """Reserve a response and its bytes for a subject (its digest); return None if that is within the limits.

    Safe to cancel: what was reserved expires. Raises StoreUnavailableError, StoreFullError.
    """
    reply = await store.call(
        "reserve",
        [keys.open_of(subject), keys.stored_by(subject)],
        response,
        size,
        limits.open_responses,
        limits.subject_bytes,
        milliseconds(max(store.lifetimes.log, MIN_OPEN_S)),
        milliseconds(DAY_S),
    )
    match reply[0]:
        case b"open":
            return Exceeded("open", 5.0)
        case b"bytes":
            return Exceeded("bytes", max(1.0, int(reply[1]) / 1000))
        case _:
            return None


async def release(store: Store, subject: str, response: str, size: int) -> None:
    """Release a response of a subject and add `size` bytes; negative ones give back what was reserved.

    Safe to cancel: a release that is lost expires. Errors of the store are logged.
    """
    try:
        await store.call(
            "unreserve",
            [keys.open_of(subject), keys.stored_by(subject)],
            response,
            size,
            timeout_s=RELEASE_TIMEOUT_S,
        )
    except StoreError as error:
        logger.info("reservation_not_released", extra={"response": response, "error": type(error).__name__})
