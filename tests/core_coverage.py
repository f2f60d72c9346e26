"""`python -m tests.core_coverage`: each core module is covered, branches too, by its own tests alone.

A module that is covered only by other modules' tests makes a decision that its own tests do not state.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent

CORE: Final = {
    "gateway.addresses": "tests/gateway/test_addresses.py",
    "gateway.admission": "tests/gateway/test_admission.py",
    "gateway.auth": "tests/gateway/test_auth.py",
    "gateway.connections": "tests/gateway/test_connections.py",
    "gateway.fair_queue": "tests/gateway/test_fair_queue.py",
    "gateway.frame_budget": "tests/gateway/test_frame_budget.py",
    "gateway.frame_codec": "tests/gateway/test_frame_codec.py",
    "gateway.frame_batch": "tests/gateway/test_frame_batch.py",
    "gateway.drain": "tests/gateway/test_drain.py",
    "gateway.feed.eviction": "tests/gateway/feed/test_eviction.py",
    "gateway.feed.health": "tests/gateway/feed/test_health.py",
    "gateway.operations.fleet": "tests/gateway/operations/test_fleet.py",
    "gateway.hub": "tests/gateway/test_hub.py",
    "gateway.origins": "tests/gateway/test_auth.py",
    "gateway.rate_limits": "tests/gateway/test_rate_limits.py",
    "gateway.replica": "tests/gateway/test_response_replica.py",
    "gateway.response_replica": "tests/gateway/test_response_replica.py",
    # One model tests both.
    "gateway.room": "tests/gateway/test_hub.py",
    "gateway.session": "tests/gateway/test_session.py",
    "gateway.streams.durations": "tests/gateway/streams/test_durations.py",
    "gateway.streams.log_entries": "tests/gateway/streams/test_log_entries.py",
    "gateway.streams.keys": "tests/gateway/streams/test_keys.py",
    "gateway.streams.log_throttle": "tests/gateway/streams/test_log_throttle.py",
    "gateway.streams.liveness": "tests/gateway/streams/test_liveness.py",
    "gateway.streams.records": "tests/gateway/streams/test_records.py",
    "gateway.streams.targets": "tests/gateway/streams/test_targets.py",
    "gateway.process.collection_policy": "tests/gateway/process/test_collection_policy.py",
    "gateway.operations.terminal": "tests/gateway/operations/test_terminal.py",
    "gateway.streams.unreadable": "tests/gateway/streams/test_log_entries.py",
    "gateway.operations.top": "tests/gateway/operations/test_top.py",
    "gateway.streams.store.topology": "tests/gateway/streams/store/test_topology.py",
    "gateway.history_replica": "tests/gateway/test_history_replica.py",
    "gateway.subject_connections": "tests/gateway/test_subject_connections.py",
    "gateway.token_limits": "tests/gateway/test_token_limits.py",
    "gateway.timer_wheel": "tests/gateway/test_timer_wheel.py",
    "gateway.wire": "tests/gateway/test_frame_codec.py",
    "gateway.watches": "tests/gateway/test_watches.py",
    "gateway.write_progress": "tests/gateway/test_write_progress.py",
    "workers.attempt": "tests/workers/test_attempt.py",
    "workers.batch": "tests/workers/test_batch.py",
    "workers.fairness": "tests/workers/test_fairness.py",
    "workers.lease_bridge": "tests/workers/test_lease_bridge.py",
    "workers.prompt": "tests/workers/test_prompt.py",
    "workers.providers.blank": "tests/workers/test_blank.py",
    "workers.providers.error_names": "tests/workers/test_error_names.py",
    "workers.providers.checked": "tests/workers/test_checked.py",
    "workers.providers.event_stream": "tests/workers/test_event_stream.py",
    "workers.providers.failures": "tests/workers/test_failures.py",
    "workers.providers.lenient": "tests/workers/test_lenient.py",
    "workers.providers.parameters": "tests/workers/test_parameters.py",
    "workers.providers.reasons": "tests/workers/test_reasons.py",
    "workers.providers.think_tags": "tests/workers/test_think_tags.py",
    "workers.breaker": "tests/workers/test_breaker.py",
    "workers.overlap": "tests/workers/test_overlap.py",
    "workers.retry_policy": "tests/workers/test_retry_policy.py",
    "workers.shown_text": "tests/workers/test_shown_text.py",
}
"""Each core module, and its test module."""


def source_of(module: str) -> Path:
    """Return the file of a module, relative to the root of the repository."""
    return Path(*module.split(".")).with_suffix(".py")


class Apart:
    """A pytest plugin that records which test file reached a line."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Attribute a test, with its fixtures, to its file."""
        self.measured.switch_context(item.nodeid.partition("::")[0])
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the files with failures."""
        if report.failed:
            self.failed.add(report.nodeid.partition("::")[0])


def run() -> tuple[coverage.Coverage, set[str]]:
    """Run the tests of all core modules once; return the coverage and the files that failed."""
    # The newest measurement core does not record which test reached a line.
    measured = coverage.Coverage(data_file=None, branch=True, source=list(CORE))
    measured.set_option("run:core", "ctrace")
    plugin = Apart(measured)
    # Few examples: coverage must come from what a test states, not from luck.
    os.environ["TOKENWIRE_HYPOTHESIS"] = "quick"
    there = [tests for tests in CORE.values() if (ROOT / tests).exists()]
    with measured.collect():
        status = pytest.main(["-q", "-p", "no:cacheprovider", *there], plugins=[plugin])
    # Any other status: a file cannot be read, or no test ran.
    return measured, plugin.failed if status in (0, 1) else set(there)


def problem(module: str, measured: coverage.Coverage, failed: set[str]) -> str | None:
    """Return the gap in a module's coverage; None if it is complete."""
    tests, source = CORE[module], source_of(module)
    if not (ROOT / tests).exists():
        return f"{source}: there is no {tests}"
    if tests in failed:
        return f"{source}: {tests} fails"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        # Without a name: the lines of a module itself, which are run when it is imported, before any test.
        contexts = ["^$", f"^{re.escape(tests)}$"]
        measured.json_report([str(ROOT / source)], outfile=str(report), contexts=contexts)
        (found,) = json.loads(report.read_text())["files"].values()
    lines = [str(line) for line in found["missing_lines"]]
    # A negative line is a function that is left.
    lines += [f"{start} to {end if end > 0 else 'the end'}" for start, end in found["missing_branches"]]
    return f"{source}: {tests} does not reach line {', '.join(lines)}" if lines else None


def main() -> int:
    """Print a line for each module; return the number of those that are not covered."""
    measured, failed = run()
    failures = 0
    for module in CORE:
        found = problem(module, measured, failed)
        print(found or f"{source_of(module)}: covered", flush=True)
        failures += found is not None
    print(f"{len(CORE) - failures} of {len(CORE)} core modules are covered by their own tests", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
