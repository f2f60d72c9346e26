"""The mixes of the benchmark, by the names of its table; each module holds one kind and how it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from .fan_out import FAN_OUT, SWEEP
from .idle import Idle
from .independence import Independence
from .ingest import INGEST
from .late import Late
from .stopped import Stopped
from .storm import STORMS

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine


class Mix(Protocol):
    """One kind of load, and how it is run."""

    @property
    def name(self) -> str:
        """As on the command line and in the table."""

    @property
    def title(self) -> str:
        """What happens, in a line."""

    @property
    def beside(self) -> tuple[str, ...]:
        """The contenders that run in it unless others are asked for."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The figures that are shown of it, in order."""

    @property
    def open(self) -> bool:
        """Whether contenders that `beside` does not name can run in it."""

    @property
    def long(self) -> bool:
        """Whether one round of it must do, where time is short."""

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """Run it once, measuring for `seconds`; raises RuntimeError, OSError, LoadError."""


MIXES: Final[tuple[Mix, ...]] = (
    *FAN_OUT,
    Idle(),
    *STORMS,
    Stopped(),
    Late(),
    *INGEST,
    Independence(),
)

__all__ = ["MIXES", "SWEEP", "Mix"]
