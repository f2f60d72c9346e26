"""One HTTP exchange with a provider: its events as they arrive, and every way it can fail as a ProviderError.

Both official SDKs are written by one generator on one HTTP client, so what differs between them stays in `openai.py`
and `anthropic.py`, and how bytes arrive and break is here once. A translated failure is raised `from None`: the SDK's
own exception repeats the provider's words, which may hold a key or a prompt, and a log would print it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import time
from contextlib import aclosing
from datetime import UTC
from typing import TYPE_CHECKING, Protocol, TypeVar

import aiohttp
import anyio
import httpx2
import msgspec

from workers.providers import ProviderError, Reasoning, Text
from workers.providers.event_stream import EventStream, EventTooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from workers.providers import Event, Finish, Pace

CONNECT_SECONDS = 10.0
# A model may think for minutes before its next byte; how long is too long is the worker's decision.
TIMEOUT = httpx2.Timeout(None, connect=CONNECT_SECONDS)

PLACEHOLDER_KEY = "none"
"""Sent where the operator set an address and no key: the SDKs insist on one, a server of one's own does not."""

SETTLE_SECONDS = 0.1
"""How long the end of the body is waited for after the last event; a server that keeps it open loses the connection."""

FULL_READ = 16_384
"""Bytes. A read of so many has left some behind; the SDKs' HTTP client gives no more at once."""

_BROKEN = (httpx2.RequestError, aiohttp.ClientError, OSError, anyio.EndOfStream)
"""What an exchange breaks with. All but the first escape the SDKs' HTTP client now and then."""

T = TypeVar("T")


class Opened(Protocol):
    """What both SDKs return from `with_streaming_response`: the HTTP response, its body not read."""

    @property
    def http_response(self) -> httpx2.Response: ...


class Joined:
    """The pieces of one read, those of a kind that follow each other as one: the rest of the way costs by the piece."""

    def __init__(self) -> None:
        self._events: list[Text | Reasoning] = []
        self._kind: type[Text | Reasoning] = Text
        self._pieces: list[str] = []

    def add(self, kind: type[Text | Reasoning], piece: str) -> None:
        """Put a piece behind the others."""
        if kind is not self._kind:
            self._close()
            self._kind = kind
        self._pieces.append(piece)

    def take(self) -> list[Text | Reasoning]:
        """All that there is, and nothing is left."""
        self._close()
        events, self._events = self._events, []
        return events

    def _close(self) -> None:
        if self._pieces:
            self._events.append(self._kind("".join(self._pieces)))
            self._pieces = []


class Reader(Protocol):
    """What one provider's events mean: one answer's state."""

    def read(self, data: bytes, pieces: Joined) -> bool:
        """Take the data of the next event, and add what it says to `pieces`; True: it was the last one.

        Raises ProviderError.
        """

    def finish(self) -> Finish:
        """How the answer ended; raises ProviderError where the body did before the answer."""


async def answer(
    sdk: ModuleType, call: Callable[[], AbstractAsyncContextManager[Opened]], reader: Reader, pace: Pace
) -> AsyncGenerator[Event, None]:
    """Make the call, and yield what it answers as it arrives, a Finish last.

    `sdk` is the module whose exceptions `call` raises; `pace` is awaited before the body is read on. Closing the
    generator, or cancelling the task that waits for it, closes the HTTP response, which is how a provider learns that
    nobody wants the rest. Raises ProviderError.
    """
    stream, pieces = EventStream(), Joined()
    begun = False
    try:
        async with call() as response, aclosing(response.http_response.aiter_bytes()) as body:
            begun = True
            async for chunk in body:
                failure: ProviderError | None = None
                over = False
                try:
                    for data in stream.feed(chunk):
                        if over := reader.read(data, pieces):
                            break
                except EventTooLargeError:
                    failure = malformed()
                except ProviderError as error:
                    failure = error
                # What was said before a failure was said.
                given = pieces.take()
                for piece in given:
                    yield piece
                if failure is not None:
                    raise failure
                if over:
                    break
                # What comes before the first piece must not hold that up.
                if given and len(chunk) < FULL_READ:
                    await pace()
            finish = reader.finish()
            await _settle(body)
    except sdk.APIStatusError as error:
        kind = str(getattr(error, "code", None) or "")
        raise refused(error.status_code, error.response.headers, kind) from None
    except (sdk.APIConnectionError, *_BROKEN) as error:
        if _timed_out(error):
            message = "The model provider did not answer in time."
            raise ProviderError("provider_timeout", message, retryable=True) from None
        if begun:
            raise incomplete() from None
        raise ProviderError("provider_unreachable", "The model provider cannot be reached.", retryable=True) from None
    yield finish


