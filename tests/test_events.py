"""gateway/EVENTS.md lists every log event of the code, with its level and fields, and no other."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.core_coverage import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
NAME: Final = re.compile(r"[a-z]+(_[a-z]+)+\Z")

SPREAD: Final = {"error_fields": {"error", "where"}, "_log_fields": {"conversation", "response", "attempt"}}
"""The fields of `**error_fields(error)` and `**self._log_fields`."""


@dataclass(slots=True)
class Event:
    """An event by all its calls, or by its row on the page."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Yield each call of a logger's method, with the function around it."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        for node in ast.walk(function):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=name)) if name in LEVELS:
                    yield node, function
                case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="logger"), attr=name)) if name in LEVELS:
                    yield node, function


def fields_of(value: ast.expr, function: ast.AST) -> set[str]:
    """Return the field names of an `extra`: a dict, or a name that the function assigns one to."""
    match value:
        case ast.Dict(keys=keys, values=values):
            found = set()
            for key, item in zip(keys, values, strict=True):
                if key is None:
                    found |= fields_of(item, function)
                else:
                    assert isinstance(key, ast.Constant), ast.unparse(value)
                    found.add(str(key.value))
            return found
        case ast.Call(func=ast.Name(id=name)) | ast.Attribute(attr=name) if name in SPREAD:
            return SPREAD[name]
        case ast.Name(id=name):
            for node in ast.walk(function):
                match node:
                    case ast.Assign(targets=[ast.Name(id=target)], value=assigned) if target == name:
                        return fields_of(assigned, function)
                    case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as assigned) if target == name:
                        return fields_of(assigned, function)
    raise AssertionError(f"fields are not known: {ast.unparse(value)}")


def is_of_the_operator(value: ast.expr) -> bool:
    """Tell whether an `exc_info` is limited to the code of the operator."""
    return isinstance(value, ast.Call) and ast.unparse(value.func).endswith("operator_traceback")


def logged_by(path: Path) -> tuple[dict[str, Event], list[str]]:
    """Return the events of a module, and its calls that are no events."""
    events: dict[str, Event] = {}
    prose = []
    for call, function in calls(ast.parse(path.read_text())):
        match call:
            case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(name))], keywords=keywords):
                extra = [fields_of(word.value, function) for word in keywords if word.arg == "extra"]
                # A traceback holds the text of its exception: only that of the operator's own code is logged.
                traces = [word for word in keywords if word.arg == "exc_info" and is_of_the_operator(word.value)]
                if NAME.match(name) and len(extra) + len(traces) == len(keywords):
                    event = events.setdefault(name, Event())
                    event.levels.add(level)
                    event.fields.update(*extra)
                    continue
        prose.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    return events, prose


def code() -> tuple[dict[str, Event], list[str]]:
    """Return the events of all modules, and all calls that are no events."""
    events: dict[str, Event] = {}
    prose: list[str] = []
    for package in ("gateway", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found, other = logged_by(path)
            prose += other
            for name, event in found.items():
                whole = events.setdefault(name, Event())
                whole.levels |= event.levels
                whole.fields |= event.fields
    return events, prose


def page() -> dict[str, Event]:
    """Return the events of the page's tables."""
    text = (ROOT / "gateway" / "EVENTS.md").read_text()
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    listed = [row for row in rows if len(row) > 2]
    names = [row[0].strip(" `") for row in listed]
    assert len(set(names)) == len(names), "an event is listed twice"
    return {
        name: Event({row[1].strip()}, set(re.findall(r"`(\w+)`", row[2])))
        for name, row in zip(names, listed, strict=True)
    }


EVENTS, PROSE = code()


def test_every_log_call_is_an_event() -> None:
    assert PROSE == []


def test_page_lists_every_event_with_level_and_fields() -> None:
    assert page() == EVENTS


def test_documents_name_listed_events() -> None:
    listed = {*page(), "message"}
    for folder in ("gateway", "workers", "deploy"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            assert set(re.findall(r"event=([a-z_]+)", path.read_text())) - listed == set(), path


def test_fields_do_not_hide_attributes_of_a_record() -> None:
    reserved = {"name", "args", "msg", "level", "module", "process", "thread", "message", "event", "time", "logger"}
    assert {name for event in EVENTS.values() for name in event.fields} & reserved == set()
