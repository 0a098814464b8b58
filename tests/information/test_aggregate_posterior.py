"""The exact mixture against full enumeration, of Normals, their images and any other posterior."""

import math

import numpy as np
import pyro.distributions as pyro_dist
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
    constraints,
)
from torch.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    SigmoidTransform,
    StickBreakingTransform,
)

from pyro_infomax.distributions import SideBySide
from pyro_infomax.information import AggregatePosterior, points_at_once

RELATIVE = 1e-12


def normal(loc: Tensor, scale: Tensor | float) -> Independent:
    return Independent(Normal(loc, torch.as_tensor(scale).expand(loc.shape)), 1)


def scores(posterior: Independent, z: Tensor) -> np.ndarray:
    """log q(z_j | x_n), (points, batch, latent), by its formula."""
    loc, scale = posterior.base_dist.loc.numpy(), posterior.base_dist.scale.numpy()
    return -0.5 * ((z.numpy()[:, None] - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def enumerated(table: np.ndarray, index: Tensor | None = None) -> np.ndarray:
    """The mixture over axis 1; with an index, without each row's own entry."""
    if index is None:
        return logsumexp(table, axis=1) - math.log(table.shape[1])
    rows = [np.delete(row, own, axis=0) for row, own in zip(table, index.tolist(), strict=True)]
    return enumerated(np.stack(rows))


@pytest.fixture(params=["moderate", "narrow", "apart", "narrow and apart", "mixed"])
def case(request: pytest.FixtureRequest) -> tuple[Independent, Tensor, Tensor]:
    spread, scale = {
        "moderate": (1.0, torch.tensor(0.5)),
        "narrow": (1.0, torch.tensor(1e-3)),
        "apart": (1e6, torch.tensor(1.0)),
        "narrow and apart": (1e6, torch.tensor(1e-3)),
        "mixed": (1.0, 10 ** (torch.rand(1100, 3) * 3 - 3)),
    }[request.param]
    posterior = normal(torch.randn(1100, 3) * spread, scale)  # more than one tile of columns, and of rows
    index = torch.randint(1100, (150,))
    return posterior, posterior.sample()[index], index


def test_the_mixture_and_the_rest_without_the_own_term_are_enumerated(case) -> None:
    posterior, z, index = case
    table = scores(posterior, z).sum(-1)
    found = AggregatePosterior(posterior).evaluate(z, index=index)
    np.testing.assert_allclose(found.log_prob, enumerated(table), rtol=RELATIVE)
    np.testing.assert_allclose(found.leave_one_out, enumerated(table, index), rtol=RELATIVE)


def test_marginals_are_the_enumerated_mixtures(case) -> None:
    posterior, z, index = case
    table = scores(posterior, z)
    found = AggregatePosterior(posterior).evaluate_marginals(z, index=index)
    # a value near 0 is the difference of terms of order 1 to 10
    np.testing.assert_allclose(found.log_prob, enumerated(table), rtol=RELATIVE, atol=RELATIVE)
    np.testing.assert_allclose(found.leave_one_out, enumerated(table, index), rtol=RELATIVE, atol=RELATIVE)


@pytest.mark.parametrize("family", ["normal", "another"])
def test_single_calls_give_what_one_pass_gives(family: str) -> None:
    posterior, z, index = normal(torch.randn(60, 3), 0.3), torch.randn(9, 3), torch.arange(9)
    aggregate = AggregatePosterior(posterior if family == "normal" else Adapter(posterior))
    joint, each = aggregate.evaluate(z, index=index), aggregate.evaluate_marginals(z)
    torch.testing.assert_close(aggregate.log_prob(z), joint.log_prob, rtol=RELATIVE, atol=RELATIVE)
    left = aggregate.log_prob_leave_one_out(z, index)
    torch.testing.assert_close(left, joint.leave_one_out, rtol=0, atol=0)
    torch.testing.assert_close(aggregate.log_prob_marginals(z), each.log_prob, rtol=0, atol=0)
    assert aggregate.evaluate(z).leave_one_out is None
    assert each.leave_one_out is None


def test_far_from_every_component_the_result_is_finite() -> None:
    posterior = normal(torch.randn(5, 2), 1e-3)
    z = torch.full((1, 2), 1e6)
    found = AggregatePosterior(posterior).log_prob(z)
    np.testing.assert_allclose(found, enumerated(scores(posterior, z).sum(-1)), rtol=RELATIVE)


def test_points_split_in_another_way_agree() -> None:
    posterior, z = normal(torch.randn(30, 2), 0.5), torch.randn(300, 2)
    aggregate = AggregatePosterior(posterior)
    parts = [aggregate.log_prob(part) for part in z.split(7)]
    torch.testing.assert_close(torch.cat(parts), aggregate.log_prob(z), rtol=RELATIVE, atol=0)


def test_permuting_the_data_changes_nothing_and_duplicating_them_neither() -> None:
    loc, scale, z = torch.randn(40, 3), torch.rand(40, 3) + 0.1, torch.randn(20, 3)
    expected = AggregatePosterior(normal(loc, scale)).log_prob(z)
    order = torch.randperm(40)
    permuted = AggregatePosterior(normal(loc[order], scale[order])).log_prob(z)
    doubled = AggregatePosterior(normal(loc.repeat(2, 1), scale.repeat(2, 1))).log_prob(z)
    torch.testing.assert_close(permuted, expected, rtol=RELATIVE, atol=0)
    torch.testing.assert_close(doubled, expected, rtol=RELATIVE, atol=0)


def test_a_twin_fills_the_place_of_what_is_left_out() -> None:
    loc = torch.randn(10, 2)
    twins = normal(loc.repeat_interleave(2, 0), 1e-2)
    z = loc + 1e-2
    left = AggregatePosterior(twins).log_prob_leave_one_out(z, torch.arange(0, 20, 2))
    np.testing.assert_allclose(
        left, enumerated(scores(normal(loc, 1e-2), z).sum(-1)) - math.log(19 / 10), 1e-12
    )


def test_float32_encoders_are_taken_in_double_precision() -> None:
    loc, z = torch.randn(50, 2, dtype=torch.float32), torch.randn(7, 2, dtype=torch.float32)
    single = Independent(Normal(loc, torch.full_like(loc, 0.125)), 1)
    expected = AggregatePosterior(normal(loc.double(), 0.125)).log_prob(z.double())
    torch.testing.assert_close(AggregatePosterior(single).log_prob(z), expected, rtol=0, atol=0)


def refuse_log_prob(posterior: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of a density without asking it is computed by matrix products."""
    for kind in (type(posterior), Normal, MultivariateNormal):
        monkeypatch.setattr(kind, "log_prob", None)


def test_pyro_normals_are_normals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loc, z = torch.randn(50, 2), torch.randn(7, 2)
    expected, posterior = AggregatePosterior(normal(loc, 0.5)).log_prob(z), pyro_dist.Normal(loc, 0.5)
    refuse_log_prob(posterior.to_event(1), monkeypatch)
    torch.testing.assert_close(AggregatePosterior(posterior.to_event(1)).log_prob(z), expected)


def full_covariance() -> tuple[MultivariateNormal, Tensor, Tensor]:
    loc, root = torch.randn(60, 3), torch.randn(60, 3, 3) * 0.3 + torch.eye(3)
    covariance = root @ root.mT
    return MultivariateNormal(loc, covariance), loc, covariance


def low_rank(diagonal: float = 1.0) -> LowRankMultivariateNormal:
    return LowRankMultivariateNormal(
        torch.randn(60, 3), torch.randn(60, 3, 1), diagonal * (0.5 + torch.rand(60, 3))
    )


@pytest.mark.parametrize(("family", "in_tiles"), [("full", True), ("low rank", True), ("student", False)])
def test_a_joint_density_is_the_enumerated_mixture(
    family: str, in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = {
        "full": lambda: full_covariance()[0],
        "low rank": low_rank,
        "student": lambda: Independent(StudentT(5.0, torch.randn(60, 3)), 1),
    }
    posterior = families[family]()
    z, index = torch.cat([torch.randn(45, 3), 30 * torch.randn(5, 3)]), torch.randint(60, (50,))
    table = posterior.log_prob(z[:, None]).numpy()
    if in_tiles:
        refuse_log_prob(posterior, monkeypatch)
    found = AggregatePosterior(posterior).evaluate(z, index=index)
    np.testing.assert_allclose(found.log_prob, enumerated(table), rtol=1e-11)
    np.testing.assert_allclose(found.leave_one_out, enumerated(table, index), rtol=1e-11)


def test_many_dimensions_with_all_their_products_are_left_to_the_family_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posterior = MultivariateNormal(torch.randn(4, 33), scale_tril=torch.eye(33).expand(4, 33, 33))
    z = torch.randn(3, 33)
    found = AggregatePosterior(posterior)
    expected = posterior.log_prob(z[:, None]).logsumexp(1) - math.log(4)
    torch.testing.assert_close(found.log_prob(z), expected)
    refuse_log_prob(posterior, monkeypatch)
    with pytest.raises(TypeError):
        found.log_prob(z)


@pytest.mark.parametrize("diagonal", [1.0, 1e-10, 1e-18])
def test_nearly_singular_low_rank_covariances_keep_their_digits(diagonal: float) -> None:
    """The factor's outer product alone would have lost what the diagonal adds."""
    factor = torch.tensor([[1.0], [1.0]]).expand(3, 2, 1)
    posterior = LowRankMultivariateNormal(torch.zeros(3, 2), factor, torch.full((3, 2), diagonal))
    along, across = 2 + diagonal, diagonal  # the eigenvalues
    z = torch.full((1, 2), math.sqrt(0.5 * along))
    expected = -0.5 - math.log(2 * math.pi) - 0.5 * (math.log(along) + math.log(across))
    found = AggregatePosterior(posterior).log_prob(z)
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-6, atol=0)


def test_points_that_do_not_fit_at_once_are_split() -> None:
    posterior = Adapter(normal(torch.randn(5000, 3), 0.5))
    assert points_at_once(posterior) == 8
    z, index = torch.randn(20, 3), torch.randint(5000, (20,))
    aggregate = AggregatePosterior(posterior)
    for evaluate in (aggregate.evaluate, aggregate.evaluate_marginals):
        whole = evaluate(z, index=index)
        parts = [evaluate(some, index=own) for some, own in zip(z.split(5), index.split(5), strict=True)]
        for name in ("log_prob", "leave_one_out"):
            apart = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(getattr(whole, name), apart, rtol=1e-14, atol=1e-14)


def test_marginals_of_a_full_covariance_are_normals() -> None:
    posterior, loc, covariance = full_covariance()
    z = torch.randn(50, 3)
    expected = normal(loc, covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    found = AggregatePosterior(posterior).log_prob_marginals(z)
    np.testing.assert_allclose(found, enumerated(scores(expected, z)), rtol=1e-11)


def test_marginals_of_a_low_rank_covariance_are_normals() -> None:
    loc, factor, z = torch.randn(20, 3), torch.randn(20, 3, 1), torch.randn(9, 3)
    posterior = LowRankMultivariateNormal(loc, factor, torch.ones(20, 3))
    expected = normal(loc, (factor.squeeze(-1) ** 2 + 1).sqrt())
    found = AggregatePosterior(posterior).log_prob_marginals(z)
    np.testing.assert_allclose(found, enumerated(scores(expected, z)), rtol=1e-11)


def test_marginals_of_factors_and_of_mixtures_of_factors() -> None:
    z, loc = torch.randn(9, 2), torch.randn(20, 2)
    students = Independent(StudentT(5.0, loc), 1)
    expected = StudentT(5.0, loc).log_prob(z[:, None]).numpy()
    np.testing.assert_allclose(
        AggregatePosterior(students).log_prob_marginals(z), enumerated(expected), 1e-12
    )
    means = torch.randn(20, 4, 2)
    weights = Categorical(torch.rand(20, 4))
    mixtures = MixtureSameFamily(weights, Independent(Normal(means, 0.5), 1))
    each = Normal(means, 0.5).log_prob(z[:, None, None]) + weights.logits[..., None]
    found = AggregatePosterior(mixtures).log_prob_marginals(z)
    np.testing.assert_allclose(found, enumerated(each.logsumexp(2).numpy()), rtol=1e-12)


class Adapter:
    """What is no distribution, yet samples and scores like one."""

    def __init__(self, inner: Independent) -> None:
        self.inner, self.batch_shape, self.event_shape = inner, inner.batch_shape, inner.event_shape

    def log_prob(self, z: Tensor) -> Tensor:
        return self.inner.log_prob(z)

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        return self.inner.base_dist.log_prob(z)


def test_an_object_with_its_own_marginals_will_do() -> None:
    posterior, z = normal(torch.randn(30, 2), 0.3), torch.randn(8, 2)
    adapter, expected = AggregatePosterior(Adapter(posterior)), AggregatePosterior(posterior)
    torch.testing.assert_close(adapter.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(adapter.log_prob_marginals(z), expected.log_prob_marginals(z))


def test_gradients_are_those_of_a_plain_logsumexp() -> None:
    loc = torch.randn(12, 2, requires_grad=True)
    scale = (torch.rand(12, 2) + 0.2).requires_grad_()
    z, index = torch.randn(5, 2, requires_grad=True), torch.arange(5)
    weights = torch.randn(5)

    aggregate = AggregatePosterior(Independent(Normal(loc, scale), 1))
    found, marginals = aggregate.evaluate(z, index=index), aggregate.evaluate_marginals(z, index=index)
    each = Normal(loc, scale).log_prob(z[:, None])
    keep = ~torch.nn.functional.one_hot(index, 12).bool()
    pairs = (
        (found.log_prob, each.sum(-1).logsumexp(1)),
        (found.leave_one_out, each.sum(-1)[keep].view(5, 11).logsumexp(1)),
        (marginals.log_prob.sum(-1), each.logsumexp(1).sum(-1)),
    )
    for one, other in pairs:
        wanted = torch.autograd.grad(other @ weights, (z, loc, scale), retain_graph=True)
        gradients = torch.autograd.grad(one @ weights, (z, loc, scale), retain_graph=True)
        torch.testing.assert_close(gradients, wanted, rtol=1e-11, atol=1e-13)


def test_the_differentiable_value_is_that_of_the_tiles() -> None:
    posterior, z = normal(torch.randn(40, 3), 0.3), torch.randn(8, 3)
    aggregate = AggregatePosterior(posterior)
    expected = aggregate.log_prob(z)
    torch.testing.assert_close(aggregate.log_prob(z.requires_grad_()), expected, rtol=RELATIVE, atol=0)


def test_outside_every_other_support_nothing_is_left() -> None:
    low = torch.tensor([[0.0], [10.0]])
    posterior = Independent(Uniform(low, low + 1, validate_args=False), 1, validate_args=False)
    z = torch.tensor([[0.5], [10.5]])
    aggregate = AggregatePosterior(posterior)
    torch.testing.assert_close(aggregate.log_prob(z), torch.full((2,), -math.log(2)))
    assert aggregate.log_prob_leave_one_out(z, torch.arange(2)).tolist() == [-math.inf, -math.inf]


def test_a_single_datum_is_its_own_aggregate_and_leaves_nothing() -> None:
    posterior, z = normal(torch.zeros(1, 2), 1.0), torch.randn(4, 2)
    aggregate = AggregatePosterior(posterior)
    torch.testing.assert_close(aggregate.log_prob(z), posterior.log_prob(z), rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="Expected at least 2 data to leave one out but got 1"):
        aggregate.log_prob_leave_one_out(z, torch.zeros(4, dtype=torch.long))


def test_no_points_give_no_values() -> None:
    assert AggregatePosterior(normal(torch.zeros(3, 2), 1.0)).log_prob(torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize(
    "posterior",
    [
        Normal(torch.zeros(4, 2), 1.0),
        Independent(Normal(torch.zeros(2), 1.0), 1),
        Independent(Normal(torch.zeros(4, 3, 2), 1.0), 1),
        Independent(Normal(torch.zeros(4, 3, 2), 1.0), 2),
        Independent(Normal(torch.zeros(0, 2), 1.0), 1),
    ],
)
def test_other_shapes_are_refused(posterior: Independent) -> None:
    with pytest.raises(
        ValueError, match=r"Expected a posterior of batch shape \(N,\) and event shape \(d,\)"
    ):
        AggregatePosterior(posterior)


def test_points_of_another_shape_are_refused() -> None:
    aggregate = AggregatePosterior(normal(torch.zeros(4, 2), 1.0))
    with pytest.raises(ValueError, match=r"Expected z of shape \(M, 2\) but got \(5, 3\)"):
        aggregate.log_prob(torch.zeros(5, 3))


@pytest.mark.parametrize(
    "index", [torch.zeros(4), torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.bool)]
)
def test_an_index_that_does_not_fit_is_refused(index: Tensor) -> None:
    aggregate = AggregatePosterior(normal(torch.zeros(4, 2), 1.0))
    with pytest.raises(ValueError, match=r"Expected index of shape \(4,\), an integer"):
        aggregate.log_prob_leave_one_out(torch.zeros(4, 2), index)


@pytest.mark.parametrize("own", [-1, 4])
def test_an_index_out_of_range_is_refused(own: int) -> None:
    aggregate = AggregatePosterior(normal(torch.zeros(4, 2), 1.0))
    with pytest.raises(ValueError, match="Expected index from 0 to 3"):
        aggregate.log_prob_leave_one_out(torch.zeros(1, 2), torch.tensor([own]))


def test_means_that_are_not_finite_are_refused() -> None:
    loc = torch.tensor([[0.0], [math.nan]])
    with pytest.raises(ValueError, match="Expected finite means of the posterior"):
        AggregatePosterior(Independent(Normal(loc, 1.0, validate_args=False), 1))


@pytest.mark.parametrize("scale", [0.0, math.inf, math.nan])
def test_scales_that_are_not_positive_and_finite_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="Expected positive, finite scales of the posterior"):
        AggregatePosterior(Independent(Normal(torch.zeros(3, 2), scale, validate_args=False), 1))


def test_unknown_marginals_are_refused_with_the_reason() -> None:
    flow = TransformedDistribution(normal(torch.zeros(4, 1), 1.0), [StickBreakingTransform()])
    with pytest.raises(
        NotImplementedError, match=r"univariate marginals are known .* got TransformedDistribution"
    ):
        AggregatePosterior(flow).log_prob_marginals(torch.full((1, 2), 0.5))
    assert AggregatePosterior(flow).log_prob(torch.full((1, 2), 0.5)).shape == (1,)


@pytest.mark.parametrize("family", ["normal", "another"])
def test_the_bar_is_shown_only_when_it_takes_long_and_not_when_unwanted(
    family: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior, z = normal(torch.zeros(4, 2), 1.0), torch.zeros(300, 2)
    posterior = posterior if family == "normal" else Adapter(posterior)
    AggregatePosterior(posterior).log_prob(z)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("pyro_infomax._progress._PATIENCE", 0.0)
    unwanted = AggregatePosterior(posterior, progress=False)
    unwanted.evaluate(z)
    unwanted.evaluate_marginals(z)
    assert capsys.readouterr().err == ""
    AggregatePosterior(posterior).log_prob(z)
    assert "aggregate posterior" in capsys.readouterr().err


def test_where_no_other_support_reaches_the_gradient_is_that_of_the_own_component() -> None:
    low = torch.tensor([[0.0], [10.0]])
    width = torch.ones(2, 1, requires_grad=True)
    apart = Independent(Uniform(low, low + width, validate_args=False), 1, validate_args=False)
    aggregate, own = AggregatePosterior(apart), torch.arange(2)
    joint, marginals = (
        aggregate.evaluate(low + 0.5, index=own),
        aggregate.evaluate_marginals(low + 0.5, index=own),
    )
    (joint.log_prob + marginals.log_prob.sum(-1)).sum().backward()
    torch.testing.assert_close(width.grad, torch.full((2, 1), -2.0))


@pytest.mark.parametrize(
    "posterior", [torch.zeros(4, 2), None, Independent(Normal(torch.zeros(4, 0), 1.0), 1)]
)
def test_what_is_no_posterior_over_latents_is_refused(posterior: object) -> None:
    with pytest.raises(ValueError, match=r"Expected a posterior of batch shape \(N,\) and event shape"):
        AggregatePosterior(posterior)


# ---- Normals behind a transform that all data share


def positive(loc: Tensor, scale: Tensor) -> Independent:
    return Independent(LogNormal(loc, scale), 1)


def between(loc: Tensor, scale: Tensor) -> Independent:
    """On an interval for each dimension."""
    low, width = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([2.0, 5.0, 1.0])
    steps = [SigmoidTransform(), AffineTransform(low, width)]
    return Independent(TransformedDistribution(Normal(loc, scale), steps), 1)


def simplex(loc: Tensor, scale: Tensor) -> TransformedDistribution:
    return TransformedDistribution(Independent(Normal(loc, scale), 1), [StickBreakingTransform()])


def full_and_positive(loc: Tensor, scale: Tensor) -> TransformedDistribution:
    tril = torch.diag_embed(scale) + 0.2 * torch.ones(3, 3).tril(-1)
    return TransformedDistribution(MultivariateNormal(loc, scale_tril=tril), [ExpTransform()])


def side_by_side(loc: Tensor, scale: Tensor) -> Independent:
    parts = [Normal(loc[:, :2], scale[:, :2]), LogNormal(loc[:, 2:], scale[:, 2:])]
    return Independent(SideBySide(parts), 1)


TRANSFORMED = [positive, between, simplex, full_and_positive, side_by_side]


@pytest.mark.parametrize("family", TRANSFORMED)
def test_transformed_normals_are_the_enumerated_mixture_and_scored_in_tiles(family, monkeypatch) -> None:
    posterior = family(torch.randn(1100, 3), 0.3 + torch.rand(1100, 3))
    index = torch.randint(1100, (150,))
    z = posterior.sample()[index]
    table = posterior.log_prob(z[:, None]).numpy()
    refuse_log_prob(posterior, monkeypatch)
    found = AggregatePosterior(posterior).evaluate(z, index=index)
    np.testing.assert_allclose(found.log_prob, enumerated(table), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.leave_one_out, enumerated(table, index), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", [positive, between, side_by_side])
def test_transformed_factors_have_marginals(family) -> None:
    posterior = family(torch.randn(300, 3), 0.3 + torch.rand(300, 3))
    index = torch.randint(300, (50,))
    z = posterior.sample()[index]
    found = AggregatePosterior(posterior).evaluate_marginals(z, index=index)
    table = posterior.base_dist.log_prob(z[:, None]).numpy()
    np.testing.assert_allclose(found.log_prob, enumerated(table), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.leave_one_out, enumerated(table, index), rtol=0, atol=1e-9)


def test_marginals_of_a_full_covariance_stay_known_behind_an_elementwise_transform() -> None:
    loc, scale = torch.randn(60, 3), 0.3 + torch.rand(60, 3)
    posterior = full_and_positive(loc, scale)
    z = torch.rand(20, 3) + 0.1
    table = LogNormal(loc, posterior.base_dist.stddev).log_prob(z[:, None]).numpy()
    found = AggregatePosterior(posterior).log_prob_marginals(z)
    np.testing.assert_allclose(found, enumerated(table), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", TRANSFORMED)
def test_float32_transformed_normals_are_taken_in_double_precision(family) -> None:
    parameters = torch.randn(60, 3).float(), (0.3 + torch.rand(60, 3)).float()
    single, double = family(*parameters), family(*(each.double() for each in parameters))
    z = double.sample()[:20]
    found = AggregatePosterior(single).log_prob(z)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, AggregatePosterior(double).log_prob(z), rtol=0, atol=1e-5)
    assert AggregatePosterior(single).posterior.sample().dtype == torch.float64


def test_log_normals_stay_log_normals_in_double_precision() -> None:
    twin = AggregatePosterior(positive(torch.zeros(4, 2).float(), torch.ones(4, 2).float())).posterior
    assert isinstance(twin.base_dist, LogNormal)
    assert twin.mean.dtype == torch.float64


@pytest.mark.parametrize("family", [positive, between, simplex, side_by_side])
def test_gradients_go_through_a_transform(family) -> None:
    loc = torch.randn(30, 3, requires_grad=True)
    posterior = family(loc, torch.full((30, 3), 0.4))
    z = posterior.sample()[:7].requires_grad_()
    found = torch.autograd.grad(AggregatePosterior(posterior).log_prob(z).sum(), [z, loc])
    plain = (posterior.log_prob(z[:, None]).logsumexp(1) - math.log(30)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(plain, [z, loc]))


@pytest.mark.parametrize(
    ("family", "z"),
    [
        (positive, [0.0, 1.0, 1.0]),
        (positive, [1.0, -1.0, 1.0]),
        (positive, [1.0, torch.inf, 1.0]),
        (full_and_positive, [1.0, 0.0, 1.0]),
        (side_by_side, [1.0, 0.0, 0.0]),
        (simplex, [0.5, 0.0, 0.5, 0.0]),
    ],
)
def test_where_the_transform_does_not_reach_there_is_no_density(family, z) -> None:
    aggregate = AggregatePosterior(family(torch.randn(30, 3), torch.full((30, 3), 0.4)))
    points = torch.tensor([z])
    assert aggregate.log_prob(points) == -torch.inf
    assert aggregate.log_prob_leave_one_out(points, torch.tensor([3])) == -torch.inf


def test_only_the_dimensions_that_are_not_reached_have_no_marginal_density() -> None:
    aggregate = AggregatePosterior(positive(torch.randn(30, 3), torch.full((30, 3), 0.4)))
    found = aggregate.log_prob_marginals(torch.tensor([[1.0, 0.0, torch.nan]]))[0]
    assert found[0].isfinite()
    assert found[1] == -torch.inf
    assert found[2].isnan()
    assert aggregate.log_prob(torch.tensor([[1.0, 1.0, torch.nan]])).isnan()


def test_a_border_that_a_transform_keeps_off_is_finite() -> None:
    aggregate = AggregatePosterior(between(torch.randn(30, 3), torch.full((30, 3), 0.4)))
    assert float(aggregate.log_prob(torch.tensor([[-1.0, 5.0, 2.0]]))) < -100


def test_a_transform_of_each_datum_is_scored_by_itself() -> None:
    steps = [AffineTransform(torch.randn(30, 2), 2.0)]
    posterior = Independent(TransformedDistribution(Normal(torch.zeros(30, 2), 1.0), steps), 1)
    aggregate, z = AggregatePosterior(posterior), torch.randn(9, 2)
    table = posterior.log_prob(z[:, None]).numpy()
    np.testing.assert_allclose(aggregate.log_prob(z), enumerated(table), rtol=1e-12)


def test_rows_that_are_equal_now_have_gradients_of_their_own() -> None:
    features, weight = torch.randn(5, 1), torch.zeros(1, 2, requires_grad=True)
    base, z = Independent(Normal(torch.randn(5, 2), 0.5), 1), torch.randn(3, 2)
    posterior = TransformedDistribution(base, [AffineTransform(features @ weight, 1.0, event_dim=1)])
    (found,) = torch.autograd.grad(AggregatePosterior(posterior).log_prob(z).sum(), weight, retain_graph=True)
    (expected,) = torch.autograd.grad(posterior.log_prob(z[:, None]).logsumexp(1).sum(), weight)
    torch.testing.assert_close(found, expected)


# ---- Networks, and supports of each datum's own


class Network(torch.nn.Module):
    """A conditional shift, which notes how many vectors its layer has seen at once."""

    def __init__(self, context):
        super().__init__()
        self.layer = torch.nn.Linear(2, 64)
        self.context = context
        self.most = 0

    def forward(self, z):
        inputs = torch.cat(torch.broadcast_tensors(z, self.context), -1)
        self.most = max(self.most, inputs.shape[:-1].numel())
        return self.layer(inputs).tanh().sum(-1, keepdim=True)


class Flow(pyro_dist.TransformModule):
    """Moves the second dimension by a network of the first and of the datum."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, network):
        super().__init__()
        self.network = network

    def _shift(self, z):
        shift = self.network(z[..., :1])
        return torch.cat([torch.zeros_like(shift), shift], -1)

    def _call(self, u):
        return u + self._shift(u)

    def _inverse(self, z):
        return z - self._shift(z)

    def log_abs_det_jacobian(self, u, z):
        return torch.zeros(torch.broadcast_shapes(u.shape, z.shape)[:-1])


def flow(size):
    torch.manual_seed(1)
    network = Network(torch.randn(size, 1))
    base = Independent(Normal(torch.zeros(size, 2), 1.0), 1)
    return TransformedDistribution(base, [Flow(network)]), network


class Piecewise:
    """Runs its networks on so many rows at a time."""

    batch_shape, event_shape = torch.Size([100]), torch.Size([3])

    def __init__(self, rows: int) -> None:
        self.rows_at_once = rows


LOC = torch.zeros(100, 3)
PAIRS = Independent(Normal(LOC[:, None].expand(100, 2, 3), 1.0), 1)


@pytest.mark.parametrize(
    ("posterior", "points"),
    [
        (Independent(LogNormal(LOC, 1.0), 1), 2**22 // 300),
        (MixtureSameFamily(Categorical(torch.ones(100, 2)), PAIRS), 2**22 // 300),
        (Piecewise(100), 2**22 // (3200 * 3)),
        (Piecewise(10), 2**22 // 960),
        (Piecewise(2), 2**22 // 300),
    ],
    ids=["mapped factors", "mixtures", "networks", "networks on few rows", "networks on hardly any"],
)
def test_networks_that_run_on_many_rows_at_once_leave_room_for_few_points(posterior, points) -> None:
    assert points_at_once(posterior) == points


def test_networks_get_fewer_points_at_once_and_score_the_same():
    size = 2**14
    posterior, network = flow(size)
    z = torch.randn(9, 2)
    found = AggregatePosterior(posterior).evaluate(z).log_prob
    assert network.most == 4 * size
    assert points_at_once(posterior) == 4
    expected = posterior.log_prob(z[:, None]).logsumexp(1) - math.log(size)
    torch.testing.assert_close(found, expected)


def test_what_only_some_components_reach_has_the_density_of_these():
    """Values above each datum's own bound."""
    bounds = torch.tensor([[0.0], [1.0], [5.0]])
    steps = [ExpTransform(), AffineTransform(bounds, 1.0)]
    base = Normal(torch.zeros(3, 1), 1.0, validate_args=False)
    factors = TransformedDistribution(base, steps, validate_args=False)
    posterior = Independent(factors, 1, validate_args=False)
    z = torch.tensor([[2.0], [-1.0], [torch.nan]])
    found = AggregatePosterior(posterior).evaluate(z).log_prob
    reached = LogNormal(0.0, 1.0).log_prob(torch.tensor([2.0, 1.0])).logsumexp(0) - math.log(3)
    torch.testing.assert_close(found[:2], torch.stack([reached, torch.tensor(-torch.inf)]))
    assert found[2].isnan()