async def _settle(rest: AsyncIterator[bytes]) -> None:
    """Read on to the end of the body after the last event, so that the connection can serve the next answer.

    Without this each answer pays for a new TLS handshake. It never fails: the answer is complete already.
    """
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            async for _ in rest:
                pass
    except _BROKEN:
        pass


def _timed_out(error: BaseException) -> bool:
    """Whether time ran out: only the first cause tells, because the SDKs' HTTP client calls a refused connection a
    timeout too.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, TimeoutError | httpx2.TimeoutException)


def decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Turn the data of one event into what `decoder` is for; raise ProviderError `provider_malformed` if it is not."""
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        # msgspec refuses half a surrogate pair, which servers that cut text by UTF-16 units send; json takes it.
        return msgspec.convert(json.loads(data), decoder.type)
    except (ValueError, RecursionError):
        raise malformed() from None


def incomplete() -> ProviderError:
    """The body ended, one way or another, before the provider said that the answer had."""
    return ProviderError("provider_incomplete", "The answer broke off before it was finished.", retryable=True)


def malformed() -> ProviderError:
    """What arrived is not what the provider's interface defines."""
    return ProviderError("provider_malformed", "The model provider sent something that is no answer.", retryable=True)


def refused(status: int, headers: Mapping[str, str], kind: str = "") -> ProviderError:
    """The failure that an HTTP status means; `kind` is the provider's own name of it, where it has one."""
    failure = _of_status(status, kind)
    failure.retry_after = retry_after(headers)
    # The one thing of the provider's answer that an operator may read in a log: a number.
    failure.add_note(f"HTTP status {status}")
    return failure


def reported(kinds: tuple[str | int | None, ...]) -> ProviderError:
    """The failure that an error object inside a stream means; `kinds` are its codes and types, the most exact first.

    A number is an HTTP status, as gateways to several providers write it. What nobody has heard of may be retried.
    """
    for kind in kinds:
        if isinstance(kind, int) and kind >= 400:
            return refused(kind, {})
        if isinstance(kind, str) and kind in _STATUS_OF_KIND:
            return _of_status(_STATUS_OF_KIND[kind], kind)
    return _of_status(500, "")


# Names from https://platform.claude.com/docs/en/api/errors and https://platform.openai.com/docs/guides/error-codes.
_STATUS_OF_KIND = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 500,
    "overloaded_error": 529,
}


def _of_status(status: int, kind: str) -> ProviderError:
    if status == 402 or kind == "insufficient_quota":
        # OpenAI says 429 here as well, but no wait refills an account.
        return ProviderError("provider_quota", "The account with the model provider is used up.", retryable=False)
    match status:
        case 401 | 403:
            return ProviderError("provider_refused_key", "The model provider refused our access.", retryable=False)
        case 404:
            return ProviderError("provider_unknown_model", "The model provider has no such model.", retryable=False)
        case 429:
            return ProviderError("provider_rate_limited", "The model is in great demand just now.", retryable=True)
        case 503 | 529:
            return ProviderError("provider_overloaded", "The model provider is overloaded just now.", retryable=True)
        case _ if status >= 500:
            return ProviderError("provider_error", "The model provider had a fault of its own.", retryable=True)
        case _:
            message = "The model provider refused this request."
            return ProviderError("provider_bad_request", message, retryable=status in (408, 409))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds a provider asks to wait, or None; never negative, never infinite.

    From `retry-after-ms` (milliseconds, what both SDKs read first) or `Retry-After` (seconds, or an HTTP date: RFC
    9110, section 10.2.3). `headers` must be looked up by lower-case name or ignore case.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, OverflowError):
        return None
    # "-0000" parses as a time without a zone, and means UTC.
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
