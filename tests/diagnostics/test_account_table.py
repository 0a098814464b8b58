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
    assert lines[7:] == ["2 active of 2 latent dimensions, 10 data (ln N = 2.3026)"]


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


def test_numbers_too_wide_for_their_column_stand_apart() -> None:
    huge = replace(ACCOUNT, distortion=estimate(43527259.2, 32617684.33, 32617684.33))
    for text in (str(huge), huge.table()):
        row = next(line for line in text.splitlines() if line.startswith("distortion"))
        assert row.split() == ["distortion", "4.35e+07", "3.26e+07", "3.26e+07", "exact"]


# ---- what is read first


def good() -> LinearGaussian:
    return LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=2, s2=0.3)


def collapsed() -> LinearGaussian:
    pair = good()
    return LinearGaussian(pair.S, pair.W, pair.s2, 0 * pair.V, torch.eye(2))


def account_of(pair, x, **options) -> Decomposition:
    return decompose(pair.model, pair.guide, x, seed=0, progress=False, **options)


def printed(pair, x, **options) -> list[str]:
    return str(account_of(pair, x, **options)).splitlines()


def advice(lines: list[str]) -> dict[str, str]:
    """The words below each line that has any."""
    said: dict[str, str] = {}
    name = ""
    heading = next(place for place, line in enumerate(lines) if line.startswith("nats per datum"))
    for line in lines[heading + 1 :]:
        if line.startswith("  "):
            said[name] = f"{said.get(name, '')} {line.strip()}".strip()
        else:
            name = line.split()[0].rstrip(",")
    return said


def test_a_good_pair_takes_eight_lines_without_advice() -> None:
    account = account_of(good(), good().sample(600, seed=0))
    lines = str(account).splitlines()
    first = ["distortion", "rate", "elbo", "mutual_information", "mutual_information_upper"]
    first += ["marginal_kl", "total_correlation", "dimensionwise_kl, sum of 2"]
    assert [line.split("  ")[0] for line in lines[1:9]] == first
    assert len(lines) == 11
    assert lines[0].split() == ["nats", "per", "datum", "value", "s.e.", "pop.", "s.e.", "bound"]
    assert lines[9] == f"2 active of 2 latent dimensions, 600 data (ln N = {math.log(600):.4f})"
    number = len(list(account.estimates()))
    assert lines[10] == f"all {number} quantities: .table() as text, .to_frame() as a frame"
    frame = account.to_frame()
    for line, name in zip(lines[1:8], first, strict=False):
        row = frame.loc[name]
        numbers = [f"{row[each]:.4f}" for each in ("value", "standard_error", "population_standard_error")]
        assert line.split()[1:] == [*numbers, row["bound"]]
    total = frame.loc[["dimensionwise_kl[z[0]]", "dimensionwise_kl[z[1]]"], "value"].sum()
    # what the errors of the dimensions have in common is not known
    assert lines[8].split()[4:] == [f"{total:.4f}", "exact"]


def test_a_holdout_of_the_same_kind_stands_beside_without_advice() -> None:
    lines = printed(good(), good().sample(600, seed=0), holdout=good().sample(500, seed=1))
    assert lines[0].split() == ["training", "data", "held-out", "data"]
    assert len(lines) == 13
    assert len(lines[3].split()) == 8
    assert advice(lines) == {}


def test_one_dimension_is_not_split_further() -> None:
    pair = LinearGaussian.optimum([4.0, 1.0], beta=1.0, latent_dim=1, s2=0.3)
    lines = printed(pair, pair.sample(300, seed=0))
    assert [line.split()[0] for line in lines[5:7]] == ["mutual_information_upper", "marginal_kl"]
    assert len(lines) == 9


def test_collapsed_codes_are_told_what_to_do() -> None:
    pair = collapsed()
    said = advice(printed(pair, pair.sample(500, seed=0)))
    assert list(said) == ["rate"]
    assert said["rate"].startswith("collapsed: the posteriors hardly differ from the prior; lower beta")
    # one code for all data that is not the prior's is collapsed too, whatever its rate
    apart = LinearGaussian(pair.S, pair.W, pair.s2, pair.V, 0.1 * torch.eye(2))
    lines = printed(apart, pair.sample(500, seed=0))
    assert float(lines[2].split()[1]) > 1
    assert advice(lines)["mutual_information"].startswith("collapsed: z tells next to nothing about x; ")
    # so few data tell little however good their codes are
    assert "collapsed" not in str(advice(printed(apart, pair.sample(5, seed=0))))


