"""Every public objective through everything that takes objectives: a new one has to stand in the table."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI

from pyro_infomax import infer
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.diagnostics import decompose, to_arviz
from pyro_infomax.nn import QuadraticCritic
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

N, BATCH = 32, 4

# ---- Pairs of programs: two Normal latent sites, a discrete one, and a channel.


def normal_model(x: torch.Tensor, total: int = N) -> None:
    weight, bias = pyro.param("weight", torch.eye(3)[:, :2] * 0.7), pyro.param("bias", torch.zeros(2))
    with pyro.plate("data", total, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([z, u], -1) @ weight + bias, 0.6).to_event(1), obs=x)


def normal_guide(x: torch.Tensor, total: int = N) -> None:
    slope, scale = pyro.param("slope", torch.eye(2) * 0.4), pyro.param("scale", torch.tensor(-0.5)).exp()
    with pyro.plate("data", total, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))
        pyro.sample("u", dist.Normal(0.3 * x[:, :1], scale).to_event(1))


def discrete_model(x: torch.Tensor, total: int = N) -> None:
    corners = pyro.param("corners", torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    with pyro.plate("data", total, subsample_size=len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        pyro.sample("x", dist.Normal(corners[z], 0.8).to_event(1), obs=x)


def discrete_guide(x: torch.Tensor, total: int = N, *, enumerate: str | None = None) -> None:
    logits = x @ pyro.param("slope", torch.tensor([[0.5, 0.0, -0.4], [0.0, 0.5, -0.4]]))
    with pyro.plate("data", total, subsample_size=len(x)):
        pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": enumerate} if enumerate else {})


def sender(x: torch.Tensor, total: int = N, *, enumerate: str | None = None) -> Any:
    signal = pyro.param("signal", torch.tensor([[0.3, -0.2], [-0.5, 0.4]]))
    with pyro.plate("data", total, subsample_size=len(x)):
        infer = {"enumerate": enumerate} if enumerate else {}
        return pyro.sample("y", dist.Categorical(logits=signal[(x[:, 0] > 0).long()]), infer=infer)


def receiver(y: torch.Tensor, x: torch.Tensor, total: int = N) -> None:
    logits = pyro.param("decoder", torch.tensor([[0.6, -0.1], [0.2, 0.9]]))
    with pyro.plate("data", total, subsample_size=len(x)):
        pyro.sample("sign", dist.Categorical(logits=logits[y]), obs=(x[:, 0] > 0).long())


NORMAL = (normal_model, normal_guide)
DISCRETE = (discrete_model, discrete_guide)
ENUMERATED = (discrete_model, partial(discrete_guide, enumerate="parallel"))
CHANNEL = (receiver, sender)
ENUMERATED_CHANNEL = (receiver, partial(sender, enumerate="parallel"))


def data() -> torch.Tensor:
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(7))


# ---- The table.


@dataclass(frozen=True)
class Case:
    """An objective, and what is to be known of it.

    Attributes:
        make: takes keyword arguments beside those that are given here.
        weight: the name of an argument that takes a schedule.
        wrong: an argument that is out of its range, and what the sentence about it says.
        pair: of programs that it trains.
        whole: what has to be said where the plate does not show how many data there are.
        uncaptured: why no step of it can be recorded.
        one_particle: why it has only one.
        bound: whether it is of all particles together, rather than a mean over them.
        trained: False where another one of the table differs by its arguments, or names of weights, alone.
        discrete: what is said where a latent site is discrete; nothing where that is all right.
    """

    make: Callable[..., Any]
    weight: str | None
    wrong: tuple[Mapping[str, Any], str]
    pair: tuple[Callable[..., Any], Callable[..., Any]] = NORMAL
    whole: Mapping[str, Any] = field(default_factory=dict)
    uncaptured: str | None = None
    one_particle: str | None = None
    bound: bool = False
    trained: bool = True
    discrete: str | None = None


def weighted(estimator: str, pair: Any, **more: Any) -> dict[str, Case]:
    """The objectives of one of Pyro's estimators."""

    def by_term(cls: Any, rate: Any = 2.0, **kwargs: Any) -> Any:
        return cls(weights={"rate": rate}, **kwargs)

    names = {kind: f"{estimator}_{kind}ELBO" for kind in ("Beta", "InfoMax", "Weighted")}
    other = {"trained": False, **more}
    classes = {kind: getattr(infer, name) for kind, name in names.items()}
    return {
        names["Beta"]: Case(classes["Beta"], "beta", ({"beta": -1.0}, "beta >= 0"), pair, **more),
        names["InfoMax"]: Case(classes["InfoMax"], "lam", ({"lam": -2.0}, "lam > -1"), pair, **other),
        names["Weighted"]: Case(
            partial(by_term, classes["Weighted"]), "rate", ({"rate": -1.0}, "rate >= 0"), pair, **other
        ),
    }


