"""The peers: what others build, started as their documentation says, for the same tokens and the same viewers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .nats import Nats
from .nchan import Nchan
from .socketio import SocketIo
from .textbook import Textbook
from .ws import Ws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..contender import Contender


def peers(*, durable: bool = True) -> Sequence[Contender]:
    """All of them; without `durable` the Redis of those that have one keeps nothing on disk."""
    return Nchan(), Nats(), Ws(durable=durable), SocketIo(durable=durable), Textbook(durable=durable)