def test_what_holds_of_both_accounts_is_said_once() -> None:
    pair = collapsed()
    lines = printed(pair, pair.sample(300, seed=0), holdout=pair.sample(200, seed=1))
    assert advice(lines)["rate"].startswith("collapsed: ")
    assert "\n".join(lines).count("collapsed: ") == 1


def test_collapsed_dimensions_are_named() -> None:
    pair = LinearGaussian.optimum([4.0, 2.0, 0.3, 0.1], beta=1.0, latent_dim=4, s2=0.5)
    said = advice(printed(pair, pair.sample(200, seed=0)))
    assert list(said) == ["rate"]
    assert said["rate"].startswith("2 of 4 dimensions collapsed (z[2], z[3]: rate below 0.01 nats); harmless")
    assert "lower beta, use free bits (FreeBitsELBO) or a weaker decoder" in said["rate"]


def test_saturated_codes_are_sent_to_the_upper_bound() -> None:
    sharp = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-8])
    said = advice(printed(sharp, sharp.sample(200, seed=0), num_samples=4))
    text = f"saturated: N = 200 data can show at most ln N = {math.log(200):.4f}; use more data, or read "
    assert list(said) == ["mutual_information"]  # and no other prior for the gap that is of so few data
    assert said["mutual_information"].endswith(text + "mutual_information_upper")


def test_a_saturated_holdout_is_told_apart() -> None:
    pair = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-3])
    lines = printed(pair, pair.sample(900, seed=0), holdout=pair.sample(15, seed=1))
    said = advice(lines)["mutual_information"]
    assert "held-out data: saturated: N = 15 " in said
    assert "training data: saturated" not in said


def test_held_out_data_that_lose_are_told() -> None:
    pair, x, far = good(), good().sample(300, seed=0), 2 * good().sample(300, seed=1)
    account = account_of(pair, x, holdout=far)
    lost = float(account.elbo) - float(account.holdout.elbo)
    said = advice(str(account).splitlines())
    assert said["elbo"].startswith(f"held-out data lose {lost:.2f} nats: overfitted, or data of another kind")
    # the other way round nothing is lost, and so few data show nothing
    assert "elbo" not in advice(printed(pair, far, holdout=x))
    for few in (1, 19):
        assert "elbo" not in advice(printed(pair, x, holdout=far[:few]))


def test_a_prior_that_codes_miss_is_told() -> None:
    pair = good()
    far = LinearGaussian(pair.S, pair.W, pair.s2, 1.6 * pair.V, pair.Delta)
    x, held = far.sample(900, seed=0), far.sample(400, seed=1)
    account = account_of(far, x, ceiling=False, holdout=held)
    alone = replace(account, holdout=None)
    text = "a better prior (pyro_infomax.priors) would gain "
    gap = f"{float(alone.prior_gap):.2f}"
    assert advice(str(alone).splitlines()) == {"marginal_kl": f"{text}up to {gap} nats on these data"}
    # a mixture that was made of other data says it with more right
    gap = f"{float(account.holdout.prior_gap):.2f}"
    assert advice(str(account).splitlines())["marginal_kl"] == f"{text}at least {gap} nats on held-out data"
    gain = replace(account.prior_gap, value=torch.tensor(0.3), bound="lower")
    said = advice(str(replace(account, prior_gain=gain)).splitlines())
    assert said["marginal_kl"] == f"{text}at least 0.30 nats on data that it was not fitted to"
    nothing = replace(gain, value=torch.tensor(-0.3))
    assert "marginal_kl" not in advice(str(replace(account, prior_gain=nothing)).splitlines())


def test_codes_that_depend_on_each_other_are_told() -> None:
    pair = good()
    twice = LinearGaussian(pair.S, pair.W, pair.s2, pair.V[[0, 0]], pair.Delta)
    said = advice(printed(twice, pair.sample(500, seed=0)))
    assert said["total_correlation"].startswith("the dimensions depend on each other; where they should not")


def test_no_prior_that_has_dependences_asks_for_independent_codes() -> None:
    def prior(x) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(4.0 * k - 2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def independent(x) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=4.0 * x), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(0.8 * x, 0.45))

    generator = torch.Generator().manual_seed(0)
    x = 2.0 * torch.randint(0, 2, (300,), generator=generator) - 1.0
    x = 2.0 * x + 1.1 * torch.randn(300, generator=generator)
    account = decompose(prior, independent, x, seed=0)
    assert float(account.total_correlation) > 0.3
    lines = str(account).splitlines()
    assert "total_correlation" not in advice(lines)
    assert [line.split()[0] for line in lines[7:10]] == ["total_correlation", "site_rate[k]", "site_rate[z]"]
    assert any(line.startswith("not available: dimensionwise_kl (") for line in lines)
    assert max(map(len, lines)) <= 100


