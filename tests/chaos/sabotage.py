"""Disables one protection of a child process each, to show that the checker detects its absence.

No setting of the product can do this.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


def print_counts_on_signal() -> None:
    """Make the process print its resource counts on SIGUSR1, for the soak test. Disables nothing."""
    from gateway.streams.store import store

    initialize = store.Store.__init__

    def initialize_and_listen(self: store.Store, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **options)

        def print_counts() -> None:
            pool: Any = self.client.connection_pool
            counts = {
                "tasks": len(asyncio.all_tasks()),
                "in_use": len(pool._in_use_connections),
                "idle": len(pool._available_connections),
            }
            print(f"COUNTS {json.dumps(counts)}", flush=True)

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print_counts)

    store.Store.__init__ = initialize_and_listen  # type: ignore[method-assign]


def _rewrite(script: str, old: bytes, new: bytes) -> None:
    """Replace a part of a Lua script before it is sent to the store."""
    from gateway.streams.store import store

    read = store._source

    def rewritten(name: str) -> bytes:
        source = read(name)
        assert name != script or old in source, f"{script} does not contain {old!r}"
        return source.replace(old, new) if name == script else source

    store._source = rewritten


CONDITION: Final = b"if last[1] ~= expected_id then return last[1] end"


def append_unconditionally() -> None:
    """Append without a condition: a tail that a failover lost is not detected and stays a gap."""
    _rewrite("append", CONDITION, b"")


def append_without_fence() -> None:
    """Disable the fence: a worker without its lease appends after the entries of its successor."""
    renumbered = b"""if last[1] ~= expected_id then
      local attempt, seq = string.match(last[1], '(%d+)-(%d+)')
      first_id = string.format('%s-%.0f', attempt, seq + 1)
    end"""
    _rewrite("append", CONDITION, renumbered)


def ignore_idempotency_keys() -> None:
    """Ignore idempotency keys: a repeated submit becomes a second message."""
    _rewrite("submit", b"if known[1] then", b"if false then")


def never_renew_leases() -> None:
    """Never renew leases: live workers are considered dead."""
    from workers.lease_keeper import LeaseKeeper
    from workers.pool import Pool

    async def wait_forever(_: Any) -> None:
        await asyncio.Event().wait()

    Pool._keep_leases = wait_forever  # type: ignore[method-assign, assignment]
    # On a busy machine the lease process believes from time to time that its worker is blocked.
    LeaseKeeper.beat = lambda _: None  # type: ignore[method-assign, assignment]


def never_take_over() -> None:
    """Never take over jobs of dead workers."""
    from gateway.streams import jobs
    from gateway.streams.liveness import RELEASED_ONLY

    candidates = jobs.candidates

    async def only_released(store: Any, partitions: Any, limit: int, rule: Any, models: Any) -> Any:
        return await candidates(store, partitions, limit, RELEASED_ONLY, models)

    jobs.candidates = only_released  # type: ignore[assignment]


def disable_reconciliation() -> None:
    """Disable reconciliation: a gateway never detects publishes that it missed."""
    from gateway.feed.reconciler import Reconciler

    async def wait_forever(_: Any, partition: int) -> None:
        await asyncio.Event().wait()

    Reconciler.run_partition = wait_forever  # type: ignore[method-assign, assignment]


def disable_gap_detection() -> None:
    """Disable gap detection: each publish is applied as if it followed the last entry."""
    from gateway import response_replica
    from gateway.replica import Outcome

    def new_entries(tail: Any, has: Any, previous: Any, entries: Any) -> Any:
        return [each for each in entries if tail is None or each[0].seq > tail.seq] or Outcome.KNOWN

    vars(response_replica)["new_entries"] = new_entries
    response_replica.ResponseReplica.receive = _receive  # type: ignore[method-assign]
    # An entry that is not the next one would be skipped as another program's, and the gap be repaired.
    response_replica.ResponseReplica._follows = lambda *_: True  # type: ignore[method-assign]


def _receive(self: Any, part: Any) -> Any:
    from gateway.replica import Outcome
    from gateway.streams import log_entries
    from gateway.streams.log_entries import LogId

    self.received = True
    first = log_entries.parse_log_id(part.first)
    if first is None or not part.values:
        return Outcome.GAP
    return self.extend(None, [(LogId(first.attempt, first.seq + n), value) for n, value in enumerate(part.values)])


def ignore_nonce() -> None:
    """Ignore the nonce: a cursor that was issued twice is not distinguished."""
    from gateway.response_replica import ResponseReplica

    def has(self: Any, cursor: Any) -> bool:
        return self.tail is not None and 1 <= cursor.seq <= self.tail.seq

    ResponseReplica.has = has  # type: ignore[method-assign]


ALL: Final[dict[str, Callable[[], None]]] = {
    "resource counts": print_counts_on_signal,
    "append condition": append_unconditionally,
    "fence": append_without_fence,
    "idempotency keys": ignore_idempotency_keys,
    "lease renewal": never_renew_leases,
    "take-over": never_take_over,
    "reconciliation": disable_reconciliation,
    "gap detection": disable_gap_detection,
    "nonce": ignore_nonce,
}
