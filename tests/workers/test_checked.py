"""What a provider yields is checked before it is written."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_COUNT, End, Problem
from workers.providers import Finish, ProviderError, checked
from workers.providers.checked import FAILED, MAX_COUNTS, MAX_MESSAGE_CHARACTERS, MESSAGE, failure, finish

ANYTHING: Final = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())
)


def error(code: Any = "mine", message: Any = "Mine.", retryable: Any = True, retry_after: Any = None) -> ProviderError:
    return ProviderError(code, message, retryable=retryable, retry_after=retry_after)


@given(
    ANYTHING | st.just("complete"), st.dictionaries(ANYTHING.filter(lambda each: not isinstance(each, list)), ANYTHING)
)
def test_finish_that_passes_can_be_read(reason: Any, usage: dict[Any, Any]) -> None:
    passed = finish(Finish(reason, usage))
    if passed is not None:
        end = End(passed.reason, usage=dict(passed.usage))
        assert log_entries.decode_response_entry(log_entries.encode(log_entries.END, end)) == end


def test_valid_finish_passes_as_a_copy() -> None:
    counts = {"input_tokens": MAX_COUNT, "output_tokens": 0}
    passed = finish(Finish("length", MappingProxyType(counts)))
    assert passed == Finish("length", counts)
    counts["output_tokens"] = 7
    assert passed.usage["output_tokens"] == 0


@pytest.mark.parametrize(
    ("reason", "usage"),
    [
        ("done", {}),
        (None, {}),
        ([], {}),
        ("complete", None),
        ("complete", [("input_tokens", 1)]),
        ("complete", {"cost_usd": 0.00012}),
        ("complete", {"input_tokens": True}),
        ("complete", {"input_tokens": MAX_COUNT + 1}),
        ("complete", {1: 1}),
        ("complete", {"\ud800": 1}),
        ("complete", {"n" * 65: 1}),
    ],
)
def test_invalid_finish_is_refused(reason: Any, usage: Any) -> None:
    assert finish(Finish(reason, usage)) is None


def test_negative_counts_are_left_out() -> None:
    assert finish(Finish("complete", {"input_tokens": -1, "output_tokens": 3})) == Finish(
        "complete", {"output_tokens": 3}
    )


@pytest.mark.parametrize(("number", "passes"), [(MAX_COUNTS, True), (MAX_COUNTS + 1, False)])
def test_counts_are_limited(number: int, passes: bool) -> None:
    assert (finish(Finish("complete", {f"n{index}": 1 for index in range(number)})) is not None) is passes


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_every_error_can_be_written_and_read(code: Any, message: Any, retryable: Any, retry_after: Any) -> None:
    checked = failure(error(code, message, retryable, retry_after))
    assert checked.retry_after is None or 0 <= checked.retry_after < float("inf")
    end = End("failed", error=Problem(checked.code, checked.message), retryable=checked.retryable)
    assert log_entries.decode_response_entry(log_entries.END + msgspec.json.encode(end)) == end


@pytest.mark.parametrize("retry_after", [None, 0, 3, 0.5])
def test_valid_error_is_passed_on(retry_after: float | None) -> None:
    valid = error(retry_after=retry_after)
    assert failure(valid) is valid


@pytest.mark.parametrize("code", [429, None, "", "two words", "n" * 65, "\ud800"])
def test_error_with_an_invalid_code_says_that_the_generator_failed(code: Any) -> None:
    checked = failure(error(code, "Too many."))
    assert (checked.code, checked.message, checked.retryable) == (FAILED, MESSAGE, True)


@pytest.mark.parametrize(
    ("message", "written"),
    [(5, MESSAGE), ("a\ud800b", "a?b"), ("x" * (MAX_MESSAGE_CHARACTERS + 1), "x" * MAX_MESSAGE_CHARACTERS)],
)
def test_invalid_message_is_repaired(message: Any, written: str) -> None:
    checked = failure(error(message=message, retry_after=2))
    assert (checked.code, checked.message, checked.retry_after) == ("mine", written, 2.0)


def test_longest_message_is_passed_on() -> None:
    valid = error(message="x" * MAX_MESSAGE_CHARACTERS)
    assert failure(valid) is valid


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), -1, True, "3"])
def test_invalid_pause_is_left_out(retry_after: Any) -> None:
    checked = failure(error(retry_after=retry_after))
    assert (checked.code, checked.message, checked.retry_after) == ("mine", "Mine.", None)


def test_retryable_must_be_a_boolean() -> None:
    assert failure(error(retryable=1)).retryable is False


def test_error_whose_class_left_out_the_attributes_says_that_the_generator_failed() -> None:
    class OddError(ProviderError):
        def __init__(self) -> None:
            Exception.__init__(self)

    assert failure(OddError()).code == FAILED


def test_traceback_begins_where_the_code_of_the_operator_does() -> None:
    def generator() -> None:
        raise KeyError("here")

    code = compile("def call(function):\n    function()\n", str(Path(checked.__file__).parent / "python.py"), "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(KeyError) as raised:
        names["call"](generator)
    kind, error, traceback = checked.operator_traceback(raised.value)
    assert (kind, error) == (KeyError, raised.value)
    # The first frame is this test, which called into the package.
    assert traceback is not None
    assert traceback.tb_frame.f_code.co_name == "test_traceback_begins_where_the_code_of_the_operator_does"
    inner = raised.value.with_traceback(traceback.tb_next)
    _, _, traceback = checked.operator_traceback(inner)
    assert traceback is not None
    assert traceback.tb_frame.f_code.co_name == "generator"
    assert traceback.tb_next is None


def test_error_that_was_not_raised_has_no_traceback() -> None:
    error = TypeError("yield str")
    assert checked.operator_traceback(error) == (TypeError, error, None)


def test_detail_and_usage_of_an_error_are_checked() -> None:
    good = error()
    good.detail, good.usage = "insufficient_system_resource", {"output_tokens": 3}
    assert failure(good) is good
    assert (good.detail, good.usage) == ("insufficient_system_resource", {"output_tokens": 3})
    wrong = error()
    wrong.detail, wrong.usage = "<script>", {"output_tokens": "many"}  # type: ignore[dict-item]
    assert (failure(wrong).detail, failure(wrong).usage) == ("", {})

    class MineError(ProviderError):
        def __init__(self) -> None:
            self.code, self.message, self.retryable, self.retry_after = "mine", "Mine.", True, None

    assert (failure(MineError()).detail, failure(MineError()).usage) == ("", {})
