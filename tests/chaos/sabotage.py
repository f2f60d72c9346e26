"""Protections, each taken away in a child process: what the checker must then find shows that it can.

Nothing of this can be reached by a setting of the product.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


def count_on_a_signal() -> None:
    """No protection: SIGUSR1 lets the process say what it holds, for the soak."""
    from gateway.streams import store

    initialize = store.Store.__init__

    def noted(self: store.Store, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **options)

        def say() -> None:
            pool: Any = self.client.connection_pool
            counts = {
                "tasks": len(asyncio.all_tasks()),
                "in_use": len(pool._in_use_connections),
                "idle": len(pool._available_connections),
            }
            print(f"CENSUS {json.dumps(counts)}", flush=True)

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say)

    store.Store.__init__ = noted  # type: ignore[method-assign]


ALL: Final[dict[str, Callable[[], None]]] = {"census": count_on_a_signal}
