import pytest

from pyro_infomax.diagnostics._decompose import Attempt, missing_lines


def missing(reason="no closed form"):
    raise NotImplementedError(reason)


def test_what_is_there_is_returned_and_leaves_no_reason():
    attempt = Attempt()
    assert attempt(lambda: 3, "rate") == 3
    assert attempt.reasons == {}


def test_what_is_missing_is_none_for_all_of_its_names():
    attempt = Attempt()
    assert attempt(missing, "a", "b") is None
    assert attempt.reasons == {"a": "no closed form", "b": "no closed form"}


def test_a_reason_of_the_callers_takes_the_place_of_the_errors():
    attempt = Attempt()
    attempt(missing, "a", reason="too wide")
    assert attempt.reasons == {"a": "too wide"}


def test_what_is_known_to_be_missing_is_not_evaluated_again():
    attempt = Attempt()
    attempt(missing, "a", "b")
    assert attempt(lambda: pytest.fail("evaluated"), "b") is None
    assert attempt.reasons["b"] == "no closed form"


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError):
        Attempt()(lambda: 1 / 0, "a")


def test_a_line_a_reason():
    lines = list(missing_lines({"a": "one reason.", "b": "another", "c": "one reason."}))
    assert lines == ["not available: a, c (one reason)", "not available: b (another)"]


def test_a_reason_is_sought_only_where_one_is_needed() -> None:
    asked = []

    def reason() -> str:
        asked.append(1)
        return "the sites depend on each other"

    attempt = Attempt()
    assert attempt(lambda: 1.0, "rate", reason=reason) == 1.0
    assert not asked

    def missing() -> None:
        raise NotImplementedError("no closed form")

    assert attempt(missing, "marginals", reason=reason) is None
    assert attempt.reasons == {"marginals": "the sites depend on each other"}
