"""``python -m tests.fuzz 10000 --seed 0 --jobs 2``: random pairs of programs against exact answers."""

import argparse
import signal
import sys
import time

from tests.fuzz.faults import FAULTS
from tests.fuzz.run import Tally, pairs_until_found, run, script_of, shrunk_failure, table_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("number", type=int, nargs="?", default=1000, help="how many pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--shown", type=int, default=10, help="the most failures to print as scripts")
    parser.add_argument("--faults", action="store_true", help="plant faults and see them found")
    given = parser.parse_args()
    if given.faults:
        return faults()
    start = time.monotonic()

    known = 0

    def progress(tally: Tally) -> None:
        nonlocal known
        for failure in tally.failures[known:]:
            print(failure.line, file=sys.stderr)
        known = len(tally.failures)
        wrong = len(tally.failures)
        seconds = time.monotonic() - start
        line = f"{tally.pairs} of {given.number} pairs, {wrong} silent errors, {seconds:.0f} s"
        print(line, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = run(given.seed, given.number, jobs=given.jobs, progress=progress)
    for line in table_of(tally):
        print(line)
    shown = {failure.family: failure for failure in reversed(tally.failures)}
    for failure in list(shown.values())[: given.shown]:
        print("\n" + "#" * 100)
        print(script_of(*shrunk_failure(failure)))
    return 1 if tally.failures else 0


def faults() -> int:
    """Plants each fault, and says by which pair it is found."""
    missed = 0
    for name, plant in FAULTS.items():
        found = pairs_until_found(plant)
        missed += found is None
        how = "NOT FOUND" if found is None else f"{found[0]:5} pairs, by {found[1].outcome.check}"
        print(f"{name:60} {how}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
