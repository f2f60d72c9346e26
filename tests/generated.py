"""`python -m tests.generated` writes the files that are derived from the code; `--check` fails where one is stale.

From gateway/wire.py: the JSON Schema of the protocol, the frame reference in PROTOCOL.md and web/client/wire.ts. From
the settings classes: SETTINGS.md.
"""

from __future__ import annotations

import json
import re
import sys
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

import jsonschema
import msgspec

from gateway import wire
from gateway.settings import GatewaySettings
from gateway.streams.settings import PREFIX, ProcessSettings, display, is_duration
from tests.wire_types import typescript
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

ROOT: Final = Path(__file__).parent.parent
SCHEMA: Final = ROOT / "gateway" / "protocol.schema.json"
PROTOCOL: Final = ROOT / "gateway" / "PROTOCOL.md"
SETTINGS: Final = ROOT / "gateway" / "SETTINGS.md"
TYPES: Final = ROOT / "web" / "client" / "wire.ts"

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "Hello": {"token": "eyJ...", "client": "my-app 1.2"},
    "Watch": {"conversation": "c1", "after": "2-5544", "responses": {"r00aaaaaaaaaaaaaaaa": "1000000077-8"}},
    "Older": {"conversation": "c1", "before": "1-7730"},
    "Unwatch": {"conversation": "c1"},
    "Send": {"key": "k1", "conversation": "c1", "text": "Why is the sky blue?"},
    "Stop": {"response": "r00aaaaaaaaaaaaaaaa"},
    "Retry": {"response": "r00aaaaaaaaaaaaaaaa", "key": "k2", "mode": "continue"},
    "Token": {"token": "eyJ..."},
    "Ready": {
        "session": "9f31c2d4e5a6b7c8",
        "heartbeat": 20,
        "limits": {"frame": 65536, "text": 32000, "conversations": 32},
        "models": ["default", "fast"],
    },
    "Watching": {"conversation": "c1", "cursor": "2-5544", "resumed": True},
    "Snapshot": {
        "conversation": "c1",
        "cursor": "2-5544",
        "messages": [{"id": "m7", "role": "user", "text": "Why is the sky blue?"}],
        "responses": [
            {
                "response": "r00aaaaaaaaaaaaaaaa",
                "cursor": "1000000077-3",
                "state": "running",
                "model": "default",
                "attempt": 1,
                "text": "Because",
                "replies_to": "m7",
            }
        ],
    },
    "Messages": {
        "conversation": "c1",
        "before": "1204-7730",
        "messages": [{"id": "m5", "role": "user", "text": "Why is grass green?"}],
        "more": True,
        "earlier": "1198-2054",
    },
    "MessageFrame": {
        "conversation": "c1",
        "cursor": "2-5544",
        "message": {"id": "m7", "role": "user", "text": "Why is the sky blue?"},
    },
    "Start": {
        "conversation": "c1",
        "response": "r00aaaaaaaaaaaaaaaa",
        "cursor": "1000000077-2",
        "model": "default",
        "attempt": 1,
        "replies_to": "m7",
    },
    "Delta": {"response": "r00aaaaaaaaaaaaaaaa", "cursor": "1000000077-8", "text": " air scatters short waves"},
    "Reset": {"response": "r00aaaaaaaaaaaaaaaa", "cursor": "2000000031-9", "text": "Because", "reason": "attempt"},
    "Status": {"response": "r00aaaaaaaaaaaaaaaa", "state": "waiting", "cursor": "1000000077-3", "retry_in": 2.5},
    "End": {
        "conversation": "c1",
        "response": "r00aaaaaaaaaaaaaaaa",
        "cursor": "1000000077-41",
        "reason": "complete",
        "chars": 312,
        "usage": {"input_tokens": 12, "output_tokens": 74},
    },
    "Accepted": {"key": "k1", "message": "m7", "response": "r00aaaaaaaaaaaaaaaa", "duplicate": False},
    "ErrorFrame": {"code": "busy", "message": "An answer is open.", "key": "k1"},
    "Moving": {"within": 2.0},
    "Heartbeat": {},
}
"""Fields of an example of each frame, but `type`. Each is checked against its type."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of all frames, by class name under `$defs`."""
    (client, server), components = msgspec.json.schema_components((wire.ClientFrame, wire.ServerFrame))
    client_names = {member.__name__ for member in get_args(wire.ClientFrame)}
    definitions: dict[str, Any] = {}
    for name, component in components.items():
        definitions[name] = component if name in client_names else _without_null(component)
    for name, definition in definitions.items():
        _restore_order(getattr(wire, name), definition["properties"])
    definitions |= {"ClientFrame": client, "ServerFrame": server}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tokenwire protocol, version 1",
        "description": "Every frame in both directions. Ignore unknown types and fields.",
        "anyOf": [{"$ref": "#/$defs/ClientFrame"}, {"$ref": "#/$defs/ServerFrame"}],
        "$defs": dict(sorted(definitions.items())),
    }
    # Python's end of text is JSON Schema's, which uses ECMA-262 patterns.
    converted: dict[str, Any] = json.loads(json.dumps(document).replace("\\\\Z", "$"))
    return converted


