"""An account as a frame and as text, by itself and beside that of held-out data."""

import math
from dataclasses import replace

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax import decompose
from pyro_infomax.diagnostics import Decomposition
from pyro_infomax.information import Estimate
from pyro_infomax.oracles import LinearGaussian


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
    lines = ACCOUNT.table().splitlines()
    assert lines[0].split() == ["nats", "per", "datum", "value", "s.e.", "pop.", "s.e.", "bound"]
    assert lines[2].split() == ["rate", "1.0000", "0.5000", "0.7500", "exact"]
    assert lines[3].split() == ["elbo", "-3.0000", "0.5000", "0.7500", "lower"]
    assert len({line.rindex(" ") for line in lines[:7]}) == 1  # the columns stand below each other
    assert lines[7:] == ["2 active of 2 latent dimensions, 10 data"]


def test_two_accounts_share_their_rows():
    heading, columns, *lines = BOTH.table().splitlines()
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
    assert "-0.0000" not in replace(ACCOUNT, total_correlation=estimate(-1e-17)).table()


def test_a_line_a_reason():
    reasons = {"decoder_gap": "one reason.", "marginal_kl": "another", "prior_gap": "one reason."}
    lines = replace(ACCOUNT, unavailable=reasons).table().splitlines()
    assert lines[-2] == "not available: decoder_gap, prior_gap (one reason)"
    assert lines[-1] == "not available: marginal_kl (another)"


# ---- what is read first


def good() -> LinearGaussian:
    return LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=2, s2=0.3)


def printed(pair, x, **options) -> list[str]:
    return str(decompose(pair.model, pair.guide, x, seed=0, progress=False, **options)).splitlines()


def remarks(lines: list[str]) -> str:
    below = [line for line in lines if line.startswith("  ")]  # the names of two accounts stand further right
    return " ".join(line.strip() for line in below if line[:10].strip())


def test_a_good_pair_takes_nine_lines_without_advice() -> None:
    pair = good()
    account = decompose(pair.model, pair.guide, pair.sample(1500, seed=0), seed=0)
    lines = str(account).splitlines()
    first = ["nats", "distortion", "rate", "elbo", "mutual_information", "marginal_kl", "total_correlation"]
    assert [line.split()[0] for line in lines[:7]] == first
    assert lines[7] == "2 active of 2 latent dimensions, 1500 data"
    assert (
        lines[8]
        == f"all {len(list(account.estimates()))} quantities: .table() as text, .to_frame() as a frame"
    )
    assert len(lines) == 9
    assert lines[2].split()[1] == f"{float(account.rate):.4f}"


def test_a_holdout_of_the_same_kind_stands_beside_without_advice() -> None:
    pair = good()
    lines = printed(pair, pair.sample(1500, seed=0), holdout=pair.sample(1000, seed=1))
    assert lines[0].split() == ["training", "data", "held-out", "data"]
    assert len(lines) == 11
    assert len(lines[2].split()) == 8


def test_collapsed_codes_are_told_what_to_do() -> None:
    pair = good()
    prior = LinearGaussian(pair.S, pair.W, pair.s2, 0 * pair.V, torch.eye(2))
    lines = printed(prior, pair.sample(500, seed=0))
    place = lines.index(next(line for line in lines if line.startswith("  collapsed: the codes tell")))
    assert lines[place - 1].startswith("mutual_information ")
    assert "lower beta" in remarks(lines)
    # one code for all data that is not the prior's is collapsed too, whatever its rate
    apart = LinearGaussian(pair.S, pair.W, pair.s2, 0 * pair.V, 0.1 * torch.eye(2))
    assert "collapsed" in remarks(printed(apart, pair.sample(500, seed=0)))
    # so few data tell little however good their codes are
    assert "collapsed" not in remarks(printed(prior, pair.sample(5, seed=0)))


def test_saturated_codes_show_their_bounds() -> None:
    sharp = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-8])
    lines = printed(sharp, sharp.sample(200, seed=0), num_samples=4)
    text = remarks(lines)
    assert f"saturated: within a nat of ln N = {math.log(200):.4f}" in text
    assert [line.split()[0] for line in lines[4:5]] == ["mutual_information"]
    upper = next(line for line in lines if line.startswith("mutual_information_upper"))
    assert lines[lines.index(upper) - 1].endswith("more data bring the two together")
    assert "another prior" not in text  # such a gap is of the number of data


def test_a_saturated_holdout_is_told_apart() -> None:
    pair = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-3])
    lines = printed(pair, pair.sample(2000, seed=0), holdout=pair.sample(15, seed=1), num_samples=4)
    assert "held-out data: saturated" in remarks(lines)
    assert "training data: saturated" not in remarks(lines)
    names = [line.split()[0] for line in lines]
    assert names.index("mutual_information_upper") < names.index("marginal_kl")