def by_critic(cls: Any, *parts: int) -> Callable[..., Any]:
    return lambda **kwargs: cls(QuadraticCritic(*parts), **{"critic_steps": 2, **kwargs})


SIZE = {"data_size": N}
NOT_REPARAMETERISED = "needs reparameterised guide sites but .* is not; use"
TABLE: dict[str, Case] = {
    **weighted("Trace", NORMAL),
    **weighted("TraceGraph", NORMAL),
    **weighted("TraceMeanField", NORMAL, discrete=NOT_REPARAMETERISED),
    **weighted("TraceEnum", ENUMERATED),
    "Trace_IM": Case(infer.Trace_IM, None, ({"num_particles": 0.5}, "num_particles"), CHANNEL),
    "TraceGraph_IM": Case(infer.TraceGraph_IM, None, ({"num_particles": 0.5}, "num_particles"), CHANNEL),
    "TraceEnum_IM": Case(
        infer.TraceEnum_IM,
        None,
        ({"num_particles": 0.5}, "num_particles"),
        ENUMERATED_CHANNEL,
        uncaptured="TraceEnum_IM has no loss that stays in tensors",
    ),
    # several draws
    "Renyi_WeightedELBO": Case(
        lambda distortion=2.0, num_particles=2, **kwargs: infer.Renyi_WeightedELBO(
            weights={"distortion": distortion}, num_particles=num_particles, **kwargs
        ),
        "distortion",
        ({"distortion": -1.0}, "distortion >"),
        bound=True,
    ),
    **{
        name: Case(
            partial(getattr(infer, name), lam=0.5, num_particles=2),
            "lam",
            ({"lam": -2.0}, "lam > -1"),
            bound=True,
            discrete=refusal,
        )
        for name, refusal in {
            "Renyi_InfoMaxELBO": None,
            "IWAE_InfoMaxELBO": "use VIMCO",
            "DReG_InfoMaxELBO": "use VIMCO",
            "VIMCO_InfoMaxELBO": None,
            "TVO_InfoMaxELBO": None,
            "RWS_InfoMaxELBO": None,
        }.items()
    },
    "STL_BetaELBO": Case(
        infer.STL_BetaELBO,
        "beta",
        ({"beta": -1.0}, "beta >= 0"),
        one_particle="use DReG_InfoMaxELBO",
        discrete="use VIMCO",
    ),
    "STL_InfoMaxELBO": Case(
        infer.STL_InfoMaxELBO,
        "lam",
        ({"lam": -2.0}, "lam > -1"),
        one_particle="use DReG_InfoMaxELBO",
        discrete="use VIMCO",
    ),
    # both directions
    "ReverseKL": Case(
        infer.ReverseKL, None, ({"num_simulations": 0}, "num_simulations"), one_particle="use num_simulations"
    ),
    "WakeSleepELBO": Case(infer.WakeSleepELBO, None, ({"num_simulations": 0}, "num_simulations"), bound=True),
    "HarmonyELBO": Case(
        lambda distortion=2.0, **kwargs: infer.HarmonyELBO(weights={"distortion": distortion}, **kwargs),
        "distortion",
        ({"distortion": -1.0}, "distortion >= 0"),
        discrete=NOT_REPARAMETERISED,
    ),
    # parts of the rate
    "DecomposedELBO": Case(
        infer.DecomposedELBO,
        "mutual_information",
        ({"total_correlation": -1.0}, "total_correlation >= 0"),
        whole=SIZE,
        discrete=NOT_REPARAMETERISED,
    ),
    "beta_tcvae": Case(
        infer.beta_tcvae,
        "beta",
        ({"beta": -1.0}, ">= 0"),
        whole=SIZE,
        trained=False,
        discrete=NOT_REPARAMETERISED,
    ),
    "GroupedELBO": Case(
        infer.GroupedELBO,
        "total_correlation_between",
        ({"dimensionwise_kl": -1.0}, "dimensionwise_kl >= 0"),
        whole=SIZE,
        discrete=NOT_REPARAMETERISED,
    ),
    "hfvae": Case(
        infer.hfvae,
        "beta",
        ({"gamma": -1.0}, ">= 0"),
        whole=SIZE,
        trained=False,
        discrete=NOT_REPARAMETERISED,
    ),
    "MarginalELBO": Case(
        infer.MarginalELBO,
        "marginal_kl",
        ({"marginal_kl": -1.0}, "marginal_kl >= 0"),
        whole=SIZE,
        discrete=NOT_REPARAMETERISED,
    ),
    "infovae": Case(
        infer.infovae,
        None,
        ({"lam": -1.0}, "marginal_kl >= 0"),
        whole=SIZE,
        trained=False,
        discrete=NOT_REPARAMETERISED,
    ),
    "DirectInfoMax": Case(
        infer.DirectInfoMax, "lam", ({"mmd": -1.0}, "mmd >= 0"), whole=SIZE, discrete=NOT_REPARAMETERISED
    ),
    # discrepancies
    "MMDELBO": Case(
        infer.MMDELBO, "mmd", ({"mmd": -1.0}, "mmd >= 0"), whole=SIZE, discrete=NOT_REPARAMETERISED
    ),
    "mmd_vae": Case(
        infer.mmd_vae,
        None,
        ({"lam": -1.0}, "lam >= 1 - alpha"),
        whole=SIZE,
        trained=False,
        discrete=NOT_REPARAMETERISED,
    ),
    "wae": Case(
        infer.wae, "lam", ({"lam": -1.0}, ">= 0"), whole=SIZE, trained=False, discrete=NOT_REPARAMETERISED
    ),
    "SlicedWassersteinELBO": Case(
        infer.SlicedWassersteinELBO,
        "sliced_wasserstein",
        ({"num_projections": 0}, "num_projections"),
        discrete=NOT_REPARAMETERISED,
    ),
    "DIPELBO": Case(
        infer.DIPELBO,
        "off_diagonal",
        ({"diagonal": -1.0}, "diagonal >= 0"),
        whole=SIZE,
        discrete=NOT_REPARAMETERISED,
    ),
    # targets
    "CapacityELBO": Case(
        lambda capacity=0.5, **kwargs: infer.CapacityELBO(capacity, **kwargs),
        "capacity",
        ({"capacity": -1.0}, "capacity >= 0"),
        discrete=NOT_REPARAMETERISED,
    ),
    "FreeBitsELBO": Case(
        lambda free=0.2, **kwargs: infer.FreeBitsELBO(free, **kwargs),
        "free",
        ({"free": -1.0}, "free >= 0"),
        discrete=NOT_REPARAMETERISED,
    ),
    "FreeBitsELBO by site": Case(
        lambda free=0.2, **kwargs: infer.FreeBitsELBO(free, by="site", **kwargs),
        "free",
        ({"free": -1.0}, "free >= 0"),
        trained=False,
        discrete=NOT_REPARAMETERISED,
    ),
    **{
        name: Case(
            partial(infer.ConstrainedELBO, **held),
            None,
            ({"dual_lr": -1.0}, "dual_lr"),
            whole=whole,
            trained="distortion" not in held,
            discrete=NOT_REPARAMETERISED,
        )
        for name, held, whole in (
            ("ConstrainedELBO", {"rate": 0.5}, {}),
            ("ConstrainedELBO of distortion", {"distortion": 2.0}, {}),
            ("ConstrainedELBO of information", {"mutual_information": 0.5}, SIZE),
        )
    },
    # critics
    **{
        name: Case(
            by_critic(getattr(infer, name), *parts),
            weight,
            ({"critic_steps": -1}, "critic_steps"),
            discrete="not reparameterised: use",
        )
        for name, parts, weight in (
            ("FactorVAE", (3,), "gamma"),
            ("AVB", (2, 2, 1), "beta"),
            ("AdversarialELBO", (2, 2, 1), None),
            ("SymmetricELBO", (2, 2, 1), "gamma"),
        )
    },
}
ALIASES = {"BetaELBO": "TraceMeanField_BetaELBO", "InfoMaxELBO": "TraceMeanField_InfoMaxELBO"}
NO_OBJECTIVES = {
    "WeightedELBO": "the base of all",
    "AggregateELBO": "a base, of those with parts of the rate",
    "DiscrepancyELBO": "a base, of those with a discrepancy",
    "SizedELBO": "a base, of those that know how many data there are",
    "IMParts": "what a bound is made of",
    "LocalLatents": "what a joint cost reads",
    "PowerLimitedNormal": "an input",
    "SurrogateLoss": "what an evaluation gives",
    "TermWeights": "what weights are",
    "Terms": "what an evaluation is made of",
    "WeightsLike": "a type",
    "surrogate_loss": "an evaluation",
    "transmitted_information": "an evaluation",
}
EVERY = pytest.mark.parametrize("name", TABLE)


