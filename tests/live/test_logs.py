"""Log events: a response's id finds its events in all processes, and no event holds a text or a secret."""

from __future__ import annotations

import json
import logging
import secrets
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from gateway.process.logs import JsonFormat, TextFormat
from gateway.streams.log_fields import error_fields
from tests.live.client import Client
from tests.live.conftest import LEASE_S
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.provider_server import ProviderServer, Scenario
from tests.stores import RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live.processes import Process

KEY = "planted-jwt-key-of-thirty-two-bytes-or-more"
OPERATOR = "planted-operators-token"
API_KEY = "sk-planted-key-of-the-provider"
PASSWORD = "planted-password-of-the-store"
QUESTION = "PlantedQuestion"
ANSWER = "PlantedAnswer"
INSTRUCTIONS = "PlantedInstructions"

pytestmark = pytest.mark.live


def events_of(process: Process) -> list[dict[str, Any]]:
    """Return the log events of a process; every line but its announcements is JSON."""
    lines = [line for line in process.output if not line.startswith(("Tokenwire", "Metrics are at"))]
    return [json.loads(line) for line in lines]


@pytest.fixture
def parts() -> Iterator[tuple[GatewayProcess, list[WorkerProcess], ProviderServer]]:
    """A gateway and two workers at debug level, with a provider and a store that have secrets."""
    with ExitStack() as stack:
        server = stack.enter_context(RealServer())
        server.command("ACL", "SETUSER", "tokenwire", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        store = server.url.replace("redis://", f"redis://tokenwire:{PASSWORD}@")
        scenario = Scenario(pieces=tuple(f"{ANSWER}{n} " for n in range(100)), delay=0.02)
        provider = stack.enter_context(ProviderServer(scenario))
        logged = ("--log-format", "json", "--log-level", "debug")
        gateway = stack.enter_context(
            GatewayProcess(store, *logged, TOKENWIRE_JWT_KEY=KEY, TOKENWIRE_OPERATOR_TOKEN=OPERATOR)
        )
        workers = [
            stack.enter_context(
                WorkerProcess(
                    store,
                    *logged,
                    *("--models", '{"default": "openai/fake"}', "--lease", str(LEASE_S)),
                    OPENAI_BASE_URL=f"{provider.url}/v1",
                    OPENAI_API_KEY=API_KEY,
                )
            )
            for _ in range(2)
        ]
        yield gateway, workers, provider


async def test_a_response_id_finds_its_events_and_no_secret(
    parts: tuple[GatewayProcess, list[WorkerProcess], ProviderServer], conversation: str
) -> None:
    gateway, workers, provider = parts
    claims = {"sub": "planted-subject", "exp": time.time() + 600, "conversations": [conversation]}
    token = jwt.encode(claims, KEY, "HS256")
    async with Client(conversation, token) as client:
        await client.connect(gateway.socket_url)
        await client.watches()
        response = await client.ask(f"{QUESTION} one", instructions=INSTRUCTIONS)
        await client.shows(response, 60)
        busy = next(w for w in workers if any(e.get("response") == response for e in events_of(w)))
        busy.kill()
        await client.attempted(response, 2)
        await client.settled(response)
        provider.scenarios[f"{QUESTION} two"] = Scenario(status=500, error=ANSWER)
        failed = await client.ask(f"{QUESTION} two")
        await client.stop(failed)
        await client.ended(failed)
        # Refused requests must not log their content either.
        await client.send({"type": "send", "key": "k", "conversation": "another", "text": QUESTION})
        await client.send(f'{{"type": "send", "text": "{QUESTION}"')
        await client.until(lambda: len(client.errors) >= 2)
    async with Client(conversation, f"{token}x") as stranger:
        await stranger.connect(gateway.socket_url)
        assert await stranger.closed() == 4401
        assert stranger.errors[-1]["problem"] == "wrong_key"
    processes: list[Process] = [gateway, *workers]
    for process in processes:
        process.close()
    followed = sorted(
        (event for process in processes for event in events_of(process) if event.get("response") == response),
        key=lambda event: str(event["time"]),
    )
    assert [(event["event"], event.get("attempt")) for event in followed] == [
        ("response_submitted", None),
        ("attempt_started", 1),
        ("attempt_started", 2),
        ("response_ended", 2),
    ]
    assert {event["conversation"] for event in followed} == {conversation}
    rejected = [event for event in events_of(gateway) if event["event"] == "token_rejected"]
    assert [(event["problem"], event["suppressed"]) for event in rejected] == [("wrong_key", 0)]
    everything = "".join(process.text for process in processes)
    for planted in (KEY, OPERATOR, API_KEY, PASSWORD, QUESTION, ANSWER, INSTRUCTIONS, token, token.split(".")[2]):
        assert planted not in everything


def record(message: str, *arguments: object, **about: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "gateway.feed.feed", "levelno": logging.INFO, "levelname": "INFO", **about})
    made.msg, made.args = message, arguments
    return made


def test_a_json_event_is_one_line_with_its_fields() -> None:
    line = JsonFormat().format(record("two\nlines \ud800 %s", "and more", response="r1", attempt=2, conversation=None))
    assert "\n" not in line
    event = json.loads(line)
    assert (event["event"], event["level"]) == ("two\nlines \ud800 and more", "info")
    assert (event["response"], event["attempt"], event["logger"]) == ("r1", 2, "gateway.feed.feed")
    assert "conversation" not in event


def test_a_text_event_has_its_name_first_and_quoted_fields() -> None:
    line = TextFormat().format(record("response_ended", response="r1", reason="two words", lag=0.5))
    assert line.endswith('INFO gateway.feed.feed: event=response_ended response=r1 reason="two words" lag=0.5')


def test_a_message_of_another_package_is_text_and_no_event_name() -> None:
    line = JsonFormat().format(record("Task was %s", "destroyed", name="asyncio"))
    assert (json.loads(line)["event"], json.loads(line)["text"]) == ("message", "Task was destroyed")


def test_error_fields_have_the_type_and_places_and_no_text() -> None:
    assert error_fields(ExceptionGroup("outer", [ValueError("a secret")])) == {"error": "ValueError", "where": ""}
    with pytest.raises(ValueError, match="a secret") as caught:
        int("a secret")
    fields = error_fields(caught.value)
    assert fields["error"] == "ValueError"
    assert fields["where"].startswith("test_logs.py:")
    assert fields["where"].endswith(":test_error_fields_have_the_type_and_places_and_no_text")


def test_a_json_event_holds_its_traceback() -> None:
    try:
        raise ValueError(secrets.token_hex(2))
    except ValueError as error:
        failed = record("it failed")
        failed.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError" in json.loads(JsonFormat().format(failed))["trace"]


def test_a_traceback_has_no_control_characters() -> None:
    try:
        raise ValueError("red \x1b[31m and \x9b31m")
    except ValueError as error:
        failed = record("it failed")
        failed.exc_info = (type(error), error, error.__traceback__)
    for line in (TextFormat().format(failed), json.loads(JsonFormat().format(failed))["trace"]):
        assert "\\x1b[31m and \\x9b31m" in line
        assert all(character.isprintable() or character == "\n" for character in line)