def _restore_order(struct: type, properties: dict[str, Any]) -> None:
    """Give enumerations the order of the source, which their descriptions follow; msgspec sorts them."""
    for name, hint in get_type_hints(struct, include_extras=True).items():
        values = _literal_values(hint)
        if values and "enum" in properties.get(name, {}):
            properties[name]["enum"] = values


def _literal_values(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return next((values for part in get_args(hint) if (values := _literal_values(part))), [])


def _without_null(component: dict[str, Any]) -> dict[str, Any]:
    """A server leaves out fields that are None, so that `null` never occurs."""
    properties = {}
    for name, field in component.get("properties", {}).items():
        kept = {key: value for key, value in field.items() if (key, value) != ("default", None)}
        if options := [option for option in kept.pop("anyOf", []) if option != {"type": "null"}]:
            kept |= options[0] if len(options) == 1 else {"anyOf": options}
        properties[name] = kept
    return {**component, "properties": properties}


def frames() -> str:
    """Return the frame reference of PROTOCOL.md: of each frame its meaning, an example and its fields."""
    definitions = schema()["$defs"]
    parts = []
    for title, union in (("Client frames", wire.ClientFrame), ("Server frames", wire.ServerFrame)):
        parts.append(f"## {title}")
        parts += [_frame(member.__name__, definitions) for member in get_args(union)]
    parts.append("## Objects in frames")
    for name in ("Message", "OpenResponse", "Limits", "Problem"):
        parts.append(
            f"### {name} object\n\n{cleandoc(definitions[name]['description'])}\n\n{_fields(definitions[name])}"
        )
    return "\n\n".join(parts)


def _frame(name: str, definitions: dict[str, Any]) -> str:
    definition = definitions[name]
    (tag,) = definition["properties"]["type"]["enum"]
    example = {"type": tag, **EXAMPLES[name]}
    jsonschema.validate(example, {"$ref": f"#/$defs/{name}", "$defs": definitions})
    heading = f"### {tag}\n\n{cleandoc(definition['description'])}\n\n```json\n{json.dumps(example)}\n```"
    fields = _fields(definition)
    return f"{heading}\n\n{fields}" if fields else heading


def _fields(definition: dict[str, Any]) -> str:
    required = definition.get("required", [])
    rows = []
    for name, field in definition["properties"].items():
        if name == "type":
            continue
        default = field.get("default")
        need = "yes" if name in required else "no" if default in (None, {}, False) else f"no, `{default}`"
        rows.append(f"| `{name}` | {_type(field)} | {need} | {_description(field)} |")
    return "\n".join(["| field | type | required | meaning |", "|---|---|---|---|", *rows]) if rows else ""


def _description(field: dict[str, Any]) -> str:
    return str(
        field.get("description") or next((o["description"] for o in field.get("anyOf", []) if "description" in o), "")
    )


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()}-object)"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return _type(next(option for option in field["anyOf"] if option != {"type": "null"}))
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    if isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def settings() -> str:
    """Return SETTINGS.md."""
    parts = [
        "# Settings",
        "Generated from the code by `python -m tests.generated`. A setting is an environment variable and an option of "
        "the commands that have it: `TOKENWIRE_DEMO_RATE=80`, `--demo-rate 80`. A duration is seconds or has a unit: "
        "`250ms`, `30s`, `5m`, `12h`, `30d`.",
        "`tokenwire config` prints the settings in effect with secrets masked, and the source of each. A wrong value "
        "or a misspelled variable stops the start. `tokenwire doctor` checks them against the store and the machine.",
    ]
    shared = set(ProcessSettings.model_fields)
    groups: list[tuple[str, type[BaseSettings], set[str]]] = [
        ("Gateway and worker", ProcessSettings, set()),
        ("Gateway", GatewaySettings, shared),
        ("Worker", WorkerSettings, shared),
    ]
    for title, kind, left_out in groups:
        rows = [_setting(name, field) for name, field in kind.model_fields.items() if name not in left_out]
        parts.append("\n".join([f"## {title}", "", "| setting | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _setting(name: str, field: Any) -> str:
    return f"| `{PREFIX}{name.upper()}` | {_default(name, field)} | {field.description} |"


def _default(name: str, field: Any) -> str:
    shown = display(name, field.default, is_duration(field))
    return "–" if shown == "-" else f"`{shown}`"


def files() -> dict[Path, str]:
    """Return the content of every generated file."""
    protocol = PROTOCOL.read_text()
    begin, end = "<!-- generated: frames -->", "<!-- end of generated -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return {
        SCHEMA: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        PROTOCOL: pattern.sub(lambda _: f"{begin}\n\n{frames()}\n\n{end}", protocol),
        SETTINGS: settings(),
        TYPES: typescript(schema(), wire.Close),
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; return the exit status."""
    stale = [path for path, content in files().items() if not path.exists() or path.read_text() != content]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make generated`")
        return 1 if stale else 0
    for path in stale:
        path.write_text(files()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
