"""The provider loop: calls the provider, retries it before the first token, and passes its output to the writer."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

from gateway.streams import log_entries
from gateway.streams.log_entries import End, Problem, Waiting
from gateway.streams.log_fields import error_fields
from workers import metrics
from workers.provider_call import ProviderCall
from workers.providers import Finish, ProviderError, Reasoning, Text, checked
from workers.retry_policy import RetryPolicy

if TYPE_CHECKING:
    from workers.options import GenerationOptions
    from workers.overlap import OverlapFilter
    from workers.providers import Request, Served
    from workers.writer import Writer

logger = logging.getLogger(__name__)

RESCHEDULE_FACTOR = 1.1
"""The idle timeout fires up to this factor late: rescheduling it for every event would cost as much as reading one."""


class ProviderLoop:
    """The provider calls of one attempt."""

    def __init__(
        self, served: Served, writer: Writer, options: GenerationOptions, trace: str | None, log_fields: dict[str, Any]
    ) -> None:
        """`trace`: the traceparent of the attempt."""
        self._served = served
        self._writer = writer
        self._options = options
        self._trace = trace
        self._log_fields = log_fields

    async def run(self, request: Request, overlap: OverlapFilter) -> End:
        """Read an answer from the provider; return how it ended. Calls that fail before the first token are retried.

        Safe to cancel: the provider call is closed.
        """
        policy = RetryPolicy(self._options.retry_timeout_s, _now(), random.random)
        while True:
            call = ProviderCall(self._served.name, self._served.model, request, self._trace)
            code, cause = "internal", None
            try:
                end = await self._read(call, request, overlap)
                code = ""
                return end
            except TimeoutError:
                error = ProviderError("provider_silent", "The model stopped responding.", retryable=True)
                code = error.code
            except ProviderError as failure:
                # Checked here, so that it holds for every provider: the code is written, and labels a metric.
                error = checked.failure(failure)
                code = error.code
                cause = failure.__cause__ or (failure if error is not failure else None)
            except asyncio.CancelledError:
                code = "cancelled"
                raise
            finally:
                call.finish(code)
            if call.received:
                self._writer.add_text(log_entries.TEXT, overlap.close())
            pause_s = policy.pause_s(error, _now(), received=call.received)
            if pause_s is None:
                logger.info("provider_failed", extra={**self._log_fields, "code": error.code})
                if cause is not None:
                    logger.warning("generator_failed", extra={**self._log_fields, **error_fields(cause)})
                return End("failed", error=Problem(error.code, error.message), retryable=error.retryable)
            metrics.PROVIDER_WAITS.labels(metrics.code_label(error.code)).inc()
            self._writer.add_entry(log_entries.encode(log_entries.WAITING, Waiting(round(pause_s, 1))))
            await asyncio.sleep(pause_s)

    async def _read(self, call: ProviderCall, request: Request, overlap: OverlapFilter) -> End:
        """Read one call to its end; raises TimeoutError, ProviderError."""
        idle_timeout_s = self._options.idle_timeout_s
        async with (
            call.reading(self._served.provider(request)) as events,
            asyncio.timeout(self._options.first_token_timeout_s) as timeout,
        ):
            expires_at = 0.0
            async for event in events:
                now = _now()
                if now + idle_timeout_s > expires_at:
                    expires_at = now + idle_timeout_s * RESCHEDULE_FACTOR
                    timeout.reschedule(expires_at)
                if not call.received:
                    call.first_event(is_output=not isinstance(event, Finish))
                match event:
                    case Text(str(text)):
                        self._writer.add_text(log_entries.TEXT, overlap.feed(text))
                    case Reasoning(str(text)):
                        self._writer.add_text(log_entries.REASONING, text)
                    case Finish() as last if (finish := checked.finish(last)) is not None:
                        call.used(finish.usage)
                        self._writer.add_text(log_entries.TEXT, overlap.close())
                        usage = dict(finish.usage) or None
                        return End(finish.reason, usage=usage, retryable=finish.reason != "complete")
                    case _:
                        raise ProviderError(checked.FAILED, checked.MESSAGE, retryable=False)
                if self._writer.full:
                    return End("length", retryable=False)
        raise ProviderError("provider_incomplete", "The answer ended before it was complete.", retryable=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
