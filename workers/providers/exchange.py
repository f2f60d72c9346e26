"""One HTTP exchange with a provider: events as they arrive, and every failure as a ProviderError.

Both official SDKs have the same structure and HTTP client, so reading and failures are handled here once; `openai.py`
and `anthropic.py` contain the differences. Errors are raised `from None`: the exceptions of an SDK quote the provider,
whose text may contain a key or a prompt, and a log would print it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import time
from contextlib import aclosing
from datetime import UTC
from typing import TYPE_CHECKING, Protocol, TypeVar

import aiohttp
import anyio
import httpx2
import msgspec

from gateway.streams.credentials import clean, key_of
from workers.providers import ProviderError, Reasoning, Text
from workers.providers.event_stream import EventStream, EventTooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from gateway.streams.targets import Target
    from workers.providers import Event, Finish, Pace

CONNECT_TIMEOUT_S = 10.0
# No read timeout: a model may be silent for minutes, and the worker has its own timeouts.
TIMEOUT = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)

PLACEHOLDER_KEY = "none"
"""Sent if the operator set an address and no key: the SDKs require one, a private server does not."""

BODY_END_TIMEOUT_S = 0.1
"""Seconds from the last event to the end of the body; then the connection is closed."""

FULL_READ_BYTES = 16_384
"""The SDKs' HTTP client returns at most this much per read, so more is available after a read of this size."""

_BROKEN = (httpx2.RequestError, aiohttp.ClientError, OSError, anyio.EndOfStream)
"""Exceptions of a broken exchange. The SDKs' HTTP client does not translate all of the later ones."""

T = TypeVar("T")


def credentials(target: Target) -> tuple[str, str | None]:
    """Return the key and the address of a target; the address is None where the SDK's default holds.

    Raises ValueError, which names what is missing or wrong.
    """
    names = f"{target.provider.upper()}_API_KEY", f"{target.provider.upper()}_BASE_URL"
    variable = os.environ.get(names[1]) or None
    address = target.base_url or variable
    if target.key is not None:
        key = key_of(target.key)
    elif target.base_url is not None and target.base_url != variable:
        # The key of one server must not be sent to another one.
        key = PLACEHOLDER_KEY
    else:
        key = clean(os.environ.get(names[0], ""))
        if not key and not address:
            raise ValueError(f"{target.name} needs {names[0]}, or {names[1]} of a server that needs no key")
    if address is not None and not address.startswith(("http://", "https://")):
        raise ValueError(f"{names[1]} is not an address: write https://HOST/v1, or unset it")
    return key or PLACEHOLDER_KEY, address


class Opened(Protocol):
    """The result of `with_streaming_response` in both SDKs: an HTTP response with an unread body."""

    @property
    def http_response(self) -> httpx2.Response: ...


class Coalescer:
    """The pieces of one read; consecutive pieces of one kind are joined, because all later steps cost per piece."""

    def __init__(self) -> None:
        self._events: list[Text | Reasoning] = []
        self._kind: type[Text | Reasoning] = Text
        self._pieces: list[str] = []

    def add(self, kind: type[Text | Reasoning], piece: str) -> None:
        """Add a piece."""
        if kind is not self._kind:
            self._close()
            self._kind = kind
        self._pieces.append(piece)

    def take(self) -> list[Text | Reasoning]:
        """Remove and return all pieces."""
        self._close()
        events, self._events = self._events, []
        return events

    def _close(self) -> None:
        if self._pieces:
            self._events.append(self._kind("".join(self._pieces)))
            self._pieces = []


class Reader(Protocol):
    """The interpretation of one provider's events, for one answer."""

    def read(self, data: bytes, pieces: Coalescer) -> bool:
        """Parse the data of the next event and add its text to `pieces`; return whether it was the last event.

        Raises ProviderError.
        """

    def finish(self) -> Finish:
        """Return how the answer ended; raise ProviderError if the body ended before the answer."""


