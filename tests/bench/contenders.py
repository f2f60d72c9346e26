"""All contenders by name. Peers need programs that may be absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .null import Null
from .peers import peers
from .tokenwire import Tokenwire

if TYPE_CHECKING:
    from .contender import Contender


def contenders(*, durable: bool = True) -> dict[str, Contender]:
    """Return the null server, the product and the peers. Without `durable` their stores write no files."""
    own: tuple[Contender, ...] = (
        Null(),
        Tokenwire("tokenwire", durable=durable),
        Tokenwire("tokenwire-each", window=0.0, durable=durable),
    )
    return {contender.name: contender for contender in (*own, *peers(durable=durable))}
