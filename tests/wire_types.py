"""TypeScript types of the protocol, from its JSON Schema. `tests.generated` writes them to web/client/wire.ts."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from enum import IntEnum

WIDTH: Final = 120

HEADER: Final = """\
// Frames and close codes of protocol version 1. Generated from gateway/wire.py by `make generated`: do not edit.
// gateway/PROTOCOL.md describes them."""

PRIMITIVES: Final = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}


def typescript(schema: dict[str, Any], close: type[IntEnum]) -> str:
    """Return a TypeScript module with an interface for each frame and object, and an enum of the close codes.

    Raises KeyError for a construct of the schema that has no translation here.
    """
    definitions = schema["$defs"]
    client, server = (_members(definitions[name]) for name in ("ClientFrame", "ServerFrame"))
    objects = [name for name in definitions if name not in {*client, *server, "ClientFrame", "ServerFrame"}]
    groups = [("Objects in frames", objects), ("Client frames", client), ("Server frames", server)]
    parts = [HEADER]
    for title, names in groups:
        parts.append(f"// {title}")
        parts += [_interface(name, definitions[name], sent=names is client) for name in names]
    parts += [_union("ClientFrame", client), _union("ServerFrame", server), _enum(close)]
    return "\n\n".join(parts) + "\n"


def _members(union: dict[str, Any]) -> list[str]:
    return [_reference(option) for option in union["anyOf"]]


def _reference(option: dict[str, Any]) -> str:
    return str(option["$ref"].rpartition("/")[2])


def _interface(name: str, definition: dict[str, Any], *, sent: bool) -> str:
    required = definition.get("required", [])
    lines = [*_comment(definition.get("description"), ""), f"export interface {name} {{"]
    for field, kind in definition["properties"].items():
        lines += _comment(_description(kind), "  ")
        optional = "" if field in required else "?"
        # In a sent frame a field may be undefined, because JSON.stringify leaves it out.
        undefined = " | undefined" if optional and sent else ""
        line = f"  {field}{optional}: {_type(kind)}{undefined};"
        if len(line) > WIDTH:
            line = f"  {field}{optional}:" + "".join(f"\n    | {each}" for each in _type(kind).split(" | ")) + ";"
        lines.append(line)
    return "\n".join([*lines, "}"])


def _description(kind: dict[str, Any]) -> str | None:
    described = [option["description"] for option in (kind, *kind.get("anyOf", [])) if "description" in option]
    return described[0] if described else None


def _comment(text: str | None, indent: str) -> list[str]:
    if text is None:
        return []
    line = f"{indent}/** {text} */"
    if len(line) <= WIDTH and "\n" not in text:
        return [line]
    paragraphs = inspect.cleandoc(text).split("\n\n")
    wrapped = [textwrap.wrap(" ".join(each.split()), WIDTH - len(indent) - 3) for each in paragraphs]
    body = [line for paragraph in wrapped for line in ["", *paragraph]][1:]
    return [f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in body), f"{indent} */"]


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        return _reference(kind)
    if "enum" in kind:
        return " | ".join(json.dumps(value) for value in kind["enum"])
    if "anyOf" in kind:
        # A client may send null, but the types offer only the shorter way of leaving the field out.
        return " | ".join(_type(option) for option in kind["anyOf"] if option != {"type": "null"})
    if kind["type"] == "array":
        return f"{_type(kind['items'])}[]"
    if kind["type"] == "object":
        return f"Record<string, {_type(kind['additionalProperties'])}>"
    return PRIMITIVES[kind["type"]]


def _union(name: str, members: list[str]) -> str:
    line = f"export type {name} = {' | '.join(members)};"
    return line if len(line) <= WIDTH else "\n  | ".join([f"export type {name} =", *members]) + ";"


def _enum(close: type[IntEnum]) -> str:
    fields = [f"  {member.name} = {member.value}," for member in close]
    return "\n".join([*_comment(close.__doc__, ""), f"export enum {close.__name__} {{", *fields, "}"])
