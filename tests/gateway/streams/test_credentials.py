"""Keys of providers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.streams.credentials import clean, key_of, read_credentials

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "value", ["sk-1", "sk-1\n", "\r\n sk-1\t", '"sk-1"', "'sk-1'\n", '" sk-1\n"', "\ufeffsk-1", "\u00a0sk-1\u2028"]
)
def test_surroundings_of_a_key_are_removed(value: str) -> None:
    assert clean(value) == "sk-1"


@pytest.mark.parametrize("value", ["sk\n-1", "sk\x00", "sk\u200b-1", "s\u2013k", "sk\r\nX-Admin: 1", "sk\x7f"])
def test_characters_that_cannot_be_sent_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"character \d+ of \d+ is U\+") as error:
        clean(value)
    assert "sk" not in str(error.value)


def test_credentials_are_cleaned_and_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbfsk-2\r\n")
    environment = {"OPENAI_API_KEY": "sk-1\n", "ANTHROPIC_API_KEY": f"@{file}", "OPENAI_BASE_URL": " http://a/v1\n"}
    read_credentials(environment)
    assert environment == {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2", "OPENAI_BASE_URL": "http://a/v1"}
    with pytest.raises(ValueError, match=r"ANTHROPIC_API_KEY: character 3 of 5 is U\+000A") as error:
        read_credentials({"ANTHROPIC_API_KEY": "sk\n-3"})
    assert "-3" not in str(error.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"OPENAI_API_KEY=@.*: the file is not UTF-8 text"):
        read_credentials({"OPENAI_API_KEY": f"@{file}"})


def test_key_of_a_target_is_read_from_a_file_or_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-2\n")
    assert key_of(f"@{file}", {}) == "sk-2"
    assert key_of("MINE", {"MINE": "sk-3 "}) == "sk-3"
    assert key_of("MINE", {"MINE": f"@{file}"}) == "sk-2"
    with pytest.raises(ValueError, match="key MINE: it is empty or not set"):
        key_of("MINE", {})
    with pytest.raises(ValueError, match="key @/nowhere: the file cannot be read"):
        key_of("@/nowhere", {})
