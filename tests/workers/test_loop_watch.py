"""The loop watch: a block of the event loop is reported with the task and the code that caused it."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from workers.loop_watch import MAX_FRAMES, Block, LoopWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

INTERVAL_S = 0.05


class Watched:
    """A watched loop, and what was reported."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.beats = 0
        self.reported = asyncio.Event()

    def on_block(self, block: Block) -> None:
        self.blocks.append(block)
        self.reported.set()

    def on_beat(self) -> None:
        self.beats += 1

    async def block(self, work: Callable[[], object], name: str) -> Block:
        """Run blocking work in a task of this name; return the block that is reported for it."""

        async def run() -> None:
            work()

        self.blocks.clear()
        self.reported.clear()
        await asyncio.create_task(run(), name=name)
        async with asyncio.timeout(20):
            await self.reported.wait()
        return self.blocks[0]


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    found = Watched()
    watch = LoopWatch(INTERVAL_S, on_beat=found.on_beat, on_block=found.on_block)
    watch.start()
    yield found
    await watch.stop()
    await watch.stop()
    assert not watch._thread.is_alive()


def hold_the_interpreter() -> None:
    """Run a regular expression, in steps that grow until one takes ten intervals: no thread gets a turn in it."""
    for length in range(16, 40):
        begun = time.perf_counter()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.perf_counter() - begun > 10 * INTERVAL_S:
            return


async def test_block_names_the_task_and_its_code() -> None:
    async with watched() as it:
        block = await it.block(lambda: time.sleep(INTERVAL_S * 6), "r00")
        assert block.task == "r00"
        assert block.where.startswith("test_loop_watch.py:")
        assert block.seconds >= INTERVAL_S * 4


async def test_block_that_holds_the_interpreter_names_its_task() -> None:
    async with watched() as it:
        block = await it.block(hold_the_interpreter, "r01")
        assert block.task == "r01"
        assert "test_loop_watch.py:" in block.where
        assert block.where.count(" < ") < MAX_FRAMES


async def test_running_loop_beats_and_is_not_reported() -> None:
    async with watched() as it:
        async with asyncio.timeout(20):
            while it.beats < 5:
                await asyncio.sleep(0)
        assert all(block.seconds > 2 * INTERVAL_S for block in it.blocks)


async def test_watch_that_never_started_stops() -> None:
    await LoopWatch(INTERVAL_S, on_beat=None, on_block=lambda _: None).stop()
