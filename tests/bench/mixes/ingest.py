"""W and P: a real worker between a provider and Redis; in P with the gateway and its viewers behind it.

The load generator is the provider, so the provider's clock is the clock of the viewers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.streams import keys, log_entries

from .. import tokenwire
from ..load import TOKEN_BYTES
from ..run import WARM_UP, session
from .fan_out import DELAYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from ..contender import Contender, Place, Running
    from ..provider import Sdk
    from ..result import Result
    from ..run import Machine

ENDS_WITHIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Ingest:
    """`streams` answers at `rate` tokens a second from a provider through its official SDK; `viewers` of each answer.

    Without viewers there is no gateway, and the worker has the CPU of what is measured.
    """

    name: str
    sdk: Sdk
    streams: int
    viewers: int
    rate: float
    beside: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    long: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Mix`."""
        worker = ("worker_us", "worker_cores", "redis_us", "appended_per_s", "load_cores")
        return ("gateway_us", "gateway_cores", *DELAYS, *worker) if self.viewers else worker

    @property
    def title(self) -> str:
        """Its numbers."""
        watched = f", {self.viewers} viewers each" if self.viewers else ""
        return f"worker: {self.streams} provider streams x {self.rate:g} tokens/s through {self.sdk}{watched}"

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        assert isinstance(contender, tokenwire.Tokenwire)
        tokens = int(self.rate * (seconds + WARM_UP + 10.0)) + 100
        chain = _Chain(contender, self)
        with session(chain, machine, self.streams, tokens) as at:
            if self.viewers:
                at.connect(self.streams * self.viewers)
            chain.start_worker(at.place)
            called = at.load.do("calls 30", 60)
            if called["calls"] < self.streams:
                raise RuntimeError(f"the worker made {called['calls']} of {self.streams} calls: {called['problem']}")
            at.begin(self.rate, seconds)
            logs = _Logs(chain.client, [stream.response for stream in at.running.streams])
            before = logs.tokens()
            at.measure(seconds)
            appended = logs.tokens() - before
            # What the worker did, not what the provider said: it may be behind.
            spent = at.figures["worker_cores"] * seconds
            at.figures["worker_us"] = 1e6 * spent / max(appended, 1)
            at.figures["appended_per_s"] = appended / seconds
            result = at.finish(self.name, ENDS_WITHIN)
            problem = logs.check(ENDS_WITHIN)
            if problem:
                result.faults["log"] = 1
                result.problem = result.problem or problem
            return result


class _Chain:
    """The product with its own worker, as a contender."""

    def __init__(self, product: tokenwire.Tokenwire, mix: Ingest) -> None:
        self.name = product.name
        self._product = product
        self._mix = mix
        self._worker: Any = None

    def missing(self) -> str | None:
        return self._product.missing()

    def start(self, place: Place, streams: int) -> Running:
        """Everything but the worker, which can only start when the load generator listens."""
        mix = self._mix
        running, store = self._product.chain(place, streams, mix.sdk, gateway=bool(mix.viewers))
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

    def start_worker(self, place: Place) -> None:
        """Start the worker on the CPU of what is measured, or beside the load where that is the gateway."""
        cpus = place.load if self._mix.viewers else place.server
        port = self._running.publisher.address[1]
        self._worker = tokenwire.start_worker(self._store_url, self._mix.sdk, port, cpus, place)
        self._running.processes = {**self._running.processes, "worker": (self._worker.pid,)}


class _Logs:
    """The logs of a run, read on from where they were read to."""

    def __init__(self, client: Redis, responses: Sequence[str]) -> None:
        self._client = client
        self._responses = responses
        self._last = dict.fromkeys(responses, "-")
        self._text = dict.fromkeys(responses, b"")
        self._ended: dict[str, bytes] = {}

    def tokens(self) -> int:
        """How many tokens the logs hold now."""
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
        """Wait until every log has its end; what is wrong with the first that is not what the provider said, or ""."""
        deadline = time.monotonic() + within
        self.tokens()
        while len(self._ended) < len(self._responses) and time.monotonic() < deadline:
            time.sleep(0.1)
            self.tokens()
        for index, response in enumerate(self._responses):
            text, end = self._text[response], self._ended.get(response, b"")
            said = b"".join(b" %03x%05d" % (index, number) for number in range(len(text) // TOKEN_BYTES))
            if text != said or not text:
                return f"the log of {response} is not what the provider said"
            if b'"complete"' not in end:
                return f"the log of {response} has the end {end[:80]!r}"
        return ""


INGEST: Final = (
    Ingest("W-openai", "openai", 50, 0, 200),
    Ingest("W-anthropic", "anthropic", 50, 0, 200),
    Ingest("P", "openai", 20, 80, 30),
)
