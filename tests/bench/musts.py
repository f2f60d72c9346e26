"""What the figures must be and what they are meant to become: a table as data, and where a run stands in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .result import Summary


@dataclass(frozen=True, slots=True)
class Must:
    """One figure of the product in one mix, and its bounds.

    With `peer` the figure is divided by the same figure of that contender in the same mix.
    """

    mix: str
    figure: str
    what: str
    must: float
    aim: float
    unit: str = ""
    peer: str | None = None
    least: bool = False
    """The bounds are from below."""

    def meets(self, value: float, bound: float) -> bool:
        """Whether a value is within a bound."""
        return value >= bound if self.least else value <= bound


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands: `value` is None where it was not measured."""

    must: Must
    value: float | None

    @property
    def reached(self) -> str:
        """In a word: aim, must, no, or not measured."""
        if self.value is None:
            return "not measured"
        if self.must.meets(self.value, self.must.aim):
            return "aim"
        return "must" if self.must.meets(self.value, self.must.must) else "NO"


MUSTS: Final = (
    Must("A20", "gateway_us/null", "gateway CPU per token, of the null server's", 1.25, 1.25, "x"),
    Must("A20", "gateway_us", "gateway CPU per token, of nchan's", 1.1, 1.0, "x", peer="nchan"),
    Must("A200", "gateway_us", "gateway CPU per token", 6.0, 4.0, "us"),
    Must("A200", "gateway_us", "gateway CPU per token, of NATS's", 1.0, 1.0, "x", peer="nats"),
    Must("A600", "tokens_per_s", "deliveries a second on one core", 500_000, 590_000, "/s", least=True),
    Must("A600", "delay_p99_ms", "delay, 99th percentile", 50, 20, "ms"),
    Must("B", "gateway_us/null", "gateway CPU per token, of the null server's", 1.5, 1.25, "x"),
    Must("C20", "gateway_us", "gateway CPU per token with ingest, of NATS's", 1.0, 0.8, "x", peer="nats"),
    Must("C50", "gateway_us", "gateway CPU per token with ingest, of NATS's", 1.0, 0.8, "x", peer="nats"),
    Must("C25", "delay_p99_ms", "delay at 25,000 tokens/s, 99th percentile", 40, 20, "ms"),
    Must("C25", "redis_us", "Redis CPU per token", 12, 5, "us"),
    Must("D", "gateway_us", "gateway CPU per token", 2, 1, "us"),
    Must("P", "delay_p50_ms", "added delay, provider to socket, median", 3, 2, "ms"),
    Must("P", "delay_p99_ms", "added delay, provider to socket, 99th percentile", 20, 10, "ms"),
    Must("E", "socket_bytes", "memory per idle socket", 16 * 1024, 12 * 1024, "bytes"),
    Must("E", "idle_us_per_s", "CPU per idle socket", 4, 2, "us/s"),
    Must("F", "caught_up_p99_s", "99 % of 5,000 viewers caught up", 5, 3, "s"),
    Must("F", "reads_per_log", "reads per log and gateway", 1, 1),
    Must("F-cold", "caught_up_p99_s", "the same on a gateway that knows nothing", 5, 3, "s"),
    Must("F-cold", "reads_per_log", "reads per log and gateway", 1, 1),
    Must("G", "others_p99_ratio", "99th percentile of the others, of theirs before", 1.10, 1.05, "x"),
    Must("G", "stopped_bytes", "memory per stopped viewer", 64 * 1024, 64 * 1024, "bytes"),
    Must("H", "bytes_of_text", "bytes to the live edge, of the text's", 1.1, 1.1, "x"),
    Must("W-openai", "worker_us", "worker CPU per token through openai", 90, 60, "us"),
    Must("W-anthropic", "worker_us", "worker CPU per token through anthropic", 90, 60, "us"),
    Must("R", "commands_ratio", "Redis commands per token, 1000 viewers of 10", 1.02, 1.02, "x"),
    Must("R", "bytes_ratio", "Redis bytes per token, 1000 viewers of 10", 1.02, 1.02, "x"),
)


def standings(summaries: Sequence[Summary], product: str = "tokenwire") -> list[Standing]:
    """Each must with what was measured of it."""
    by_name = {(each.mix, each.contender): each.figures for each in summaries}
    return [Standing(must, _value(must, by_name, product)) for must in MUSTS]


def _value(
    must: Must, by_name: Mapping[tuple[str, str], Mapping[str, tuple[float, float, float]]], product: str
) -> float | None:
    own = by_name.get((must.mix, product), {}).get(must.figure)
    if own is None or must.peer is None:
        return own[0] if own else None
    other = by_name.get((must.mix, must.peer), {}).get(must.figure)
    return own[0] / other[0] if other and other[0] else None
