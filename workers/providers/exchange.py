"""One HTTP exchange with a provider: events as they arrive, and every failure as a ProviderError.

Both official SDKs have the same structure and HTTP client, so reading and failures are handled here once; `openai.py`
and `anthropic.py` contain the differences. Errors are raised `from None`: the exceptions of an SDK quote the provider,
whose text may contain a key or a prompt, and a log would print it.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import os
import time
import zlib
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import aiohttp
import anyio
import httpx2

from gateway.streams.credentials import clean, key_of, proxy_problem
from workers.providers import ProviderError, Reasoning, Text, reasons
from workers.providers.event_stream import EventStream, EventTooLargeError
from workers.providers.failures import incomplete, malformed, misconfigured, of_body, of_reply, stopped
from workers.providers.think_tags import ThinkTags

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from gateway.streams.targets import Target
    from workers.providers import Event, Finish, FinishReason, Pace
    from workers.providers.parameters import Attempt

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
# No read timeout: a model may be silent for minutes, and the worker has its own timeouts.
TIMEOUT = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)

PLACEHOLDER_KEY = "none"
"""Sent if the operator set an address and no key: the SDKs require one, a private server does not."""

BODY_END_TIMEOUT_S = 0.1
"""Seconds from the last event to the end of the body; then the connection is closed."""

MAX_SILENT_BYTES = 16 << 20
"""Bytes of a body without any text in between, after decompression: a few kilobytes of gzip can hold gigabytes."""

READS_AT_ONCE = 64
"""Reads after which other answers get a turn: the bytes of a decompressed body are there without waiting."""

ENDED_TIMEOUT_S = 1.0
"""Seconds of silence after the reason for the end: usage and the terminal marker may follow, but need not."""

FULL_READ_BYTES = 16_384
"""The SDKs' HTTP client returns at most this much per read, so more is available after a read of this size."""

_BROKEN = (httpx2.RequestError, aiohttp.ClientError, OSError, anyio.EndOfStream)
"""Exceptions of a broken exchange. The SDKs' HTTP client does not translate all of the later ones."""


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
    if (problem := proxy_problem()) is not None:
        raise ValueError(problem)
    if address is not None and not address.startswith(("http://", "https://")):
        raise ValueError(f"{names[1]} is not an address: write https://HOST/v1, or unset it")
    return key or PLACEHOLDER_KEY, address


class Opened(Protocol):
    """The result of `with_streaming_response` in both SDKs: an HTTP response with an unread body."""

    @property
    def http_response(self) -> httpx2.Response: ...


Call: TypeAlias = "Callable[..., AbstractAsyncContextManager[Opened]]"
"""Makes a call with the fields `extra_body`."""


class Coalescer:
    """The pieces of one read; consecutive pieces of one kind are joined, because all later steps cost per piece."""

    def __init__(self) -> None:
        self._events: list[Text | Reasoning] = []
        self._kind: type[Text | Reasoning] = Text
        self._pieces: list[str] = []
        self._has_text = False
        self._taken = False
        self.unclear: ProviderError | None = None
        """What may be an error, if the body contains nothing of an answer."""

    @property
    def begun(self) -> bool:
        """Whether the answer has any text or reasoning so far."""
        return self._taken or bool(self._pieces) or bool(self._events)

    @property
    def has_text(self) -> bool:
        """Whether the answer has any text so far."""
        return self._has_text or (self._kind is Text and bool(self._pieces))

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
        self._taken = self._taken or bool(events)
        return events

    def _close(self) -> None:
        if self._pieces:
            self._has_text = self._has_text or self._kind is Text
            self._events.append(self._kind("".join(self._pieces)))
            self._pieces = []


class Reader(Protocol):
    """The interpretation of one provider's events, for one answer."""

    ended: bool
    """Whether the provider gave a reason for the end, or its terminal marker."""
    reason: str | None
    """The reason that it gave."""

    @property
    def usage(self) -> Mapping[str, int]:
        """What was counted so far, see `Finish.usage`."""

    def read(self, data: bytes, pieces: Coalescer) -> bool:
        """Parse the data of the next event and add its text to `pieces`; return whether it was the terminal marker.

        Raises ProviderError.
        """

    def read_document(self) -> None:
        """Take the end of a body that is one JSON document for that of the answer, if it contains a whole one."""

    def finish(self) -> Finish:
        """Return how the answer ended; raise ProviderError if it has not, or for a reason that is no success."""


