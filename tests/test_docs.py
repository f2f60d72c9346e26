"""Documentation covers every setting, frame, field, error code, failure code, close code and route; its links exist."""

from __future__ import annotations

import ast
import re
import subprocess
from typing import TYPE_CHECKING, Final, get_args

import pytest
from starlette.routing import Route, WebSocketRoute

from gateway import history_replica, wire
from gateway.app import Gateway, routes
from gateway.cli.settings import Settings, load
from gateway.streams import history_log, log_entries
from gateway.streams.store.store import open_store
from gateway.wire import ClientFrame, Close, ServerFrame
from tests.core_coverage import ROOT
from workers.providers.checked import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT_FRAMES: Final[dict[str, tuple[str, ...]]] = {
    frame.__struct_config__.tag: frame.__struct_fields__ for frame in get_args(ClientFrame)
}
FIELDS: Final = [(frame, field) for frame, fields in CLIENT_FRAMES.items() for field in fields]


def document(path: str) -> str:
    file = ROOT / path
    return file.read_text() if file.exists() else ""


PROTOCOL: Final = document("gateway/PROTOCOL.md")
README: Final = document("README.md")
SETTINGS: Final = document("gateway/SETTINGS.md")

DECISIONS: Final = sorted((ROOT / "gateway" / "decisions").glob("[0-9]*.md"))
LIMITS: Final = {
    "frame of a client": f"{wire.MAX_FRAME_BYTES // 1024} KiB",
    "text of a message": f"{wire.MAX_TEXT:,} characters",
    "conversations of a socket": f"{wire.MAX_WATCHED}",
    "waiting messages of a conversation": f"{history_log.MAX_AHEAD}",
    "open answers of a subject": f"TOKENWIRE_OPEN_PER_SUBJECT`: {Settings.model_fields['open_per_subject'].default}",
    "bytes that a subject stores a day": f"TOKENWIRE_DAILY_PER_SUBJECT`: "
    f"{Settings.model_fields['daily_per_subject'].default} MiB",
    "bytes that a conversation stores a day": f"TOKENWIRE_DAILY_PER_CONVERSATION`: "
    f"{Settings.model_fields['daily_per_conversation'].default} MiB",
    "history of a conversation": f"about {log_entries.MAX_ENTRIES:,} entries",
    "messages in a snapshot": f"{history_replica.MAX_MESSAGES}",
    "text of an answer": f"TOKENWIRE_LONGEST`: {Settings.model_fields['longest'].default:,} bytes",
    "history in a prompt": f"TOKENWIRE_CONTEXT`: {Settings.model_fields['context'].default:,} characters",
}
"""Rows of the table of limits in OPERATIONS.md."""

NO_SETTINGS: Final = {"TOKENWIRE_HYPOTHESIS", "TOKENWIRE_TEST_STORES", "TOKENWIRE_DISCONNECTS", "TOKENWIRE_JWTKEY"}
"""Variables of the tests, and the example of a misspelled one."""

HEADINGS: Final = ("Context", "Decision", "Measured", "Rejected")
"""The headings of a decision, in this order; only the decision itself is required."""


def rows(page: str) -> Iterator[list[str]]:
    """Yield the cells of every table row, without code markers."""
    for line in page.splitlines():
        if line.startswith("|"):
            yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def sections(page: str) -> Iterator[tuple[str, str]]:
    """Yield every heading with its text, up to the next heading of the same or a higher level."""
    lines = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE).splitlines()
    for number, line in enumerate(lines):
        heading = re.match(r"(#+) (.+)", line)
        if heading:
            under = lines[number + 1 :]
            end = next(
                (n for n, other in enumerate(under) if re.match(rf"#{{1,{len(heading[1])}}} ", other)), len(under)
            )
            yield heading[2], "\n".join(under[:end])


def documentation_of(name: str) -> str:
    """Return the text about `name` on the protocol page: its table rows and its sections."""
    return "\n".join(
        [
            *(" ".join(row) for row in rows(PROTOCOL) if row[0] == name),
            *(text for heading, text in sections(PROTOCOL) if re.search(rf"`{name}`", heading) or heading == name),
        ]
    )


@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings_page_documents_setting(name: str) -> None:
    assert re.search(rf"`TOKENWIRE_{name.upper()}`", SETTINGS)


@pytest.mark.parametrize("frame", [*CLIENT_FRAMES, *(member.__struct_config__.tag for member in get_args(ServerFrame))])
def test_protocol_documents_frame(frame: str) -> None:
    assert documentation_of(frame)


@pytest.mark.parametrize(("frame", "field"), FIELDS)
def test_protocol_documents_client_field(frame: str, field: str) -> None:
    assert re.search(rf"\b{field}\b", documentation_of(frame))


@pytest.mark.parametrize("code", wire.ERRORS)
def test_protocol_documents_error(code: str) -> None:
    assert f"`{code}`" in PROTOCOL or code in (row[0] for row in rows(PROTOCOL))


