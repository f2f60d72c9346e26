"""The provider loop: calls the targets of an alias until one has answered, and passes their output to the writer."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gateway.streams import log_entries
from gateway.streams.log_entries import End, Problem, Waiting
from gateway.streams.log_fields import error_fields
from workers import metrics, prompt
from workers.overlap import OverlapFilter
from workers.provider_call import ProviderCall
from workers.providers import Finish, ProviderError, Reasoning, Text, checked
from workers.retry_policy import Budget, Call, RetryPolicy
from workers.shown_text import ShownText

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workers.breakers import Breakers
    from workers.options import GenerationOptions
    from workers.providers import Request, Served
    from workers.writer import Writer

logger = logging.getLogger(__name__)

RESCHEDULE_FACTOR = 1.1
"""The idle timeout fires up to this factor late: rescheduling it for every event would cost as much as reading one."""

EMPTY: Final = "The model gave no answer. Try again."
SILENT: Final = "The model stopped responding."
PAUSED: Final = "The model provider fails at present. Try again soon."

BYTES_PER_TOKEN: Final = 4
"""Of text, about: a provider that is cut off reports no usage."""

CHECK_INTERVAL_S: Final = 1.0
"""Mean time between two looks at a breaker by an answer that waits."""


class ProviderLoop:
    """The provider calls of one attempt."""

    def __init__(
        self,
        targets: Sequence[Served],
        breakers: Breakers,
        writer: Writer,
        options: GenerationOptions,
        trace: str | None,
        log_fields: dict[str, Any],
    ) -> None:
        """`targets`: those of the alias, in order of preference. `trace`: the traceparent of the attempt."""
        self._targets = targets
        self._breakers = breakers
        self._writer = writer
        self._options = options
        self._trace = trace
        self._log_fields = log_fields
        self._random = random.random
        self._timeout: asyncio.Timeout | None = None
        """Of the next event, while a call is read."""
        self._usage: Counter[str] = Counter()
        """Of the calls that have failed."""
        self._unreported_tokens = 0
        """An estimate of the output of the failed calls whose usage the provider did not report."""

    async def run(self, request: Request, partial: str) -> End:
        """Read an answer from the targets; return how it ended. `partial`: text that is shown, and is continued.

        A call that fails before its first token is repeated, or made at the next target. After a call that fails later,
        the next target continues the text that is shown. Safe to cancel: the provider call is closed.
        """
        options, targets = self._options, self._targets
        # A single target never continues what it began.
        shown = ShownText(partial, grows=len(targets) > 1)
        budget = Budget(options.max_calls, options.provider_patience_s, options.max_call_tokens)
        policy = RetryPolicy(len(targets), budget, _now(), self._random)
        call: Call | None = policy.first(_now(), self._blocked_s())
        error = ProviderError("provider_overloaded", PAUSED, retryable=True)
        # Without authentication a conversation is the nearest thing to a user.
        user = request.user or request.conversation
        while call is not None and (call := await self._wait(call, policy)) is not None:
            served = targets[call.target]
            self._breakers.of(served).called(user, _now())
            result, received = await self._call(served, request, shown)
            if isinstance(result, End):
                return result
            error = result
            self._usage.update(error.usage)
            self._breakers.failed(served, error, user, _now())
            failed, tokens = call, self._usage["input_tokens"] + self._usage["output_tokens"]
            call = policy.next(error, _now(), self._blocked_s(), received=received, tokens=tokens)
            fields = {**self._log_fields, "target": served.label, "code": error.code, "status": _status(error)}
            logger.warning("provider_failed", extra={**fields, "retries": call is not None})
            if call is None:
                break
            metrics.PROVIDER_WAITS.labels(metrics.code_label(error.code)).inc()
            if call.target != failed.target:
                metrics.SWITCHES.labels("yes" if shown else "no").inc()
                if shown:
                    self._add_waiting(0.0, error.code)
        problem = Problem(error.code, error.message, error.detail or None)
        return End("failed", error=problem, usage=self._total({}), retryable=policy.retryable)

    async def _wait(self, call: Call, policy: RetryPolicy) -> Call | None:
        """Wait until a call may be made; return it. None: a breaker that opened meanwhile stays open for too long."""
        chosen: Call | None = call
        if call.pause_s:
            self._add_waiting(call.pause_s)
        while chosen is not None and chosen.pause_s:
            # In steps of different lengths: a breaker may close earlier, and not all answers may return at once.
            await asyncio.sleep(min(chosen.pause_s, CHECK_INTERVAL_S * (0.5 + self._random())))
            chosen = policy.again(_now(), self._blocked_s())
        return chosen

    def extend(self, seconds: float) -> None:
        """Give the provider this much longer for its next event: the event loop was blocked and read nothing."""
        if self._timeout is not None and (expires_at := self._timeout.when()) is not None:
            # It raises RuntimeError if the call has ended or its time is up.
            with suppress(RuntimeError):
                self._timeout.reschedule(expires_at + seconds)

    def _blocked_s(self) -> list[float]:
        return self._breakers.blocked_s(self._targets, _now())

    def _add_waiting(self, pause_s: float, switched: str | None = None) -> None:
        self._writer.add_entry(log_entries.encode(log_entries.WAITING, Waiting(round(pause_s, 1), switched)))

    def _total(self, usage: Mapping[str, int]) -> dict[str, int] | None:
        total = self._usage + Counter(usage)
        return {name: min(total[name], log_entries.MAX_COUNT) for name in {**self._usage, **usage}} or None

    async def _call(self, served: Served, request: Request, shown: ShownText) -> tuple[End | ProviderError, bool]:
        """Make one call; return the end of the answer or why the call failed, and whether it produced output."""
        before = shown.text
        used = self._usage["output_tokens"] + self._unreported_tokens
        request = prompt.continued(
            _limited(request, served, used),
            before,
            prefill=served.prefill,
            max_characters=self._options.max_prompt_characters,
        )
        overlap = OverlapFilter(before)
        call = ProviderCall(served.name, served.model, request, self._trace)
        code = "internal"
        try:
            end = await self._read(served, call, request, overlap, shown)
            code = ""
            self._breakers.succeeded(served)
            return end, call.received
        except TimeoutError:
            error = ProviderError("provider_silent", SILENT, retryable=True)
            code = error.code
        except ProviderError as failure:
            # Checked here, so that it holds for every provider: the code is written, and labels a metric.
            error = checked.failure(failure)
            code = error.code
            cause = failure.__cause__ or (failure if error is not failure else None)
            if cause is not None:
                # Text of an exception is logged here alone: it is the operator's own code that raised it.
                fields = {**self._log_fields, **error_fields(cause)}
                logger.error("generator_failed", extra=fields, exc_info=checked.operator_traceback(cause))
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            call.finish(code)
        # What the overlap filter still holds may be a repetition that was cut off. The next call gives it again.
        shown.drop_half_character()
        self._writer.drop_half_character()
        if "output_tokens" not in error.usage:
            self._unreported_tokens += len(shown.text[len(before) :].encode()) // BYTES_PER_TOKEN
        return error, call.received

    async def _read(
        self, served: Served, call: ProviderCall, request: Request, overlap: OverlapFilter, shown: ShownText
    ) -> End:
        """Read one call to its end; raises TimeoutError, ProviderError."""
        idle_timeout_s = self._options.idle_timeout_s
        async with (
            call.reading(served.provider(request)) as events,
            asyncio.timeout(self._options.first_token_timeout_s) as timeout,
        ):
            self._timeout = timeout
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
                        self._show(overlap.feed(text), shown)
                    case Reasoning(str(text)):
                        self._writer.add_text(log_entries.REASONING, text)
                    case Finish() as last if (finish := checked.finish(last)) is not None:
                        call.used(finish.usage)
                        self._show(overlap.close(), shown)
                        if finish.reason == "complete" and shown.blank:
                            empty = ProviderError("empty", EMPTY, retryable=True)
                            empty.usage = finish.usage
                            raise empty
                        return End(
                            finish.reason, usage=self._total(finish.usage), retryable=finish.reason != "complete"
                        )
                    case _:
                        raise ProviderError(checked.FAILED, checked.MESSAGE, retryable=False)
                if self._writer.full:
                    return End("length", usage=self._total({}), retryable=False)
        raise ProviderError("provider_incomplete", "The answer ended before it was complete.", retryable=True)

    def _show(self, text: str, shown: ShownText) -> None:
        if text:
            shown.add(text)
            self._writer.add_text(log_entries.TEXT, text)


def _limited(request: Request, served: Served, used_tokens: int) -> Request:
    """Return the request with what is left of its limit after the calls that have ended."""
    if request.max_tokens is not None:
        request = dataclasses.replace(request, max_tokens=max(1, request.max_tokens - used_tokens))
    return dataclasses.replace(request, model=served.model)


def _status(error: ProviderError) -> str | None:
    """Return the HTTP status and request id of a failure, which are its notes."""
    return "; ".join(getattr(error, "__notes__", ())) or None


def _now() -> float:
    return asyncio.get_running_loop().time()
