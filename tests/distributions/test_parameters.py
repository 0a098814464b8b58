"""What no encoder may put out, for every family, and what every quantity makes of it."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform

from pyro_infomax.distributions import check_parameters
from pyro_infomax.information import (
    AggregatePosterior,
    Draws,
    Estimate,
    active_units,
    barber_agakov,
    conditional_total_correlation,
    decoder_gap,
    dimensionwise_kl,
    gaussian_total_correlation,
    leave_one_out,
    marginal_kl,
    mmd,
    mutual_information,
    prior_dependence,
    rate,
    total_correlation,
)

LAX = {"validate_args": False}


def with_one(value: float, *shape: int, otherwise: float = 1.0) -> Tensor:
    tensor = torch.full(shape, otherwise)
    tensor.view(-1)[-1] = value
    return tensor


def diagonal(loc: float = 0.0, scale: float = 1.0) -> Independent:
    return Independent(Normal(with_one(loc, 4, 2), with_one(scale, 4, 2), **LAX), 1, **LAX)


def full(loc: float = 0.0, scale: float = 1.0, off: float = 0.0) -> MultivariateNormal:
    root = torch.eye(2).repeat(4, 1, 1)
    root[-1, -1, -1], root[-1, 1, 0] = scale, off
    return MultivariateNormal(with_one(loc, 4, 2), scale_tril=root, **LAX)


def low_rank(loc: float = 0.0, factor: float = 0.0, diagonal: float = 1.0) -> LowRankMultivariateNormal:
    found = LowRankMultivariateNormal(torch.zeros(4, 2), torch.zeros(4, 2, 1), torch.ones(4, 2), **LAX)
    # torch would fail on the capacitance before anything can be asked of it
    found.loc = with_one(loc, 4, 2)
    found._unbroadcasted_cov_factor = with_one(factor, 4, 2, 1)
    found._unbroadcasted_cov_diag = with_one(diagonal, 4, 2)
    return found


@pytest.mark.parametrize(("family", "name"), [(diagonal, "scale"), (full, "scale"), (low_rank, "diagonal")])
def test_normals_with_means_and_scales_that_are_none_are_refused(family, name: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(
            ValueError, match=r"Expected finite means of the posterior but got .* the encoder"
        ):
            check_parameters(family(value), "posterior")
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="Expected positive, finite scales of the posterior but got"):
            check_parameters(family(**{name: value}), "posterior")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_covariances_that_are_not_finite_are_refused(value: float) -> None:
    for wrong in (full(off=value), low_rank(factor=value)):
        with pytest.raises(ValueError, match="Expected finite covariances of the posterior"):
            check_parameters(wrong, "posterior")


def laplace(loc: float = 0.0, scale: float = 1.0) -> Independent:
    return Independent(Laplace(with_one(loc, 4, 2), with_one(scale, 4, 2), **LAX), 1, **LAX)


def flow(loc: float = 0.0, scale: float = 1.0) -> TransformedDistribution:
    return TransformedDistribution(diagonal(loc, scale), [AffineTransform(0.0, 2.0, event_dim=1)], **LAX)


def mixture(loc: float = 0.0, scale: float = 1.0) -> MixtureSameFamily:
    components = Independent(Normal(with_one(loc, 4, 3, 2), with_one(scale, 4, 3, 2), **LAX), 1, **LAX)
    return MixtureSameFamily(Categorical(torch.ones(4, 3)), components, **LAX)


@pytest.mark.parametrize("family", [laplace, flow, mixture])
def test_other_families_are_refused_by_what_they_are_made_of(family) -> None:
    locs = [{"loc": value} for value in (math.nan, math.inf, -math.inf)]
    for wrong in (*locs, *({"scale": value} for value in (0.0, -1.0, math.nan, math.inf))):
        with pytest.raises(ValueError, match=r"Expected .*finite .* of the posterior .*check the encoder"):
            check_parameters(family(**wrong), "posterior")


def test_weights_of_a_mixture_count_too() -> None:
    weights = Categorical(logits=with_one(math.nan, 4, 3), **LAX)
    wrong = MixtureSameFamily(weights, Independent(Normal(torch.zeros(4, 3, 2), 1.0), 1), **LAX)
    with pytest.raises(ValueError, match="but got logits of Categorical from nan to nan"):
        check_parameters(wrong, "posterior")


@pytest.mark.parametrize(("family", "event"), [(Categorical, 1), (OneHotCategorical, 0)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_classes_are_refused(family, event: int, value: float) -> None:
    wrong = family(logits=torch.zeros(4, 2, 3), **LAX)
    getattr(wrong, "_categorical", wrong).logits = with_one(value, 4, 2, 3)
    with pytest.raises(
        ValueError, match=r"Expected finite parameters of the posterior within .* got (logits|probs) of"
    ):
        check_parameters(Independent(wrong, event, **LAX), "posterior")


def test_classes_that_never_occur_are_in_order() -> None:
    never = Independent(Categorical(logits=with_one(-math.inf, 4, 2, 3)), 1)
    check_parameters(never, "posterior")
    check_parameters(Independent(Categorical(probs=torch.tensor([[[0.0, 1.0]]])), 1), "posterior")


@pytest.mark.parametrize("family", [diagonal, full, low_rank, laplace, flow, mixture])
def test_what_is_in_order_passes(family) -> None:
    check_parameters(family(), "posterior")
    check_parameters(family(loc=1e6), "posterior")


def test_narrow_is_in_order() -> None:
    check_parameters(diagonal(scale=1e-12), "posterior")
    check_parameters(full(scale=1e-12), "posterior")
    check_parameters(low_rank(diagonal=1e-24), "posterior")


def test_parameters_that_learn_are_checked_too() -> None:
    loc = with_one(math.nan, 4, 2).requires_grad_()
    with pytest.raises(ValueError, match="Expected finite means"):
        check_parameters(Independent(Normal(loc, 1.0, **LAX), 1, **LAX), "posterior")


def test_a_prior_is_named_as_such() -> None:
    wrong = Independent(Beta(torch.tensor([-1.0]), torch.ones(1), **LAX), 1, **LAX)
    with pytest.raises(
        ValueError, match=r"Expected finite means of the prior .* check the parameters of the prior"
    ):
        check_parameters(diagonal(math.nan), "prior")
    with pytest.raises(ValueError, match="parameters of the prior"):
        check_parameters(wrong, "prior")


def test_what_is_no_distribution_shows_no_parameters() -> None:
    check_parameters(object(), "posterior")


# --- every quantity of the room ---


def flat(z: Tensor) -> Tensor:
    """The log-likelihood of a decoder that knows nothing."""
    return torch.full((len(z),), -1.0)


OF_POSTERIOR = {
    "AggregatePosterior": AggregatePosterior,
    "Draws": Draws,
    "active_units": active_units,
    "barber_agakov": lambda posterior, **options: barber_agakov(posterior, flat, data_entropy=1.0, **options),
    "conditional_total_correlation": conditional_total_correlation,
    "decoder_gap": lambda posterior, **options: decoder_gap(posterior, flat, **options),
    "gaussian_total_correlation": gaussian_total_correlation,
    "leave_one_out": leave_one_out,
    "mutual_information": mutual_information,
    "total_correlation": total_correlation,
}
OF_BOTH = {
    "dimensionwise_kl": dimensionwise_kl,
    "marginal_kl": marginal_kl,
    "mmd": mmd,
    "prior_dependence": prior_dependence,
    "rate": rate,
}
WITHOUT_DRAWS = {"AggregatePosterior", "active_units", "gaussian_total_correlation"}


def standard_normal(latent: int = 2) -> Independent:
    return Independent(Normal(torch.zeros(latent), 1.0), 1)


def evaluated(quantity: str, posterior, prior=None, **options):
    if quantity in OF_POSTERIOR:
        return OF_POSTERIOR[quantity](posterior, **options)
    return OF_BOTH[quantity](posterior, prior or standard_normal(), **options)


every_quantity = pytest.mark.parametrize("quantity", [*OF_POSTERIOR, *OF_BOTH])
WRONG = {
    "nan mean": lambda: diagonal(loc=math.nan),
    "infinite mean": lambda: diagonal(loc=math.inf),
    "zero scale": lambda: diagonal(scale=0.0),
    "negative scale": lambda: diagonal(scale=-1.0),
    "nan scale": lambda: diagonal(scale=math.nan),
    "nan full covariance": lambda: full(off=math.nan),
    "nan mean of a full covariance": lambda: full(loc=math.nan),
    "nan low rank": lambda: low_rank(factor=math.nan),
    "nan mean of a low rank": lambda: low_rank(loc=math.nan),
    "nan of another family": lambda: laplace(loc=math.nan),
    "zero scale of another family": lambda: laplace(scale=0.0),
    "nan in a mixture": lambda: mixture(loc=math.nan),
    "nan under a flow": lambda: flow(loc=math.nan),
}


OTHER_SHAPES = (
    Normal(torch.zeros(4, 2), 1.0),
    Independent(Normal(torch.zeros(2), 1.0), 1),
    Independent(Normal(torch.zeros(4, 3, 2), 1.0), 1),
    Independent(Normal(torch.zeros(4, 3, 2), 1.0), 2),
    Independent(Normal(torch.zeros(0, 2), 1.0), 1),
)


@every_quantity
def test_every_quantity_refuses_parameters_that_are_none_and_other_shapes(quantity: str) -> None:
    for posterior in WRONG.values():
        with pytest.raises(ValueError, match=r"Expected .*finite .* of the posterior .*check the encoder"):
            evaluated(quantity, posterior())
    for posterior in OTHER_SHAPES:
        with pytest.raises(
            ValueError, match=r"Expected a posterior of batch shape \(N,\) and event shape \(d,\)"
        ):
            evaluated(quantity, posterior)


@pytest.mark.parametrize("quantity", OF_BOTH)
def test_every_divergence_refuses_a_prior_of_another_shape_and_of_wrong_parameters(quantity: str) -> None:
    for prior in (standard_normal(3), standard_normal().expand([4]), Normal(torch.zeros(2), 1.0)):
        with pytest.raises(ValueError, match=r"Expected a prior of batch shape \(\) and event shape \(2,\)"):
            evaluated(quantity, diagonal(), prior)
    for loc, scale in ((math.nan, 1.0), (0.0, 0.0), (0.0, math.inf)):
        prior = Independent(Normal(torch.full((2,), loc), scale, **LAX), 1, **LAX)
        with pytest.raises(ValueError, match=r"of the prior .* check the parameters of the prior"):
            evaluated(quantity, diagonal(), prior)


@pytest.mark.parametrize("quantity", sorted({*OF_POSTERIOR, *OF_BOTH} - WITHOUT_DRAWS))
def test_every_quantity_that_draws_wants_a_draw_and_draws_that_are_finite(quantity: str) -> None:
    for number in (0, -1):
        with pytest.raises(
            ValueError, match=rf"Expected num_samples to be an integer >= \d but got {number}"
        ):
            evaluated(quantity, diagonal(), num_samples=number)
    with pytest.raises(ValueError, match=r"Expected finite draws from .* check the encoder"):
        evaluated(quantity, Broken())


class Broken:
    """An object that shows no parameters, and draws nan."""

    batch_shape, event_shape = torch.Size([4]), torch.Size([2])

    def sample(self, shape: tuple[int, ...] = ()) -> Tensor:
        return with_one(math.nan, *shape, 4, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        return z.sum(-1)

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        return z


def one_datum() -> Independent:
    return Independent(Normal(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]])), 1)


ONE_DATUM = {
    "barber_agakov": 0.0,
    "conditional_total_correlation": 0.0,
    "decoder_gap": 1.0,
    "dimensionwise_kl": [0.5 * (1 + 0.25 - 1) + math.log(2), 0.5 * (4 + 4 - 1) - math.log(2)],
    "gaussian_total_correlation": 0.0,
    "marginal_kl": 0.5 * (1 + 0.25 + 4 + 4 - 2),
    "mutual_information": 0.0,
    "prior_dependence": 0.0,
    "rate": 0.5 * (1 + 0.25 + 4 + 4 - 2),
    "total_correlation": 0.0,
}


@pytest.mark.parametrize("quantity", ONE_DATUM)
def test_a_single_datum_has_what_is_defined_for_it(quantity: str) -> None:
    found = (
        evaluated(quantity, one_datum(), num_samples=2)
        if quantity not in WITHOUT_DRAWS
        else evaluated(quantity, one_datum())
    )
    torch.testing.assert_close(found.value, torch.tensor(ONE_DATUM[quantity]), rtol=1e-12, atol=1e-12)
    assert found.population_standard_error is None or found.population_standard_error.isnan().all()


def test_a_single_datum_moves_in_no_dimension_and_leaves_nothing_out() -> None:
    assert active_units(one_datum()).tolist() == [False, False]
    with pytest.raises(ValueError, match="Expected at least 2 data to leave one out but got 1"):
        leave_one_out(one_datum())


def with_constant(scale: float, batch: int = 60) -> tuple[Independent, Independent]:
    """Without and with a third dimension in which all posteriors are the same."""
    loc, width = torch.randn(batch, 2) + torch.randn(batch, 1), torch.full((batch, 2), 0.5)
    more = (
        torch.cat([loc, torch.full((batch, 1), 0.1)], 1),
        torch.cat([width, torch.full((batch, 1), scale)], 1),
    )
    return Independent(Normal(loc, width), 1), Independent(Normal(*more), 1)


def agree(one: Estimate, other: Estimate, shift: float = 0.0) -> None:
    error = torch.hypot(one.standard_error, other.standard_error)
    # at a scale of 1e-12 a draw near 0.1 keeps five digits of its distance
    assert ((one.value + shift - other.value).abs() <= 4 * error + 1e-4).all()


@pytest.mark.parametrize(("scale", "num_samples"), [(1.0, 2), (1e-3, 1), (1e-12, 2)])
def test_a_constant_dimension_adds_its_own_divergence_and_nothing_else(
    scale: float, num_samples: int
) -> None:
    without, more = with_constant(scale)
    own = 0.5 * (0.1**2 + scale**2 - 1) - math.log(scale)  # KL[N(0.1, scale^2) ‖ N(0, 1)]
    options = {"num_samples": num_samples, "seed": 0}
    for quantity in (mutual_information, leave_one_out, total_correlation, conditional_total_correlation):
        agree(quantity(without, **options), quantity(more, **options))
    for quantity in (rate, marginal_kl):
        pair = quantity(without, standard_normal(), **options), quantity(more, standard_normal(3), **options)
        agree(*pair, shift=own)
    each = dimensionwise_kl(more, standard_normal(3), **options)
    agree(dimensionwise_kl(without, standard_normal(), **options), each[:2])
    assert float(each[2]) == pytest.approx(own, abs=1e-4)
    assert float(prior_dependence(more, standard_normal(3), **options)) == pytest.approx(0, abs=1e-10)
    assert active_units(more).tolist() == [True, True, False]
    torch.testing.assert_close(
        gaussian_total_correlation(more).value, gaussian_total_correlation(without).value
    )
    agree(decoder_gap(without, flat, **options), decoder_gap(more, flat, **options))


def test_a_constant_dimension_has_a_discrepancy_too() -> None:
    wide = Independent(Normal(torch.tensor([0.0, 0.0, 0.1]), torch.tensor([1.0, 1.0, 1e-12])), 1)
    posterior = wide.expand([20])
    same = mmd(posterior, wide, num_samples=200, seed=0)
    assert abs(float(same)) < 4 * float(same.standard_error)
    far = mmd(posterior, standard_normal(3), num_samples=1000, seed=0)
    assert float(far) > 5 * float(far.standard_error)


def test_means_that_move_by_less_than_they_are_wide_say_nothing_at_any_scale() -> None:
    for scale in (1.0, 1e-12):
        loc = torch.tensor([[-1.0], [1.0]]) * scale * 1e-3
        found = mutual_information(Independent(Normal(loc, scale), 1), num_samples=10, seed=0)
        assert abs(float(found)) < 4 * float(found.standard_error)
        assert float(found.standard_error) < 1e-3
        apart = Independent(Normal(loc * 1e6, scale), 1)
        assert float(mutual_information(apart, num_samples=2)) == pytest.approx(math.log(2), abs=1e-9)