def test_what_joins_the_parts_of_the_marginal_kl_stands_below_them() -> None:
    def of_two(scale):
        return dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]) * scale)

    def model(x) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", of_two(1.0))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.45).to_event(1))

    x = of_two(1.2).sample((300,))
    account = decompose(model, guide, x, seed=0)
    value = {line.split("  ")[0]: line for line in str(account).splitlines()}
    parts = [value[name].removeprefix(name).split()[0] for name in value if name.split(",")[0] in PARTS]
    assert len(parts) == 3
    assert sum(map(float, parts)) == pytest.approx(float(account.marginal_kl), abs=2e-4)


PARTS = ("total_correlation", "dimensionwise_kl", "prior_dependence")


@pytest.mark.parametrize(
    ("saturated", "error", "size", "said"),
    [
        (False, 0.25, 100, True),
        (False, 0.35, 100, False),  # not by three errors
        (True, 0.25, 100, False),  # of so few data
        (False, 0.25, 19, False),
    ],
)
def test_a_gap_from_the_prior_is_told_where_it_is_clear(saturated, error, size, said) -> None:
    gap = estimate(1.0, 0.0, error)
    account = replace(ACCOUNT, data_size=size, saturated=saturated, marginal_kl=gap, prior_gap=gap)
    assert ("marginal_kl" in advice(str(account).splitlines())) is said


@pytest.mark.parametrize(
    ("lost", "error", "size", "said"),
    [
        (1.0, 0.2, 100, True),
        (1.0, 0.3, 100, False),  # three errors of a difference of two
        (0.05, 0.0, 100, False),
        (1.0, 0.2, 19, False),
        (1.0, math.nan, 100, False),
    ],
)
def test_a_loss_on_held_out_data_is_told_where_it_is_clear(lost, error, size, said) -> None:
    account = replace(ACCOUNT, elbo=estimate(-2.0, 0.0, error), data_size=100)
    holdout = replace(account, elbo=estimate(-2.0 - lost, 0.0, error), data_size=size)
    assert ("elbo" in advice(str(replace(account, holdout=holdout)).splitlines())) is said


def test_a_note_is_said_once() -> None:
    note = "there are too few"
    lines = str(replace(ACCOUNT, rate=replace(HAD, note=note), elbo=replace(HAD, note=note))).splitlines()
    assert [line for line in lines if note in line] == [lines[3]]
    assert lines[2].startswith("rate")


def test_what_is_not_finite_is_told_and_claims_nothing_else() -> None:
    def uniform(x) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - 1.0, z + 1.0, validate_args=False), obs=x)

    def guide(x) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 1.0))

    x = torch.linspace(-2.0, 2.0, 100)
    lines = str(decompose(uniform, guide, x, holdout=x[:50], num_samples=4, seed=0)).splitlines()
    assert "  it has no finite value: " in lines[3]
    row = next(line for line in lines if line.startswith("elbo"))
    assert row.split() == ["elbo", "-inf", "nan", "nan", "-inf", "nan", "nan", "lower"]
    assert "elbo" not in advice(lines)
    # nan is no reason for advice either
    nothing = estimate(math.nan, math.nan, math.nan)
    empty = replace(ACCOUNT, elbo=nothing, rate=nothing, mutual_information=nothing, data_size=100)
    assert advice(str(replace(empty, holdout=empty)).splitlines()) == {}


def test_what_is_missing_of_the_first_lines_has_its_reason() -> None:
    reasons = {"decoder_gap": "one reason.", "marginal_kl": "another", "dimensionwise_kl": "word " * 100}
    lines = str(replace(ACCOUNT, unavailable=reasons)).splitlines()
    assert "not available: marginal_kl (another)" in lines
    assert not any("one reason" in line for line in lines)
    place = next(
        n for n, line in enumerate(lines) if line.startswith("not available: dimensionwise_kl (word")
    )
    assert lines[place + 1].startswith("  word")
    assert "…" in f"{lines[place + 1]} {lines[place + 2]}"
    assert max(map(len, lines)) <= 100


def test_draws_of_global_latents_are_told_in_lines_that_fit() -> None:
    spread = {"rate": 0.25, "distortion": 0.5, "mutual_information": 0.75}
    draws = ({"m": torch.zeros(1)},) * 3
    lines = str(replace(ACCOUNT, global_draws=draws, global_spread=spread)).splitlines()
    assert "over 3 draws of the global latents" in lines[-3]
    assert lines[-2].endswith("mutual_information 0.7500")
    assert max(map(len, lines)) <= 100


