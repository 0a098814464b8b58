"""An account as a frame and as text, by itself and beside that of held-out data."""

import math
from dataclasses import replace

import pandas as pd
import torch

from pyro_infomax.diagnostics import Decomposition
from pyro_infomax.information import Estimate


def estimate(value, error=0.5, population=0.75, bound="exact"):
    number = None if population is None else torch.tensor(population)
    return Estimate(torch.tensor(value), torch.tensor(error), number, bound, "a quantity")


HAD = estimate(0.125)
ACCOUNT = Decomposition(
    distortion=HAD,
    rate=estimate(1.0),
    elbo=estimate(-3.0, bound="lower"),
    mutual_information=HAD,
    marginal_kl=None,
    total_correlation=None,
    dimensionwise_kl=None,
    mutual_information_lower=HAD,
    mutual_information_upper=HAD,
    active_units=2,
    data_size=10,
    saturated=False,
    latent_names=("z[0]", "z[1]"),
)
HOLDOUT = replace(ACCOUNT, rate=estimate(2.0), decoder_gap=estimate(-0.25, population=None), data_size=5)
BOTH = replace(ACCOUNT, total_correlation=estimate(0.0625), holdout=HOLDOUT)


def test_a_row_a_quantity_and_a_fact():
    frame = ACCOUNT.to_frame()
    quantities = ["distortion", "rate", "elbo"]
    quantities += ["mutual_information", "mutual_information_lower", "mutual_information_upper"]
    assert list(frame.index) == [*quantities, "active_units", "data_size", "saturated"]
    assert frame.index.name == "quantity"
    assert list(frame.loc["elbo"]) == [-3.0, 0.5, 0.75, "lower", "a quantity"]
    assert frame.loc["data_size", "value"] == 10
    assert frame.loc["data_size", "target"] == "N"
    assert math.isnan(frame.loc["data_size", "standard_error"])


def test_what_is_not_claimed_of_a_population_is_nan():
    assert math.isnan(HOLDOUT.to_frame().loc["decoder_gap", "population_standard_error"])


def test_the_holdout_stands_beside_with_a_prefix():
    both = BOTH.to_frame()
    assert list(both.columns[5:]) == [f"holdout_{column}" for column in both.columns[:5]]
    assert both.index.name == "quantity"
    assert both.loc["rate", "value"] == 1
    assert both.loc["rate", "holdout_value"] == 2
    # a quantity that only one account has
    assert math.isnan(both.loc["total_correlation", "holdout_value"])
    assert both.loc["decoder_gap", "holdout_value"] == -0.25
    assert pd.isna(both.loc["decoder_gap", "bound"])


def test_a_lone_account_has_no_heading_of_its_own():
    lines = str(ACCOUNT).splitlines()
    assert lines[0].split() == ["nats", "per", "datum", "value", "s.e.", "pop.", "s.e.", "bound"]
    assert lines[2].split() == ["rate", "1.0000", "0.5000", "0.7500", "exact"]
    assert lines[3].split() == ["elbo", "-3.0000", "0.5000", "0.7500", "lower"]
    assert len({line.rindex(" ") for line in lines[:7]}) == 1  # the columns stand below each other
    assert lines[7:] == ["2 active of 2 latent dimensions, 10 data"]


def test_two_accounts_share_their_rows():
    heading, columns, *lines = str(BOTH).splitlines()
    assert heading.split() == ["training", "data", "held-out", "data"]
    assert columns.count("pop. s.e.") == 2
    row = {line.split()[0]: line for line in lines}
    assert row["rate"].split()[1:] == ["1.0000", "0.5000", "0.7500", "2.0000", "0.5000", "0.7500", "exact"]
    assert row["total_correlation"].split()[1:] == ["0.0625", "0.5000", "0.7500", "exact"]
    assert row["decoder_gap"].split()[1:] == ["-0.2500", "0.5000", "exact"]
    # numbers stand below the heading that they belong to
    assert row["total_correlation"].index("0.7500") + 6 == len(heading.split("held-out")[0].rstrip())
    assert row["decoder_gap"].index("-0.2500") > row["total_correlation"].index("0.7500")


def test_no_zero_has_a_sign():
    assert "-0.0000" not in str(replace(ACCOUNT, total_correlation=estimate(-1e-17)))


def test_a_line_a_reason():
    reasons = {"decoder_gap": "one reason.", "marginal_kl": "another", "prior_gap": "one reason."}
    lines = str(replace(ACCOUNT, unavailable=reasons)).splitlines()
    assert lines[-2] == "not available: decoder_gap, prior_gap (one reason)"
    assert lines[-1] == "not available: marginal_kl (another)"
