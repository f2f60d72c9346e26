"""Tests of wire_types.py: JSON Schema in, TypeScript out. The TypeScript compiler checks the real output."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from tests.wire_types import typescript


class Close(IntEnum):
    """Close codes."""

    RESTART = 1012


def schema(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with one frame in each direction, both with these optional fields."""
    frame = {"properties": {"type": {"enum": ["x"]}, **fields}, "required": ["type"]}
    union = {
        name: {"anyOf": [{"$ref": f"#/$defs/{frame}"}]} for name, frame in (("ClientFrame", "A"), ("ServerFrame", "B"))
    }
    return {"$defs": {"A": frame, "B": frame, **union}}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"type": "integer"}, "number"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string"),
        ({"$ref": "#/$defs/Problem"}, "Problem"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "Record<string, number>"),
    ],
)
def test_field_types_are_translated(kind: dict[str, Any], expected: str) -> None:
    assert f"  field?: {expected};\n" in typescript(schema({"field": kind}), Close)


def test_only_client_fields_may_be_undefined() -> None:
    client, server = typescript(schema({"field": {"type": "boolean"}}), Close).split("// Server frames")
    assert "  field?: boolean | undefined;\n" in client
    assert "  field?: boolean;\n" in server


def test_close_codes_become_an_enum() -> None:
    assert typescript(schema({}), Close).endswith("/** Close codes. */\nexport enum Close {\n  RESTART = 1012,\n}\n")


def test_long_description_is_wrapped() -> None:
    text = typescript(schema({"field": {"type": "string", "description": "word " * 60}}), Close)
    assert max(map(len, text.splitlines())) <= 120


def test_unknown_schema_construct_is_an_error() -> None:
    with pytest.raises(KeyError):
        typescript(schema({"field": {"type": "null"}}), Close)
