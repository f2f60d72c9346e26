"""How processes end: no exception is silent, and none shows its text."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import click
import pytest

from gateway.cli.options import exit_status, run_to_end
from gateway.cli.processes import Parts
from gateway.streams.log_fields import MAX_MEMBERS, error_fields
from gateway.streams.store.errors import StoreError, StoreUnavailableError


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any, Any]]:
    return [
        (record.getMessage(), vars(record).get("part"), vars(record).get("error"))
        for record in caplog.records
        if record.name.startswith("gateway")
    ]


async def raising(error: BaseException) -> None:
    raise error


async def waiting(parts: Parts) -> None:
    await parts.stopped.wait()


@pytest.mark.parametrize(
    ("error", "name", "raised"),
    [
        (RuntimeError("secret"), "RuntimeError", click.ClickException),
        (ExceptionGroup("secret", [KeyError("secret"), OSError("secret")]), "KeyError, OSError", click.ClickException),
        (StoreUnavailableError("no store"), "StoreUnavailableError", StoreError),
    ],
)
async def test_exception_of_a_part_is_logged_by_type_and_stops_the_others(
    error: Exception, name: str, raised: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.TaskGroup() as group:
        parts = Parts(group)
        parts.start("other", waiting(parts))
        parts.start("worker", raising(error))
    assert events(caplog) == [("process_part_failed", "worker", name)]
    with pytest.raises(raised) as caught:
        parts.raise_failure()
    assert "secret" not in str(caught.value) + caplog.text


async def test_part_that_ends_first_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with asyncio.TaskGroup() as group:
        parts = Parts(group)
        parts.watch("signals", asyncio.sleep(0))
        parts.start("server", waiting(parts))
    parts.raise_failure()
    assert events(caplog) == [("process_stopping", "signals", None)]


async def test_part_that_was_cancelled_by_nobody_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.TaskGroup() as group:
        parts = Parts(group)
        parts.start("server", raising(asyncio.CancelledError()))
        parts.watch("signals", asyncio.Event().wait())
        await parts.stopped.wait()
        parts.cancel_watches()
    assert events(caplog) == [("process_part_failed", "server", "CancelledError")]


def test_exception_of_the_process_is_logged_and_raised(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        run_to_end(raising(ZeroDivisionError("secret")))
    assert events(caplog) == [("process_failed", None, "ZeroDivisionError")]


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), StoreError("no store")])
def test_child_with_an_exception_has_the_exit_status_1(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(error)) == 1
    assert str(error) in capsys.readouterr().err


def test_members_of_a_group_are_limited() -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("a")] * 10), KeyError("b")])
    assert error_fields(group) == {"error": ", ".join(["ValueError"] * MAX_MEMBERS), "where": ""}
