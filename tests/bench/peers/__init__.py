"""The peers: other servers, set up as documented, for the same tokens and viewers."""

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
    """Return all peers. Without `durable` their Redis writes no file."""
    return Nchan(), Nats(), Ws(durable=durable), SocketIo(durable=durable), Textbook(durable=durable)
