import math

import pandas as pd
import torch

from pyro_infomax.diagnostics._decompose import frame_of, lines_of, side_by_side
from pyro_infomax.information import Estimate


def estimate(value, error=0.5, population=0.75, bound="exact"):
    number = None if population is None else torch.tensor(population)
    return Estimate(torch.tensor(value), torch.tensor(error), number, bound, "a quantity")


TRAINING = {"rate": estimate(1.0), "elbo": estimate(-3.0, bound="lower")}
HOLDOUT = {"rate": estimate(2.0), "gap": estimate(-0.25, population=None)}
FACTS = {"data_size": (10.0, "N")}


def test_a_row_a_quantity_and_a_fact():
    frame = frame_of(TRAINING, FACTS)
    assert list(frame.index) == ["rate", "elbo", "data_size"]
    assert frame.index.name == "quantity"
    row = frame.loc["elbo"]
    assert list(row) == [-3.0, 0.5, 0.75, "lower", "a quantity"]
    assert frame.loc["data_size", "value"] == 10
    assert frame.loc["data_size", "target"] == "N"
    assert math.isnan(frame.loc["data_size", "standard_error"])


def test_what_is_not_claimed_of_a_population_is_nan():
    assert math.isnan(frame_of(HOLDOUT, {}).loc["gap", "population_standard_error"])


def test_the_holdout_stands_beside_with_a_prefix():
    both = side_by_side(frame_of(TRAINING, FACTS), frame_of(HOLDOUT, FACTS))
    assert list(both.columns[5:]) == [f"holdout_{column}" for column in both.columns[:5]]
    assert both.index.name == "quantity"
    assert both.loc["rate", "value"] == 1
    assert both.loc["rate", "holdout_value"] == 2
    # a quantity that only one account has
    assert math.isnan(both.loc["elbo", "holdout_value"])
    assert both.loc["gap", "holdout_value"] == -0.25
    assert pd.isna(both.loc["gap", "bound"])


def test_a_lone_account_has_no_heading_of_its_own():
    lines = list(lines_of({"training data": TRAINING}))
    assert lines[0].split() == ["nats", "per", "datum", "value", "s.e.", "pop.", "s.e.", "bound"]
    assert lines[1].split() == ["rate", "1.0000", "0.5000", "0.7500", "exact"]
    assert lines[2].split() == ["elbo", "-3.0000", "0.5000", "0.7500", "lower"]
    assert len({line.rindex(" ") for line in lines}) == 1  # the columns stand below each other


def test_two_accounts_share_their_rows():
    heading, columns, *lines = lines_of({"training data": TRAINING, "held-out data": HOLDOUT})
    assert heading.split() == ["training", "data", "held-out", "data"]
    assert columns.count("pop. s.e.") == 2
    assert lines[0].split() == ["rate", "1.0000", "0.5000", "0.7500", "2.0000", "0.5000", "0.7500", "exact"]
    assert lines[1].split() == ["elbo", "-3.0000", "0.5000", "0.7500", "lower"]
    assert lines[2].split() == ["gap", "-0.2500", "0.5000", "exact"]
    # numbers stand below the heading that they belong to
    assert lines[1].index("0.7500") + 6 == len(heading.split("held-out")[0].rstrip())
    assert lines[2].index("-0.2500") > lines[1].index("0.7500")


def test_no_zero_has_a_sign():
    assert "-0.0000" not in "".join(lines_of({"": {"tc": estimate(-1e-17)}}))
