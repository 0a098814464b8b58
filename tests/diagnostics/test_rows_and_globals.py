"""Which rows of a plate a program takes, and which latents are global: cases that are easily mistaken."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoGuideList, AutoNormal

from pyro_infomax import decompose, generative, to_arviz

close = torch.testing.assert_close
W = torch.linspace(-5, 5, 100, dtype=torch.float64)


def bound(x, *rows):
    """Each row of the plate has a mean of its own."""
    with pyro.plate(
        "data", 100, subsample_size=None if rows else len(x), subsample=rows[0] if rows else None
    ) as i:
        z = pyro.sample("z", dist.Normal(W[i], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def bound_guide(x, *rows):
    with pyro.plate(
        "data", 100, subsample_size=None if rows else len(x), subsample=rows[0] if rows else None
    ) as i:
        pyro.sample("z", dist.Normal(0.5 * (x + W[i]), 0.7))


def free_guide(x):
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7))


def rate(mean, w):
    return (((mean - w).square() + 0.49 - 1) / 2 - torch.tensor(0.7).log()).mean()


def test_rows_that_the_program_is_told():
    """``subsample=`` has the rows from the arguments, which are those of these data."""
    rows = torch.randperm(100)[:40]
    x = W[rows] + torch.randn(40)
    account = decompose(bound, bound_guide, (x, rows), seed=0)
    close(account.rate.value, rate(0.5 * (x + W[rows]), W[rows]))
    z = to_arviz(bound, bound_guide, (x, rows), num_samples=30, seed=0).posterior["z"].values[0]
    assert abs(torch.as_tensor(z).mean(0) - 0.5 * (x + W[rows])).max() < 5.5 * 0.7 / 30**0.5


def test_rows_that_differ_far_from_the_first():
    steps = torch.tensor([0.0, 5.0]).repeat_interleave(50)

    def model(x):
        with pyro.plate("data", 100, subsample_size=len(x)) as i:
            z = pyro.sample("z", dist.Normal(steps[i], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(100)
    for few in (x[80:], x[:40]):
        with pytest.raises(ValueError, match="values of its own for each row"):
            decompose(model, free_guide, few, batch_size=1)


def test_a_model_that_has_values_for_each_row_takes_no_other_data():
    x = torch.randn(100)
    with pytest.raises(ValueError, match="Expected a model of any data"):
        decompose(bound, free_guide, x, holdout=x.flip(0))
    joint, z = generative(bound), torch.randn(100)
    joint.log_likelihood(x, z)
    for data, values in ((x[3:], z[3:]), (x[:1], z), (x.flip(0), z)):
        with pytest.raises(ValueError, match="in their order"):
            joint.log_prior(values, data)
        with pytest.raises(ValueError, match="in their order"):
            joint.log_likelihood(data, values)


def test_a_site_that_is_local_in_one_program_alone():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))
        pyro.sample("y", dist.Normal(0.1 * x, 0.7).to_event(1))

    with pytest.raises(ValueError, match=r"\['y'\] are inside the data plate"):
        decompose(model, guide, torch.randn(5))


def grouped(x):
    with pyro.plate("groups", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + mu.sum(), 1.0), obs=x)


@pytest.mark.parametrize("listed", [False, True])
def test_medians_of_globals_in_plates(listed):
    x = torch.randn(30)
    guide = AutoNormal(grouped)
    if listed:
        inner, guide = guide, AutoGuideList(grouped)
        guide.append(inner)
    guide(x)
    inner = guide[0] if listed else guide
    with torch.no_grad():
        inner.locs.mu.copy_(torch.tensor([1.0, 2.0]))
    for seed in (0, 1):
        account = decompose(grouped, guide, x, seed=seed)
        close(account.global_values, {"mu": torch.tensor([1.0, 2.0])})
    loc, scale = (each.detach() for each in inner._get_loc_and_scale("z"))
    q, p = torch.distributions.Normal(loc, scale), torch.distributions.Normal(torch.zeros(30), 1.0)
    close(account.rate.value, torch.distributions.kl_divergence(q, p).mean())


def shifted(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Bernoulli(0.5))
    with pyro.plate("data", 40, subsample_size=len(x)) as i:
        z = pyro.sample("z", dist.Normal(100.0 * i, 1.0))
        pyro.sample("x", dist.Normal(z + mu + k, 1.0), obs=x)


def shifted_guide(x):
    mu = pyro.sample("mu", dist.Normal(0.3, 0.1))
    pyro.sample("k", dist.Bernoulli(0.4))
    with pyro.plate("data", 40, subsample_size=len(x)) as i:
        pyro.sample("z", dist.Normal(100.0 * i + mu, 0.7))


def test_given_values_stay_where_the_others_are_drawn():
    given = {"mu": -20, "k": 1}  # plain numbers, in whatever type
    account = decompose(shifted, shifted_guide, torch.randn(40), global_values=given, seed=0)
    close(account.rate.value, rate(torch.tensor(-20.0), 0.0))
    drawn = decompose(
        shifted, shifted_guide, torch.randn(40), global_values={"mu": -20.0}, num_global_draws=12, seed=0
    )
    close(drawn.rate.value, rate(torch.tensor(-20.0), 0.0))
    assert {float(each["k"]) for each in drawn.global_draws} == {0.0, 1.0}


def test_the_spread_is_that_of_the_globals_alone():
    def guide(x):
        pyro.sample("mu", dist.Delta(torch.tensor(0.3)))
        pyro.sample("k", dist.Delta(torch.tensor(1.0)))
        with pyro.plate("data", 40, subsample_size=len(x)) as i:
            pyro.sample("z", dist.Normal(100.0 * i, 0.7))

    account = decompose(shifted, guide, torch.randn(40), num_global_draws=3, seed=0)
    assert account.global_spread["distortion"] < 1e-9
    assert float(account.distortion.standard_error) > 0.01


def test_the_prior_of_arviz_takes_each_row_for_itself():
    found = to_arviz(shifted, shifted_guide, torch.randn(40), num_samples=12, predictive_data=0, seed=0)
    z = torch.as_tensor(found.prior["z"].values[0])
    assert float((z - 100.0 * torch.arange(12)).abs().max()) < 6


def test_enumerated_sites_do_not_bind_a_model_to_its_rows():
    def model(x):
        with pyro.plate("data", 50, subsample_size=len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + 3 * c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 50, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    x = torch.randn(50)
    account = decompose(model, guide, x[:5], num_samples=100, seed=0)
    gap = abs(float(account.rate) - float(rate(0.5 * x[:5], 0.0)))
    assert gap < 5 * float(account.rate.standard_error) + 1e-9


def test_dependence_of_discrete_sites_is_seen_in_few_data():
    table = torch.tensor([[[0.75, 0.25], [0.75, 0.25]], [[0.25, 0.75], [0.75, 0.25]]])

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Categorical(torch.tensor([0.63, 0.37])))
            pyro.sample("b", dist.Categorical(torch.tensor([0.52, 0.48])))
            pyro.sample("x", dist.Normal(-0.92, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("b", dist.Categorical(table[(x > 0).long(), a.long()]))

    for seed in range(3):
        account = decompose(model, guide, torch.tensor([1.13, -1.87]), num_samples=500, seed=seed)
        joint = 0.5 * table[[1, 0]]  # (data, a, b)
        mixture = joint.mean(0)
        right = (joint * (joint / mixture).log()).sum() / 2
        error = float(account.mutual_information.standard_error)
        assert 0 < error < 0.05
        assert abs(float(account.mutual_information) - float(right)) < 5 * error