def test_no_public_objective_is_missing():
    named = {name.split()[0] for name in TABLE} | ALIASES.keys() | NO_OBJECTIVES.keys()
    assert named == set(infer.__all__)
    assert all(getattr(infer, alias) is getattr(infer, name) for alias, name in ALIASES.items())


# ---- Evaluations.


def loss_of(elbo: Any, pair: Any, x: torch.Tensor, *args: Any, step: bool = False, seed: int = 3) -> float:
    torch.manual_seed(seed)
    return float((elbo.loss_and_grads if step else elbo.loss)(*pair, x, *args))


@EVERY
def test_a_whole_batch_costs_as_much_where_the_plate_may_subsample(name):
    case, x = TABLE[name], data()

    def of_all(program):
        return lambda *args: program(*args, len(args[-1]))

    subsampled, whole = case.make(**case.whole), case.make(**case.whole)
    expected = loss_of(subsampled, case.pair, x, step=True)
    assert math.isfinite(expected)
    found = loss_of(whole, tuple(map(of_all, case.pair)), x, step=True)
    assert found == pytest.approx(expected, rel=1e-9)
    assert whole.terms == pytest.approx(subsampled.terms, rel=1e-9)
    assert whole.stands_for(N) == subsampled.stands_for(N) == N
    assert subsampled.terms.loss == pytest.approx(expected)
    # and half of them stands for all
    loss_of(subsampled, case.pair, x[:: N // BATCH])
    assert subsampled.stands_for(BATCH) == N


@EVERY
def test_validation_changes_nothing(name):
    case, x = TABLE[name], data()[:BATCH]
    expected = loss_of(case.make(), case.pair, x, step=True)
    gradients = {name: copy.copy(each.grad) for name, each in pyro.get_param_store().named_parameters()}
    pyro.clear_param_store()
    with pyro.validation_enabled(False):
        assert loss_of(case.make(), case.pair, x, step=True) == expected
    for name, each in pyro.get_param_store().named_parameters():
        assert_same(each.grad, gradients[name])


@EVERY
def test_several_particles_are_averaged_or_bound_more(name):
    case, x = TABLE[name], data()[:BATCH]
    if case.one_particle is not None:
        with pytest.raises(NotImplementedError, match=case.one_particle):
            case.make(num_particles=2)
        return
    elbo = case.make(num_particles=2)
    loss = loss_of(elbo, case.pair, x)
    if case.bound:
        assert elbo.terms.elbo > -elbo.terms.distortion - elbo.terms.rate
        return
    one = case.make(num_particles=1)
    torch.manual_seed(3)
    losses = [one.loss(*case.pair, x) for _ in range(2)]
    assert loss == pytest.approx(sum(losses) / 2, rel=1e-9)


@EVERY
def test_wrong_arguments_are_explained(name):
    case = TABLE[name]
    wrong, sentence = case.wrong
    with pytest.raises(ValueError, match=f"Expected .*{sentence}"):
        case.make(**wrong)
    several = case.one_particle is None
    with pytest.raises(
        ValueError if several else NotImplementedError,
        match="Expected num_particles" if several else case.one_particle,
    ):
        case.make(num_particles=0)
    state = case.make().state_dict()
    with pytest.raises(ValueError, match=r"Expected a state with the key.* but got .*'other'"):
        case.make().load_state_dict({**state, "other": 1})


@pytest.mark.parametrize("name", [name for name, case in TABLE.items() if case.weight])
def test_a_schedule_is_its_number_at_each_step(name):
    case, x = TABLE[name], data()[:BATCH]
    scheduled = case.make(**{case.weight: Linear(0.25, 2.0, 4)})
    for step, weight in ((0, 0.25), (2, 1.125), (4, 2.0), (9, 2.0)):
        scheduled.load_state_dict({**scheduled.state_dict(), "step": step})
        expected = loss_of(case.make(**{case.weight: weight}), case.pair, x)
        assert loss_of(scheduled, case.pair, x) == pytest.approx(expected, rel=1e-12)
    assert scheduled.step == 9
    loss_of(scheduled, case.pair, x, step=True)
    assert scheduled.step == 10


@pytest.mark.parametrize("name", [name for name, case in TABLE.items() if case.pair is NORMAL])
def test_a_discrete_latent_is_trained_or_refused_with_what_can_be_done(name):
    case, x = TABLE[name], data()[:BATCH]
    if case.discrete is not None:
        for validate in (True, False):
            with pyro.validation_enabled(validate), pytest.raises(NotImplementedError, match=case.discrete):
                case.make().loss_and_grads(*DISCRETE, x)
        return
    loss_of(case.make(), DISCRETE, x, step=True)
    assert float(pyro.param("slope").unconstrained().grad.abs().max()) > 0


# ---- Trainings.


class Trained:
    """A training of two epochs, or of the first of them."""

    def __init__(self, case: Case, kind: Any, *, epochs: int = 2, **options: Any) -> None:
        pyro.clear_param_store()
        self.elbo = case.make(**({case.weight: Linear(0.25, 2.0, 6)} if case.weight else {}))
        self.svi = kind(*case.pair, FusedOptim(torch.optim.Adam, {"lr": 0.01}), self.elbo)
        self.calls: list[int] = []  # of so many steps each
        if kind is CapturedSVI:
            self.svi.steps_by_call = self.counted
        silent = {"progress": False, "seed": 0}
        self.history = fit(self.svi, data(), epochs=epochs, batch_size=BATCH, **silent, **options)
        self.frame = self.history.to_frame().drop(columns="seconds")

    def counted(self, *args: Any) -> Any:
        for taken in CapturedSVI.steps_by_call(self.svi, *args):
            self.calls.append(len(taken.losses))
            yield taken

    @property
    def left(self) -> tuple[Any, ...]:
        """What it has left behind: the parameters, and the objective's state."""
        return parameters(), self.elbo.state_dict()


def parameters() -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in pyro.get_param_store().named_parameters()}


def assert_same(one: Any, other: Any) -> None:
    """To the bit, whatever they are made of."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for each, twin in zip(one, other, strict=True):
            assert_same(each, twin)
    else:
        assert one == other


@pytest.mark.parametrize("name", [name for name, case in TABLE.items() if case.trained])
def test_a_captured_training_that_is_resumed_is_the_ordinary_one_to_the_bit(name, tmp_path):
    case, x = TABLE[name], data()
    ordinary = Trained(case, SVI)
    expected = ordinary.left
    assert ordinary.elbo.step == 2 * N // BATCH
    assert set(ordinary.elbo.terms) <= set(ordinary.frame)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trained(case, CapturedSVI, epochs=1, checkpoint=tmp_path / "kept.pt")
        resumed = Trained(case, CapturedSVI, checkpoint=tmp_path / "kept.pt", resume=True)
    assert_same(resumed.left, expected)
    # But for the last digit of a term that ordinary steps divide by its weight
    pd.testing.assert_frame_equal(resumed.frame, ordinary.frame, rtol=1e-13, atol=1e-13)
    reasons = [str(each.message) for each in caught]
    if case.uncaptured is None:
        assert not reasons
        assert resumed.svi.captured, resumed.svi.reason
        assert max(resumed.calls) > 1
    else:
        assert not resumed.svi.captured
        assert [case.uncaptured in each for each in reasons] == [True, True]
    # what training has left goes into another one, and a copy is one of its own
    elbo = resumed.elbo
    state, again, copied = elbo.state_dict(), case.make(), copy.deepcopy(elbo)
    again.load_state_dict(state)
    assert_same(again.state_dict(), state)
    assert_same(copied.state_dict(), state)
    assert loss_of(copied, case.pair, x[:BATCH]) == loss_of(elbo, case.pair, x[:BATCH])
    loss_of(copied, case.pair, x[:BATCH], step=True)
    assert_same(elbo.state_dict(), state)
    assert copied.step == elbo.step + 1
    # nor does a state change with the objective that it is of
    loss_of(elbo, case.pair, x[:BATCH], step=True)
    assert_same(state, again.state_dict())
    if case.pair not in (CHANNEL, ENUMERATED_CHANNEL):
        assert math.isfinite(float(decompose(*case.pair, x, seed=0).rate))
        made = to_arviz(*case.pair, x, num_samples=2, history=ordinary.history, seed=0)
        assert made.posterior["z"].shape[1] == 2
