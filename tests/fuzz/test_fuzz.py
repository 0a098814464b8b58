"""Random pairs of programs: each objective and the account right, or refused by a sentence."""

import pytest

from tests.fuzz.channel import ESTIMATORS, channel_checks
from tests.fuzz.checks import SILENT
from tests.fuzz.faults import FAULTS
from tests.fuzz.more_checks import CaptureCheck
from tests.fuzz.run import checks_of, objective_of, pairs_until_found, script_of
from tests.fuzz.spec import draw
from tests.infer.test_every_objective import TABLE


@pytest.mark.parametrize("block", range(4))
def test_no_pair_gives_a_wrong_number_without_a_word(block: int) -> None:
    for seed in range(10 * block, 10 * (block + 1)):
        pair = draw(seed)
        for check in checks_of(pair, objectives=1):
            if isinstance(check, CaptureCheck):  # which takes a second
                continue
            found = check(pair)
            assert found.kind != SILENT, script_of(pair, check, found)


def test_every_public_objective_is_reached() -> None:
    found = {objective_of(check) for seed in range(40) for check in checks_of(draw(seed), everything=True)}
    assert {name.split()[0] for name in TABLE} == (found - {None}) | {*ESTIMATORS}


def test_no_channel_gives_a_wrong_bound_without_a_word() -> None:
    for seed in range(5):
        for check in channel_checks(seed):
            found = check()
            assert found.kind != SILENT, (check.script(), found.details)


@pytest.mark.parametrize("fault", ["a weight is applied twice", "the account's rate lacks a site"])
def test_a_planted_fault_is_found(fault: str) -> None:
    assert pairs_until_found(FAULTS[fault], most=10) is not None
