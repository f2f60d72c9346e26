"""Recorded exchanges: every frame matches the schema, and folding the frames shows what the recording shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from gateway import frame_codec
from tests.core_coverage import ROOT
from tests.transcript import Transcript

if TYPE_CHECKING:
    from pathlib import Path

EXCHANGES: Final = sorted((ROOT / "tests" / "conversations").glob("*.json"))
SCHEMA: Final = json.loads((ROOT / "gateway" / "protocol.schema.json").read_text())


def validator(union: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{union}", "$defs": SCHEMA["$defs"]})


CLIENT: Final = validator("ClientFrame")
SERVER: Final = validator("ServerFrame")


def steps(exchange: Path) -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = json.loads(exchange.read_text())["frames"]
    return recorded


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda path: path.stem)
def test_every_recorded_frame_matches_the_schema(exchange: Path) -> None:
    for step in steps(exchange):
        if (frame := step.get("client")) is not None:
            CLIENT.validate(frame)
            assert not isinstance(frame_codec.decode(json.dumps(frame)), frame_codec.BadFrame)
        elif (frame := step.get("server")) is not None:
            SERVER.validate(frame)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda path: path.stem)
def test_a_recorded_exchange_shows_its_messages(exchange: Path) -> None:
    recorded = json.loads(exchange.read_text())
    watch = next(step["client"] for step in recorded["frames"] if step.get("client", {}).get("type") == "watch")
    transcript = Transcript(watch["conversation"])
    for step in recorded["frames"]:
        if "server" in step:
            transcript.fold(step["server"])
    assert as_shown(list(transcript.messages.values())) == [essence(each) for each in recorded["shows"]["messages"]]


def as_shown(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return questions in order, each followed by its answers, without answers that were replaced."""
    replaced = {message.get("replaces") for message in messages}
    order = []
    for question in (message for message in messages if message["role"] == "user"):
        answers = [each for each in messages if each.get("replies_to") == question["id"]]
        order += [question, *(answer for answer in answers if answer["response"] not in replaced)]
    return [essence(message) for message in order]


def essence(message: dict[str, Any]) -> dict[str, Any]:
    return {key: message[key] for key in ("role", "text", "reason") if message.get(key) is not None}


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "delta", "response": "r"},
        {"type": "end", "reason": 5},
        {"type": "status", "response": "r", "state": "x"},
    ],
)
def test_a_broken_server_frame_does_not_match_the_schema(frame: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        SERVER.validate(frame)
