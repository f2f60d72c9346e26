"""Performance targets as data, and the assessment of measured figures against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .result import Summary


@dataclass(frozen=True, slots=True)
class Target:
    """Bounds of one figure of the product in one mix.

    With `peer`, the figure is divided by the same figure of that contender in the same mix.
    """

    mix: str
    figure: str
    label: str
    required: float
    goal: float
    unit: str = ""
    peer: str | None = None
    minimum: bool = False
    """Whether the bounds are minima instead of maxima."""

    def meets(self, value: float, bound: float) -> bool:
        """Return whether a value is within a bound."""
        return value >= bound if self.minimum else value <= bound


@dataclass(frozen=True, slots=True)
class Assessment:
    """A target and the measured value; None if it was not measured."""

    target: Target
    value: float | None

    @property
    def met(self) -> str:
        """Return `goal`, `required`, `NO` or `not measured`."""
        if self.value is None:
            return "not measured"
        if self.target.meets(self.value, self.target.goal):
            return "goal"
        return "required" if self.target.meets(self.value, self.target.required) else "NO"


TARGETS: Final = (
    Target("A20", "gateway_us/null", "gateway CPU per token, relative to the null server", 1.25, 1.25, "x"),
    Target("A20", "gateway_us", "gateway CPU per token, relative to nchan", 1.1, 1.0, "x", peer="nchan"),
    Target("A200", "gateway_us", "gateway CPU per token", 6.0, 4.0, "us"),
    Target("A200", "gateway_us", "gateway CPU per token, relative to NATS", 1.0, 1.0, "x", peer="nats"),
    Target("A600", "tokens_per_s", "deliveries a second on one core", 500_000, 590_000, "/s", minimum=True),
    Target("A600", "delay_p99_ms", "delay, 99th percentile", 50, 20, "ms"),
    Target("B", "gateway_us/null", "gateway CPU per token, relative to the null server", 1.5, 1.25, "x"),
    Target("C20", "gateway_us", "gateway CPU per token with ingest, relative to NATS", 1.0, 0.8, "x", peer="nats"),
    Target("C50", "gateway_us", "gateway CPU per token with ingest, relative to NATS", 1.0, 0.8, "x", peer="nats"),
    Target("C25", "delay_p99_ms", "delay at 25,000 tokens/s, 99th percentile", 40, 20, "ms"),
    Target("C25", "redis_us", "Redis CPU per token", 12, 5, "us"),
    Target("D", "gateway_us", "gateway CPU per token", 2, 1, "us"),
    Target("P", "delay_p50_ms", "added delay, provider to socket, median", 3, 2, "ms"),
    Target("P", "delay_p99_ms", "added delay, provider to socket, 99th percentile", 20, 10, "ms"),
    Target("E", "socket_bytes", "memory per idle socket", 16 * 1024, 12 * 1024, "bytes"),
    Target("E", "idle_us_per_s", "CPU per idle socket", 4, 2, "us/s"),
    Target("F", "caught_up_p99_s", "99 % of 5,000 viewers caught up", 5, 3, "s"),
    Target("F", "reads_per_log", "reads per log and gateway", 1, 1),
    Target("F-cold", "caught_up_p99_s", "the same on another gateway", 5, 3, "s"),
    Target("F-cold", "reads_per_log", "reads per log and gateway", 1, 1),
    Target("G", "others_p99_ratio", "99th percentile of the others, relative to before", 1.10, 1.05, "x"),
    Target("G", "stopped_bytes", "memory per stopped viewer", 64 * 1024, 64 * 1024, "bytes"),
    Target("H", "bytes_of_text", "bytes to the live edge, relative to the text", 1.1, 1.1, "x"),
    Target("W-openai", "worker_us", "worker CPU per token through openai", 90, 60, "us"),
    Target("W-anthropic", "worker_us", "worker CPU per token through anthropic", 90, 60, "us"),
    Target("W20", "worker_us", "worker CPU per token, 20 streams of 40 tokens a second", 128, 60, "us"),
    Target("W100", "worker_us", "worker CPU per token, 100 streams of 40 tokens a second", 92, 45, "us"),
    Target("W300", "worker_us", "worker CPU per token, 300 streams of 40 tokens a second", 46, 30, "us"),
    Target("R", "commands_ratio", "Redis commands per token, 1000 relative to 10 viewers", 1.02, 1.02, "x"),
    Target("R", "bytes_ratio", "Redis bytes per token, 1000 relative to 10 viewers", 1.02, 1.02, "x"),
)


def assessments(summaries: Sequence[Summary], product: str = "tokenwire") -> list[Assessment]:
    """Return each target with its measured value."""
    by_name = {(each.mix, each.contender): each.figures for each in summaries}
    return [Assessment(target, _value(target, by_name, product)) for target in TARGETS]


def _value(
    target: Target, by_name: Mapping[tuple[str, str], Mapping[str, tuple[float, float, float]]], product: str
) -> float | None:
    own = by_name.get((target.mix, product), {}).get(target.figure)
    if own is None or target.peer is None:
        return own[0] if own else None
    other = by_name.get((target.mix, target.peer), {}).get(target.figure)
    return own[0] / other[0] if other and other[0] else None
