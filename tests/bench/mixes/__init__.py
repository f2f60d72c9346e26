"""The mixes of the benchmark; each module defines one kind of load and how it is run."""

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
    """A kind of load and how it is run."""

    @property
    def name(self) -> str:
        """Return the name for the command line and the tables."""

    @property
    def title(self) -> str:
        """Return a one-line description."""

    @property
    def default_contenders(self) -> tuple[str, ...]:
        """Return the contenders that run by default."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the figures of its table, in order."""

    @property
    def open(self) -> bool:
        """Return whether other contenders can run too."""

    @property
    def single_round(self) -> bool:
        """Return whether it runs in the first round only, unless all rounds are requested."""

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """Run it once and measure for `seconds`; raises RuntimeError, OSError, LoadError."""


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
