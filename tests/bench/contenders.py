"""Every contender, by name; the peers need programs that are not everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .null import Null
from .peers import peers
from .tokenwire import Tokenwire

if TYPE_CHECKING:
    from .contender import Contender


def contenders(*, durable: bool = True) -> dict[str, Contender]:
    """The null server first, the product second; without `durable` its store keeps nothing on disk."""
    own: tuple[Contender, ...] = (
        Null(),
        Tokenwire("tokenwire", durable=durable),
        Tokenwire("tokenwire-each", window=0.0, durable=durable),
    )
    return {contender.name: contender for contender in (*own, *peers(durable=durable))}