async def answer(
    sdk: ModuleType, call: Call, attempt: Attempt, new_reader: Callable[[], Reader], pace: Pace
) -> AsyncGenerator[Event, None]:
    """Make the call and yield its events as they arrive, a Finish last.

    `sdk` is the module whose exceptions `call` raises. The call is repeated where the server refuses a parameter of
    `attempt`. `pace` is awaited before the body is read again. Safe to cancel:
    cancelling or closing the generator closes the HTTP response, so the provider stops generating. Raises
    ProviderError.
    """
    opened = begun = False
    request_id = ""
    finish: Finish | None = None
    reader = new_reader()
    try:
        try:
            while finish is None:
                async with (
                    _opened(sdk, call, attempt) as response,
                    aclosing(response.http_response.aiter_bytes()) as body,
                ):
                    opened = True
                    request_id = _request_id(response.http_response.headers)
                    reading = Reading(reader)
                    reads = 0
                    while reading.open:
                        reads += 1
                        if reading.paces:
                            await pace()
                        elif not reads % READS_AT_ONCE:
                            await asyncio.sleep(0)
                        # An exception's own path costs nothing for each token.
                        chunk: bytes | Exception | None
                        try:
                            chunk = await (_next(body, reading.expires_at) if reading.expires_at else anext(body))
                        except StopAsyncIteration:
                            chunk = None
                        except _BROKEN as error:
                            chunk = error
                        except (ValueError, zlib.error):
                            chunk = malformed()
                        for piece in reading.feed(chunk):
                            begun = True
                            yield piece
                    if reading.failure is not None:
                        if begun or not _refused(attempt, reading.failure):
                            raise reading.failure
                        reader = new_reader()
                        continue
                    finish = reader.finish()
                    if reading.over:
                        await _settle(body)
        except sdk.APIStatusError as error:
            failure = of_reply(error.status_code, error.body)
            failure.retry_after = retry_after(error.response.headers)
            request_id = _request_id(error.response.headers)
            raise failure from None
        except (sdk.APIConnectionError, *_BROKEN) as error:
            raise _broken(error, opened=opened) from None
        except (ValueError, TypeError):
            if opened:
                raise
            # The SDK refuses a request before it sends it, for example for a header that HTTP does not allow.
            raise misconfigured() from None
    except ProviderError as error:
        error.usage = reader.usage
        if request_id:
            error.add_note(f"request id {request_id}")
        raise
    yield finish


def _refused(attempt: Attempt, failure: Exception) -> bool:
    """Tell whether a body with status 200 refuses a parameter, and the request is to be sent again."""
    rejection = failure.rejection if isinstance(failure, ProviderError) else None
    return rejection is not None and attempt.refused(*rejection)


@asynccontextmanager
async def _opened(sdk: ModuleType, call: Call, attempt: Attempt) -> AsyncIterator[Opened]:
    """Make the call, again while the server refuses a parameter. Safe to cancel."""
    while True:
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(call(extra_body=attempt.fields))
            except sdk.APIStatusError as error:
                if attempt.refused(error.status_code, error.body):
                    continue
                raise
            if changed := attempt.accepted():
                logger.warning("parameters_refused", extra={"target": attempt.target, "parameters": changed})
            yield response
            return


