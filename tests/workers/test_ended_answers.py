"""Ends that a failover of the store lost are written again, by the worker that decided them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.streams import jobs
from workers import ended_answers
from workers.ended_answers import EndedAnswers


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The responses whose ends are written again; the store has lost every end."""

    async def held(store: Any, job: Any, consumer: str) -> str:
        return "held"

    monkeypatch.setattr(jobs, "renew", held)
    return []


def answers(connected_s: float) -> EndedAnswers:
    """`connected_s`: for how long the worker has been connected to the store."""
    store: Any = SimpleNamespace(connected_for_s=lambda key: connected_s)
    return EndedAnswers(store, "consumer")


def end(answers: EndedAnswers, response: str, written: list[str]) -> None:
    async def end_again() -> None:
        written.append(response)

    job: Any = SimpleNamespace(response=response)
    generation: Any = SimpleNamespace(end_again=end_again)
    answers.add(job, generation)


async def test_end_is_written_again_once_after_a_reconnection(written: list[str]) -> None:
    ended = answers(connected_s=-1.0)
    end(ended, "r-1", written)
    for _ in range(2):
        ended.look({})
        await asyncio.gather(*ended.restoring)
    assert written == ["r-1"]


async def test_answer_has_one_task_however_often_it_is_looked_at(written: list[str]) -> None:
    ended = answers(connected_s=-1.0)
    for response in ("r-1", "r-2"):
        end(ended, response, written)
    for _ in range(10):
        ended.look({})
    assert len(ended.restoring) == 2
    await asyncio.gather(*ended.restoring)
    assert sorted(written) == ["r-1", "r-2"]


async def test_end_is_not_written_again_on_the_same_connection_or_while_it_is_generated(written: list[str]) -> None:
    same, again = answers(connected_s=60.0), answers(connected_s=-1.0)
    end(same, "r-1", written)
    end(again, "r-1", written)
    same.look({})
    again.look({"r-1"})
    assert not same.restoring
    assert not again.restoring


async def test_oldest_answers_beyond_the_bound_are_left_out(written: list[str]) -> None:
    ended = answers(connected_s=-1.0)
    for number in range(ended_answers.MAX_ENDED + 2):
        end(ended, f"r-{number}", written)
    ended.look({})
    await asyncio.gather(*ended.restoring)
    assert written == [f"r-{number}" for number in range(2, ended_answers.MAX_ENDED + 2)]


async def test_answer_is_forgotten_after_its_time(written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_answers, "KEPT_S", -1.0)
    ended = answers(connected_s=-1.0)
    end(ended, "r-1", written)
    ended.look({})
    assert not ended.restoring
