"""workers/GENERATORS.md: its examples run as python providers, its lists are those of the code."""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Final, get_args

import pytest

from gateway.streams.targets import parse_models
from tests.core_coverage import ROOT
from workers.providers import Event, Finish, FinishReason, ProviderError, Reasoning, Request, Text, demo
from workers.providers.python import connect

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = (ROOT / "workers" / "GENERATORS.md").read_text()
EXAMPLES: Final = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
README: Final = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)

EXPECTED: Final[dict[str, list[Event] | str]] = {
    "generate": [Text("Hello "), Text("from "), Text("Python."), Finish("complete")],
    "think": [
        Reasoning("The user asks a question. "),
        Text("You asked: "),
        Text("Why?"),
        Finish("complete", {"input_tokens": 12, "output_tokens": 3}),
    ],
    "limited": "no_instructions",
    "tidy": [Text("0 "), Text("1 "), Text("2 "), Finish("complete")],
}
"""Of each generator on the page: its events, or the code of its error."""


async def outcome(target: str) -> list[Event] | str:
    request = Request(model=target, messages=[{"role": "user", "content": "Why?"}], response="r1")
    try:
        return [event async for event in connect(target)(request)]
    except ProviderError as error:
        return error.code


async def outcomes(examples: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Event] | str]:
    """Write each example to a module and return what each of its generators does."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    found = {}
    for number, example in enumerate(examples):
        name = f"generator_example_{number}"
        (folder / f"{name}.py").write_text(example)
        monkeypatch.delitem(sys.modules, name, raising=False)
        for function, _ in inspect.getmembers(import_module(name), inspect.isasyncgenfunction):
            found[function] = await outcome(f"{name}:{function}")
    return found


async def test_examples_yield_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await outcomes(EXAMPLES, tmp_path, monkeypatch) == EXPECTED


async def test_readme_example_is_a_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (events,) = (await outcomes(README, tmp_path, monkeypatch)).values()
    assert [type(event) for event in events] == [Reasoning, Text, Text, Text, Finish]


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_page_lists_request_attribute(name: str) -> None:
    assert re.search(rf"^\|.*`{name}`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("reason", get_args(FinishReason))
def test_page_lists_finish_reason(reason: str) -> None:
    assert f"`{reason}`" in PAGE


def test_page_lists_demo_commands() -> None:
    table = demo.HELP[demo.HELP.index("| command") :]
    assert table in PAGE


@pytest.mark.parametrize("text", re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
def test_examples_of_models_are_valid(text: str) -> None:
    assert parse_models(json.loads(text))