class Reading:
    """What was read of the body of one answer."""

    def __init__(self, reader: Reader) -> None:
        self.open = True
        """Whether there is more to read."""
        self.over = False
        """Whether the terminal marker was read; otherwise the connection cannot be used again."""
        self.failure: Exception | None = None
        """Why the answer failed; its text before that is kept."""
        self.expires_at = 0.0
        """The time of the event loop at which nothing more is waited for; 0 before the reason for the end."""
        self.paces = False
        """Whether there is to be a pause before the next read."""
        self._reader = reader
        self._stream = EventStream()
        self._pieces = Coalescer()
        self._tags: ThinkTags | None = ThinkTags()
        self._silent_bytes = 0
        """Since the last text."""

    def feed(self, chunk: bytes | Exception | None) -> list[Text | Reasoning]:
        """Add the bytes that were read, None at the end of the body, or what broke it; return the text that is new."""
        failure: Exception | None = self._parse(chunk)
        taken = self._pieces.take()
        if taken:
            self._silent_bytes = 0
        elif isinstance(chunk, bytes):
            self._silent_bytes += len(chunk)
            if self._silent_bytes > MAX_SILENT_BYTES:
                failure = failure or malformed()
        if isinstance(chunk, bytes):
            if failure is None and self._tags is None and not self._reader.ended:
                # No pause before the first piece: it must not be delayed.
                self.paces = bool(taken) and len(chunk) < FULL_READ_BYTES
                return taken
        elif failure is None:
            failure = chunk
        last = self.over or failure is not None or chunk is None
        unclear = self._unclear(chunk) if last else None
        if self._tags is not None:
            taken = _separated(self._tags, taken, last=last)
            if self._tags.over:
                self._tags = None
        self.open = not last
        if unclear is not None and (not isinstance(failure, ProviderError) or failure.code == "provider_malformed"):
            self.failure = unclear
        elif self._reader.ended:
            # What befalls the connection now does not concern the answer.
            self.paces = False
            if taken or not self.expires_at:
                self.expires_at = asyncio.get_running_loop().time() + ENDED_TIMEOUT_S
        else:
            self.failure = failure
            self.paces = bool(taken) and isinstance(chunk, bytes) and len(chunk) < FULL_READ_BYTES
        return taken

    def _unclear(self, chunk: bytes | Exception | None) -> ProviderError | None:
        """Return the error that a body reports in an unusual shape, if it contains nothing of an answer."""
        if self._pieces.begun or self._reader.reason is not None:
            return None
        if self._pieces.unclear is not None or chunk is not None or self._reader.ended:
            return self._pieces.unclear
        return of_body(self._stream.text.decode("utf-8", "replace"))

    def _parse(self, chunk: bytes | Exception | None) -> ProviderError | None:
        """Parse the next bytes, or what is left at the end; return a failure that they report, or are."""
        last = not isinstance(chunk, bytes)
        stream, reader = self._stream, self._reader
        try:
            for data in stream.feed(chunk) if isinstance(chunk, bytes) else stream.close():
                if reader.read(data, self._pieces):
                    self.over = True
                    return None
            if chunk is None and stream.bare:
                reader.read_document()
        except EventTooLargeError:
            return malformed()
        except ProviderError as error:
            # The last event of a body that was cut off is incomplete.
            return None if last and error.code == "provider_malformed" else error
        return None


async def _next(body: AsyncIterator[bytes], expires_at: float) -> bytes | None:
    """Return the next bytes; None after `expires_at`."""
    try:
        async with asyncio.timeout_at(expires_at):
            return await anext(body)
    except TimeoutError:
        return None


def _separated(tags: ThinkTags, pieces: list[Text | Reasoning], *, last: bool) -> list[Text | Reasoning]:
    """Return the pieces with text between reasoning tags as reasoning."""
    separated: list[Text | Reasoning] = []
    for piece in pieces:
        if isinstance(piece, Text):
            separated += [_KINDS[kind](text) for kind, text in tags.feed(piece.text)]
        else:
            separated.append(piece)
    if last:
        separated += [_KINDS[kind](text) for kind, text in tags.close()]
    return separated


_KINDS: Final[dict[str, type[Text | Reasoning]]] = {"text": Text, "reasoning": Reasoning}


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


def _broken(error: BaseException, *, opened: bool) -> ProviderError:
    """Return the error for a connection that broke, or that was not opened."""
    if _timed_out(error):
        return ProviderError("provider_timeout", "The model provider did not answer in time.", retryable=True)
    if opened:
        return incomplete()
    return ProviderError("provider_unreachable", "The model provider cannot be reached.", retryable=True)


def _timed_out(error: BaseException) -> bool:
    """Return whether the root cause is a timeout: the SDKs' HTTP client reports refused connections as timeouts too."""
    while error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, TimeoutError | httpx2.TimeoutException)


def _request_id(headers: Mapping[str, str]) -> str:
    """Return the provider's name of a call, for its support, in safe characters; "" if it sent none."""
    # Names of OpenAI and most others, and of Anthropic.
    return reasons.detail(headers.get("x-request-id") or headers.get("request-id") or "")


def finished(reason: str | None, failure: ProviderError | None) -> FinishReason:
    """Return how an answer ended; raise ProviderError for a reason that is not known, which is never a success.

    `reason`: None if the provider sent its terminal marker without one. `failure`: an error after the reason.
    """
    known = "complete" if reason is None else reasons.known(reason)
    if known is None:
        raise failure or stopped(reasons.detail(reason or ""))
    return known


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