async def answer(
    sdk: ModuleType, call: Callable[[], AbstractAsyncContextManager[Opened]], reader: Reader, pace: Pace
) -> AsyncGenerator[Event, None]:
    """Make the call and yield its events as they arrive, a Finish last.

    `sdk` is the module whose exceptions `call` raises; `pace` is awaited before the body is read again. Safe to cancel:
    cancelling or closing the generator closes the HTTP response, so the provider stops generating. Raises
    ProviderError.
    """
    stream, pieces = EventStream(), Coalescer()
    connected = False
    try:
        async with call() as response, aclosing(response.http_response.aiter_bytes()) as body:
            connected = True
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
                # Text before a failure is kept.
                taken = pieces.take()
                for piece in taken:
                    yield piece
                if failure is not None:
                    raise failure
                if over:
                    break
                # No pause before the first piece: it must not be delayed.
                if taken and len(chunk) < FULL_READ_BYTES:
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
        if connected:
            raise incomplete() from None
        raise ProviderError("provider_unreachable", "The model provider cannot be reached.", retryable=True) from None
    yield finish


async def _settle(rest: AsyncIterator[bytes]) -> None:
    """Read to the end of the body after the last event, so that the connection can be reused.

    Otherwise each answer needs a new TLS handshake. Errors are ignored: the answer is complete.
    """
    try:
        async with asyncio.timeout(BODY_END_TIMEOUT_S):
            async for _ in rest:
                pass
    except _BROKEN:
        pass


def _timed_out(error: BaseException) -> bool:
    """Return whether the root cause is a timeout: the SDKs' HTTP client reports refused connections as timeouts too."""
    while error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, TimeoutError | httpx2.TimeoutException)


def decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Return the decoded data of one event; raise ProviderError `provider_malformed` if they are malformed."""
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        # Servers that split text by UTF-16 units send lone surrogates: json accepts them, msgspec does not.
        return msgspec.convert(json.loads(data), decoder.type)
    except (ValueError, RecursionError):
        raise malformed() from None


def incomplete() -> ProviderError:
    """Return the error for a body that ended before the answer."""
    return ProviderError("provider_incomplete", "The answer ended before it was complete.", retryable=True)


def malformed() -> ProviderError:
    """Return the error for a body that does not follow the provider's API."""
    return ProviderError("provider_malformed", "The model provider sent an invalid answer.", retryable=True)


def refused(status: int, headers: Mapping[str, str], kind: str = "") -> ProviderError:
    """Return the error for an HTTP status; `kind` is the provider's error code, if it has one."""
    failure = _of_status(status, kind)
    failure.retry_after = retry_after(headers)
    # The status is the only part of the provider's reply that a log may contain.
    failure.add_note(f"HTTP status {status}")
    return failure


def reported(kinds: tuple[str | int | None, ...]) -> ProviderError:
    """Return the error for an error object inside a stream; `kinds` are its codes and types, the most specific first.

    A number is an HTTP status, as routers to several providers send it. Unknown kinds are retryable.
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
        # OpenAI sends 429 here as well, but waiting does not refill an account.
        return ProviderError("provider_quota", "The account at the model provider has no credit left.", retryable=False)
    match status:
        case 401 | 403:
            return ProviderError("provider_refused_key", "The model provider rejected the API key.", retryable=False)
        case 404:
            return ProviderError("provider_unknown_model", "The model provider has no such model.", retryable=False)
        case 429:
            return ProviderError(
                "provider_rate_limited", "The model provider limits the request rate. Try again soon.", retryable=True
            )
        case 503 | 529:
            return ProviderError(
                "provider_overloaded", "The model provider is overloaded. Try again soon.", retryable=True
            )
        case _ if status >= 500:
            return ProviderError("provider_error", "The model provider failed.", retryable=True)
        case _:
            message = "The model provider rejected this request."
            return ProviderError("provider_bad_request", message, retryable=status in (408, 409))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a provider requests to wait, or None; never negative or infinite.

    From `retry-after-ms` (milliseconds, what both SDKs read first) or `Retry-After` (seconds, or an HTTP date: RFC
    9110, section 10.2.3). `headers` must have lower-case names or ignore case.
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
    # "-0000" means UTC, but parses as a time without a zone.
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
