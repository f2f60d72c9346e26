"""Reconciliation: one call of the store compares a bounded number of logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.streams import keys
from gateway.streams.reconciliation import MAX_LOGS, differing_logs
from gateway.streams.store.store import open_store

if TYPE_CHECKING:
    from gateway.streams.store.store import Store


@pytest.mark.parametrize(("count", "calls"), [(0, 0), (MAX_LOGS, 1), (MAX_LOGS + 1, 2), (2 * MAX_LOGS + 1, 3)])
async def test_many_logs_take_several_calls(monkeypatch: pytest.MonkeyPatch, count: int, calls: int) -> None:
    store = await open_store("memory://")
    made: list[int] = []
    call = type(store).call

    async def counted(store: Store, script: str, names: list[str], *arguments: Any) -> Any:
        made.append(len(names))
        return await call(store, script, names, *arguments)

    monkeypatch.setattr(type(store), "call", counted)
    logs = [(keys.log(keys.response_id("c1", f"{number:016x}")), "") for number in range(count)]
    for number in range(0, count, 50):
        await store.client.xadd(logs[number][0], {"v": b"x"})
    assert await differing_logs(store, logs) == list(range(0, count, 50))
    assert len(made) == calls
    assert max(made, default=0) <= MAX_LOGS
    await store.close()