# ---- sites that differ by a number


def chain(x) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("s", dist.Normal(torch.zeros(2), 1.0).to_event(1)).sum(-1)
        for t in range(7):
            z = pyro.sample(f"z_{t}", dist.Normal(0.5 * z, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def chain_guide(x) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("s", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for t in range(7):
            pyro.sample(f"z_{t}", dist.Normal(x * (t + 1) / 20, 1.0))


def test_numbered_sites_are_summed_up_where_little_is_printed() -> None:
    x = torch.randn(40, generator=torch.Generator().manual_seed(0))
    account = decompose(chain, chain_guide, x, seed=0)
    frame = account.to_frame()["value"]
    lines = str(account).splitlines()
    rows = {line.split("  ")[0]: line for line in lines if line.startswith("site_rate[")}
    assert list(rows) == ["site_rate[s]", "site_rate[z_0…z_6], sum of 7"]
    total = sum(frame[f"site_rate[z_{t}]"] for t in range(7))
    # a sum of estimates whose joint error is not known has none
    assert rows["site_rate[z_0…z_6], sum of 7"].split()[4:] == [f"{total:.4f}", "exact"]
    assert rows["site_rate[s]"].split()[1] == f"{frame['site_rate[s]']:.4f}"
    assert "1 of 8 sites collapsed (s: rate below 0.01 nats)" in advice(lines)["rate"]
    # all of them are left to the table and the frame
    everything = [line.split()[0] for line in account.table().splitlines()]
    for t in range(7):
        assert f"site_rate[z_{t}]" in everything
        assert f"site_rate[z_{t}]" in frame.index


def test_a_sum_of_values_without_errors_has_none_but_zero() -> None:
    names = tuple(f"z_{t}" for t in range(5))
    zeros = torch.zeros(5)
    known = Estimate(torch.arange(5.0), zeros, None, "exact", "the rate of each site")
    for error, shown in ((0.0, ["0.0000"]), (0.1, [])):
        account = replace(ACCOUNT, site_names=names, site_rate=replace(known, standard_error=zeros + error))
        row = next(line for line in str(account).splitlines() if line.startswith("site_rate["))
        assert row.split() == ["site_rate[z_0…z_4],", "sum", "of", "5", "10.0000", *shown, "exact"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["z_0", "z_1", "z_2"], ["z_0", "z_1", "z_2"]),  # too few for a family
        (["z_10", "top", "z_1", "z_2", "z_0"], ["z_0…z_10", "top"]),
        (["z_0", "a_1", "z_1", "a_0", "z_2", "a_2", "a_3"], ["z_0", "a_0…a_3", "z_1", "z_2"]),
        (["h0_z", "h1_z", "h2_z", "h3_z", "h4_w"], ["h0_z…h3_z", "h4_w"]),
        ([f"z_{i}_{j}" for i in (0, 1) for j in range(4)], ["z_0_0…z_0_3", "z_1_0…z_1_3"]),
        ([f"z_{i}_{j}" for i in range(4) for j in (0, 1)], ["z_0_0…z_3_0", "z_0_1…z_3_1"]),
        (["z", "y"], ["z", "y"]),
        ([f"a_very_long_name_{n}" for n in range(9)], ["a_very_long_name_0…8"]),
    ],
)
def test_what_makes_a_family(names: list[str], labels: list[str]) -> None:
    values = torch.arange(len(names)).double()
    rates = Estimate(values, torch.ones(len(names)), None, "exact", "the rate of each site")
    account = replace(ACCOUNT, site_names=tuple(names), site_rate=rates)
    lines = [line for line in str(account).splitlines() if line.startswith("site_rate[")]
    assert [line.split("]")[0] for line in lines] == [f"site_rate[{label}" for label in labels]
    sizes = [int(line.split("sum of ")[1].split()[0]) if "sum of" in line else 1 for line in lines]
    assert sum(sizes) == len(names)
    shown = [float(line.split("sum of ")[-1].split()[1]) for line in lines]
    assert sum(shown) == float(values.sum())  # each site once


def test_many_sites_without_a_family_are_left_to_the_table() -> None:
    names = ("a", "b", "c", "d", "e")
    rates = Estimate(torch.arange(5.0), torch.zeros(5), None, "exact", "the rate of each site")
    account = replace(ACCOUNT, site_names=names, site_rate=rates)
    assert "site_rate" not in str(account)
    assert "site_rate[e]" in account.table()
