"""Wrong arguments end in sentences: a small part of what ``make fuzz-calls`` tries."""

from tests.fuzz.calls import fuzz


def test_wrong_arguments_end_in_sentences() -> None:
    found = fuzz(number=60, only="priors", each=4)
    assert found.raw == []
    assert found.ends["clear"] > 20
