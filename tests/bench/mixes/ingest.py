"""W and P: a real worker between a provider and Redis; P adds the gateway and its viewers.

The load generator is the provider, so provider and viewers share one clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.streams import keys, log_entries

from .. import tokenwire
from ..load import TOKEN_BYTES
from ..run import WARM_UP_S, session
from .fan_out import DELAYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from ..contender import Contender, Placement, Running
    from ..provider import Sdk
    from ..result import Result
    from ..run import Machine

END_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Ingest:
    """`streams` answers at `rate` tokens a second from a provider through its official SDK, with `viewers` each.

    Without viewers no gateway runs, and the worker uses the reserved CPU.
    """

    name: str
    sdk: Sdk
    streams: int
    viewers: int
    rate: float
    default_contenders: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    single_round: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Mix`."""
        worker = ("worker_us", "worker_cores", "redis_us", "appended_per_s", "load_cores")
        return ("gateway_us", "gateway_cores", *DELAYS, *worker) if self.viewers else worker

    @property
    def title(self) -> str:
        """Return its parameters."""
        watched = f", {self.viewers} viewers each" if self.viewers else ""
        return f"worker: {self.streams} provider streams x {self.rate:g} tokens/s through {self.sdk}{watched}"

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        assert isinstance(contender, tokenwire.Tokenwire)
        tokens = int(self.rate * (seconds + WARM_UP_S + 10.0)) + 100
        chain = _Chain(contender, self)
        with session(chain, machine, self.streams, tokens) as run:
            if self.viewers:
                run.connect(self.streams * self.viewers)
            chain.start_worker(run.placement)
            called = run.load.do("calls 30", 60)
            if called["calls"] < self.streams:
                raise RuntimeError(f"the worker made {called['calls']} of {self.streams} calls: {called['problem']}")
            run.start(self.rate, seconds)
            logs = _Logs(chain.client, [stream.response for stream in run.running.streams])
            before = logs.tokens()
            run.measure(seconds)
            appended = logs.tokens() - before
            # Count appended tokens, not sent ones: the worker may lag.
            spent = run.figures["worker_cores"] * seconds
            run.figures["worker_us"] = 1e6 * spent / max(appended, 1)
            run.figures["appended_per_s"] = appended / seconds
            result = run.finish(self.name, END_TIMEOUT_S)
            problem = logs.check(END_TIMEOUT_S)
            if problem:
                result.faults["log"] = 1
                result.problem = result.problem or problem
            return result


class _Chain:
    """The product with a real worker, as a contender."""

    def __init__(self, product: tokenwire.Tokenwire, mix: Ingest) -> None:
        self.name = product.name
        self._product = product
        self._mix = mix
        self._worker: Any = None

    def missing(self) -> str | None:
        return self._product.missing()

    def start(self, placement: Placement, streams: int) -> Running:
        """Start everything except the worker, which needs the listening load generator."""
        mix = self._mix
        running, store = self._product.chain(placement, streams, mix.sdk, gateway=bool(mix.viewers))
        self.client: Redis = store.client
        self._store_url = store.url
        self._running = running
        close = running.close

        def close_all() -> None:
            if self._worker is not None:
                self._worker.close()
            close()

        running.close = close_all
        return running

    def start_worker(self, placement: Placement) -> None:
        """Start the worker on the reserved CPU, or on the load CPU if the gateway has the reserved one."""
        cpus = placement.load if self._mix.viewers else placement.server
        port = self._running.publisher.address[1]
        self._worker = tokenwire.start_worker(self._store_url, self._mix.sdk, port, cpus, placement)
        self._running.processes = {**self._running.processes, "worker": (self._worker.pid,)}


class _Logs:
    """The logs of a run, read incrementally."""

    def __init__(self, client: Redis, responses: Sequence[str]) -> None:
        self._client = client
        self._responses = responses
        self._last = dict.fromkeys(responses, "-")
        self._text = dict.fromkeys(responses, b"")
        self._ended: dict[str, bytes] = {}

    def tokens(self) -> int:
        """Return the number of tokens in the logs."""
        pipeline = self._client.pipeline(transaction=False)
        for response in self._responses:
            pipeline.xrange(keys.log(response), min=self._last[response])
        for response, entries in zip(self._responses, pipeline.execute(), strict=True):
            for entry, fields in entries:
                value = fields[log_entries.FIELD]
                if value[:1] == log_entries.TEXT:
                    self._text[response] += value[1:]
                elif value[:1] == log_entries.END:
                    self._ended[response] = value[1:]
                self._last[response] = f"({entry.decode()}"
        return sum(len(text) for text in self._text.values()) // TOKEN_BYTES

    def check(self, within: float) -> str:
        """Wait for the end of every log; return the first difference from the provider's text, or an empty string."""
        deadline = time.monotonic() + within
        self.tokens()
        while len(self._ended) < len(self._responses) and time.monotonic() < deadline:
            time.sleep(0.1)
            self.tokens()
        for index, response in enumerate(self._responses):
            text, end = self._text[response], self._ended.get(response, b"")
            sent = b"".join(b" %03x%05d" % (index, number) for number in range(len(text) // TOKEN_BYTES))
            if text != sent or not text:
                return f"the log of {response} differs from the text of the provider"
            if b'"complete"' not in end:
                return f"the log of {response} has an unexpected end {end[:80]!r}"
        return ""


INGEST: Final = (
    Ingest("W-openai", "openai", 50, 0, 200),
    Ingest("W-anthropic", "anthropic", 50, 0, 200),
    # The rate of models: few tokens share a read, so a token costs more.
    Ingest("W20", "openai", 20, 0, 40),
    Ingest("W100", "openai", 100, 0, 40),
    Ingest("W300", "openai", 300, 0, 40),
    Ingest("P", "openai", 20, 80, 30),
)