def failure_codes() -> set[str]:
    """Return the codes with which the code ends an answer as failed, but for those of the demo."""
    makers = ("Problem", "ProviderError", "_fail")
    found = {FAILED}
    for package in ("gateway", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(
                        func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(code)), *_]
                    ) if name in makers and not code.startswith("demo_"):
                        found.add(code)
    return found


@pytest.mark.parametrize("code", sorted(failure_codes()))
def test_protocol_documents_failure(code: str) -> None:
    section = PROTOCOL.partition("### Why an answer failed")[2].partition("\n## ")[0]
    assert f"`{code}`" in section


@pytest.mark.parametrize("code", [int(code) for code in Close])
def test_protocol_documents_close_code(code: int) -> None:
    assert re.search(rf"\b{code}\b", PROTOCOL)


async def test_protocol_documents_every_route() -> None:
    store = await open_store("memory://")
    try:
        settings = load({"operator_token": "x" * 16})
        listed = routes(Gateway(settings, store, 8000, None), settings)
    finally:
        await store.close()
    # Names of path parameters may differ.
    page = re.sub(r"\{\w+\}", "{}", PROTOCOL)
    missing = []
    for route in listed:
        if isinstance(route, (Route, WebSocketRoute)):
            path = re.escape(re.sub(r"\{\w+\}", "{}", route.path))
            posted = isinstance(route, Route) and "POST" in (route.methods or ())
            if not re.search((r"POST[ `|]+" if posted else "") + path + r"(?![\w/{])", page):
                missing.append(route.path)
    assert missing == []


def test_every_long_form_has_a_command() -> None:
    page = document("tests/README.md")
    commands = [words for row in rows(page) for words in row[0].split() if words.startswith("tests/")]
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(
            r"^@pytest\.mark\.long|^pytestmark = pytest\.mark\.long|marks=.*pytest\.mark\.long", path.read_text(), re.M
        )
    }
    assert marked
    for path in commands:
        assert (ROOT / path).exists(), path
    assert {path for path in marked if not path.startswith(tuple(commands))} == set()


def pages() -> list[str]:
    """Return all Markdown files of the repository; without git, those outside of installed packages."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [page for page in listed.stdout.splitlines() if (ROOT / page).exists()]
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
    return [str(file) for file in files if not {"node_modules", ".venv"} & set(file.parts)]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", pages())
def test_every_relative_link_exists(page: str) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", document(page), flags=re.DOTALL | re.MULTILINE)
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        anchors = (
            {anchor(heading) for heading, _ in sections(file.read_text())} if fragment and file.exists() else set()
        )
        if not file.exists() or (fragment and fragment not in anchors):
            missing.append(target)
    assert missing == []


def test_operations_page_lists_limits_of_the_code() -> None:
    listed = {row[0]: row[1] for row in rows(document("gateway/OPERATIONS.md")) if row[0] in LIMITS}
    assert listed == LIMITS


def test_index_of_decisions_lists_every_record() -> None:
    listed = [(row[0], row[1]) for row in rows(document("gateway/decisions/README.md")) if row[0].isdigit()]
    titles = [path.read_text().splitlines()[0].removeprefix("# ").partition(" ") for path in DECISIONS]
    expected = [(n, f"[{title}]({path.name})") for (n, _, title), path in zip(titles, DECISIONS, strict=True)]
    assert listed == expected
    assert [number for number, _ in listed] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name[:4])
def test_decision_has_date_and_headings(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.name[:4]} ")
    assert re.search(r"^Date: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert "Decision" in headings
    assert headings == [heading for heading in HEADINGS if heading in headings]


def test_referenced_decisions_exist() -> None:
    numbers = {path.name[:4] for path in DECISIONS}
    named = set()
    for folder in ("gateway", "workers", "tests", "web", "deploy"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in {".py", ".md", ".ts", ".lua", ".c"} and "node_modules" not in path.parts:
                named |= set(re.findall(r"decisions?/(\d{4})", path.read_text()))
    assert named - numbers == set()


@pytest.mark.parametrize("page", pages())
def test_every_path_and_setting_in_code_marks_exists(page: str) -> None:
    spans = re.findall(r"`([^`\n]+)`", document(page))
    paths = {span for span in spans if re.fullmatch(r"(gateway|workers|web|tests|deploy)/[\w./*-]+", span)}
    # Pages in tests/ name files relative to it.
    missing = {path for path in paths if not any([*root.glob(path.rstrip("/"))] for root in (ROOT, ROOT / "tests"))}
    named = {name for span in spans for name in re.findall(r"\bTOKENWIRE_[A-Z_]*[A-Z]\b", span)}
    missing |= {name for name in named if name.removeprefix("TOKENWIRE_").lower() not in Settings.model_fields}
    assert missing - NO_SETTINGS == set()
