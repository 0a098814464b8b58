"""Random pairs of programs: each objective and the account right, or refused by a sentence."""

import pytest

from tests.fuzz.checks import SILENT
from tests.fuzz.run import checks_of, script_of
from tests.fuzz.spec import draw


@pytest.mark.parametrize("block", range(4))
def test_no_pair_gives_a_wrong_number_without_a_word(block: int) -> None:
    for seed in range(25 * block, 25 * (block + 1)):
        pair = draw(seed)
        for check in checks_of(pair):
            found = check(pair)
            assert found.kind != SILENT, script_of(pair, check, found)
