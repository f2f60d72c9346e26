"""R: the work of Redis per token must not depend on the number of viewers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..result import Result
from .fan_out import FanOut

if TYPE_CHECKING:
    from ..contender import Contender
    from ..run import Machine

FEW: Final = 10
MANY: Final = 1000


@dataclass(frozen=True, slots=True)
class Independence:
    """The same stream with few and with many viewers; Redis counts commands and bytes (INFO stats)."""

    name: str = "R"
    title: str = f"1 stream x 50 tokens/s with {FEW} and with {MANY} viewers: the work of Redis"
    default_contenders: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    single_round: bool = True
    columns: tuple[str, ...] = (
        *(f"{what}_{viewers}" for what in ("commands", "received", "sent") for viewers in (FEW, MANY)),
        "commands_ratio",
        "bytes_ratio",
    )

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        few, many = (FanOut(self.name, 1, viewers, 50).run(contender, machine, seconds) for viewers in (FEW, MANY))
        result = Result(self.name, contender.name, {"canary": many.figures["canary"]}, few.faults | many.faults)
        result.problem = few.problem or many.problem
        for what in ("commands", "received", "sent"):
            result.figures[f"{what}_{FEW}"] = few.figures[f"redis_{what}_per_token"]
            result.figures[f"{what}_{MANY}"] = many.figures[f"redis_{what}_per_token"]
        figures = result.figures
        figures["commands_ratio"] = figures[f"commands_{MANY}"] / figures[f"commands_{FEW}"]
        figures["bytes_ratio"] = (figures[f"received_{MANY}"] + figures[f"sent_{MANY}"]) / (
            figures[f"received_{FEW}"] + figures[f"sent_{FEW}"]
        )
        return result