def test_held_out_data_that_lose_are_told() -> None:
    pair = good()
    lines = printed(pair, pair.sample(500, seed=0), holdout=2 * pair.sample(500, seed=1))
    place = lines.index(next(line for line in lines if line.startswith("  held-out data lose")))
    assert lines[place - 1].startswith("elbo ")
    account = decompose(pair.model, pair.guide, pair.sample(500, seed=0), seed=0)
    held = decompose(pair.model, pair.guide, 2 * pair.sample(500, seed=1), seed=0)
    assert f"{float(account.elbo) - float(held.elbo):.0f}." in lines[place]


def test_a_prior_that_codes_miss_is_told() -> None:
    pair = good()
    far = LinearGaussian(pair.S, pair.W, pair.s2, 1.6 * pair.V, pair.Delta)
    lines = printed(far, pair.sample(2000, seed=0), ceiling=False)
    assert "another prior (priors) would win up to 0." in remarks(lines)
    # mixtures that were fitted to other data say it with more right
    lines = printed(far, pair.sample(2000, seed=0), ceiling=True)
    assert "another prior (priors) would win at least 0." in remarks(lines)


def test_codes_that_depend_on_each_other_are_told() -> None:
    pair = good()
    twice = LinearGaussian(pair.S, pair.W, pair.s2, pair.V[[0, 0]], pair.Delta)
    assert "the dimensions depend on each other" in remarks(printed(twice, pair.sample(500, seed=0)))


def test_a_note_is_said_once() -> None:
    note = "there are too few"
    lines = str(replace(ACCOUNT, rate=replace(HAD, note=note), elbo=replace(HAD, note=note))).splitlines()
    assert [line for line in lines if note in line] == [lines[3]]
    assert lines[2].startswith("rate")


def test_what_is_missing_of_the_first_lines_has_its_reason() -> None:
    reasons = {"decoder_gap": "one reason.", "marginal_kl": "another"}
    lines = str(replace(ACCOUNT, unavailable=reasons)).splitlines()
    assert "not available: marginal_kl (another)" in lines
    assert not any("one reason" in line for line in lines)


# ---- sites that differ by a number


def chain(x) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("s", dist.Normal(torch.zeros(2), 1.0).to_event(1)).sum(-1)
        for t in range(12):
            z = pyro.sample(f"z_{t}", dist.Normal(0.5 * z, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def chain_guide(x) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("s", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for t in range(12):
            pyro.sample(f"z_{t}", dist.Normal(x * (t + 1) / 20, 1.0))


def test_numbered_sites_are_summed_up() -> None:
    account = decompose(chain, chain_guide, torch.randn(60), seed=0)
    frame = account.to_frame()["value"]
    for text in (str(account), account.table()):
        rows = {
            line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("site_rate[")
        }
        assert list(rows) == ["site_rate[s]", "site_rate[z_0…z_11]"]
        total = sum(frame[f"site_rate[z_{t}]"] for t in range(12))
        # a sum of estimates whose joint error is not known has none
        assert rows["site_rate[z_0…z_11]"] == [f"{total:.4f}", "exact"]
        assert rows["site_rate[s]"][0] == f"{frame['site_rate[s]']:.4f}"
    assert "site_information[z_0…z_11]" in account.table()
    assert "site_rate[z_3]" not in account.table()
    assert "site_rate[z_3]" in frame.index


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["z_0", "z_1", "z_2"], ["z_0", "z_1", "z_2"]),  # too few for a family
        (["z_0", "z_1", "z_2", "z_10"], ["z_0…z_10"]),
        (["z0[0]", "z0[1]", "z1[0]", "z2[0]", "z3[0]"], ["z0…z3"]),  # dimensions of the sites
        (["z[0]", "z[1]", "z[2]", "z[3]"], ["z[0]", "z[1]", "z[2]", "z[3]"]),  # dimensions of one site
        (["a_1", "a_2", "b_1", "b_2"], ["a_1", "a_2", "b_1", "b_2"]),
    ],
)
def test_what_makes_a_family(names: list[str], shown: list[str]) -> None:
    values = replace(HAD, value=torch.arange(len(names)), standard_error=torch.zeros(len(names)))
    account = replace(
        ACCOUNT, latent_names=tuple(names), dimensionwise_kl=replace(values, population_standard_error=None)
    )
    lines = [line for line in account.table().splitlines() if line.startswith("dimensionwise_kl")]
    assert [line.split()[0] for line in lines] == [f"dimensionwise_kl[{name}]" for name in shown]
    if len(shown) == 1:
        assert float(lines[0].split()[1]) == sum(range(len(names)))
