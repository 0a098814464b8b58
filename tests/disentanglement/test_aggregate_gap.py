import itertools

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.disentanglement import Calibration, chen_mig

GRID = np.array(list(itertools.product(range(3), range(4), range(5)))).repeat(10, axis=0)  # 600 data
LOGS = np.log([3, 4, 5])
FEW = Calibration(bootstraps=50, permutations=5)


def alone(posterior, factors=GRID, *, num_samples=1500, **options):
    return chen_mig(posterior, factors, calibration=None, num_samples=num_samples, **options)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


def density(z, loc, scale):
    """(point,) of the mixture of all components."""
    u = (z[:, None] - loc) / scale
    return (np.exp(-0.5 * u * u) / scale).mean(axis=1) / np.sqrt(2 * np.pi)


def integrated(loc, scale, factor):
    """I(z; v) of the mixtures over the data, on a fine grid."""
    z = np.linspace((loc - 9 * scale).min(), (loc + 9 * scale).max(), 4_001)
    whole, total = density(z, loc, scale), 0.0
    for value in np.unique(factor):
        group = factor == value
        inside = density(z, loc[group], scale[group])
        ratio = np.log(np.maximum(inside, 1e-300) / np.maximum(whole, 1e-300))
        total += group.mean() * np.trapezoid(inside * ratio, z)
    return total


# ---- the information


def test_clusters_that_stand_apart_know_all_of_their_factor_and_nothing_of_others():
    information = alone((GRID, 0.02)).parts["uncorrected_information"]
    np.testing.assert_allclose(information, np.diag(LOGS), atol=1e-7)


def test_narrow_posteriors_of_few_values_approach_the_discrete_information():
    loc = np.stack([GRID[:, 0] + GRID[:, 1], GRID[:, 2]], axis=1)  # the sum has H(v_0) - H(v_0 | sum) of v_0
    information = alone((loc, 1e-6)).parts["uncorrected_information"]
    joint = np.bincount(loc[:, 0] * 3 + GRID[:, 0], minlength=18).reshape(6, 3) / len(GRID)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    known = joint[joint > 0] @ np.log((joint / product)[joint > 0])
    np.testing.assert_allclose(information[:, 0], [known, 0.0], atol=0.02)
    assert information[0, 0] == pytest.approx(known, abs=4 * alone((loc, 1e-6)).parts["standard_error"][0, 0])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_information_is_the_integral_within_its_standard_error(seed):
    factors = GRID[::3]
    loc = factors @ normal(3, 2, seed=seed) + normal(len(factors), 2, seed=seed + 2)
    scale = np.exp(0.5 * normal(len(factors), 2, seed=seed + 4))
    parts = alone((loc, scale), factors, num_samples=10_000).parts
    expected = [[integrated(loc[:, j], scale[:, j], factors[:, k]) for k in range(3)] for j in range(2)]
    assert (np.abs(parts["uncorrected_information"] - expected) < 4 * parts["standard_error"]).all()
    assert (parts["standard_error"] < 0.01).all()


def test_two_normals_apart_by_a_known_distance_have_their_known_information():
    factors = np.arange(1000)[:, None] % 2
    z = np.linspace(-12, 12, 4_001)
    ones = np.exp(-0.5 * (z - 1) ** 2) / np.sqrt(2 * np.pi)
    share = 1 / (1 + np.exp(-2 * z))  # of the group at +1 among both, at z
    expected = np.log(2) + np.trapezoid(ones * np.log(share), z)
    score = alone((factors * [2.0, 0.0] - 1, 1.0), factors, num_samples=20_000)
    assert score.parts["uncorrected_information"][0, 0] == pytest.approx(
        expected, abs=4 * score.parts["standard_error"][0, 0]
    )


def test_collapsed_codes_know_nothing():
    score = alone((np.zeros(GRID.shape), 1.0))
    np.testing.assert_allclose(score.parts["mutual_information"], 0.0, atol=1e-7)
    assert score.score == pytest.approx(0.0, abs=1e-6)


def test_the_standard_error_is_the_spread_over_draws_of_few_of_the_data():
    factors = GRID[::3]
    loc = factors + normal(*factors.shape)
    runs = [alone((loc, 0.5), factors, num_samples=60, seed=seed).parts for seed in range(40)]
    spread = np.std([run["uncorrected_information"] for run in runs], axis=0, ddof=1)
    stated = np.mean([run["standard_error"] for run in runs], axis=0)
    assert (np.abs(spread / stated - 1) < 0.5).all()  # 40 runs: four standard errors of a spread are 0.45


# ---- the score


def gaps(known):
    ordered = np.sort(known.clip(0), axis=0)
    return ordered[-1] - ordered[-2]


def test_the_score_is_the_mean_gap_of_the_corrected_information():
    score = alone((GRID + normal(*GRID.shape), 0.5))
    parts = score.parts
    room = LOGS - parts["chance_information"]
    known = (parts["uncorrected_information"] - parts["chance_information"]) / room
    np.testing.assert_allclose(parts["mutual_information"], known * LOGS)
    np.testing.assert_allclose(parts["per_factor"], gaps(known))
    assert score.score == pytest.approx(gaps(known).mean())


def test_the_published_score_divides_the_information_by_the_logarithm_of_the_size():
    uneven = GRID[(GRID[:, 0] > 0) | (np.arange(len(GRID)) % 2 == 0)]
    posterior = uneven + normal(*uneven.shape), 0.5
    score, corrected = alone(posterior, uneven, reference=True), alone(posterior, uneven)
    assert score.score == pytest.approx(gaps(score.parts["mutual_information"] / LOGS).mean())
    np.testing.assert_allclose(
        score.parts["mutual_information"], corrected.parts["uncorrected_information"], rtol=0.3
    )
    np.testing.assert_allclose(score.parts["entropy"], LOGS)
    assert "chance_information" not in score.parts


def test_uneven_factors_as_codes_score_one_by_their_entropy_and_less_by_their_size():
    uneven = GRID[(GRID[:, 0] > 0) | (np.arange(len(GRID)) % 4 == 0)]
    assert alone((uneven, 0.02), uneven).score > 0.98
    shares = np.bincount(uneven[:, 0]) / len(uneven)
    by_size = alone(
        (uneven[:, [0, 0]] * [1, 0], 0.02), uneven[:, :1], reference=True, num_samples=20 * len(uneven)
    )
    assert by_size.score == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3), abs=1e-9)


def test_leaving_a_factor_out_is_leaving_its_gap_out():
    loc = GRID + normal(*GRID.shape)
    whole, part = (alone((loc, 0.5), factors, reference=True) for factors in (GRID, GRID[:, 1:]))
    assert part.score == pytest.approx(whole.parts["per_factor"][1:].mean(), abs=1e-9)


def test_duplicated_codes_have_no_gap():
    score = alone((np.concatenate([GRID, GRID], axis=1), 0.05))
    assert score.score == pytest.approx(0.0, abs=1e-6)
    assert score.parts["mutual_information"].max(axis=0) == pytest.approx(LOGS)


def test_the_two_that_know_most_are_named():
    assert alone((GRID[:, [2, 0, 1]], 0.02)).parts["top"][0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("reference", [False, True])
def test_stretching_a_code_with_its_posterior_changes_nothing(reference):
    loc, stretch = GRID + normal(*GRID.shape), np.array([1e-3, 7.0, 1e4])
    plain, stretched = (
        alone((loc * by, 0.5 * np.ones(GRID.shape) * by), reference=reference) for by in (1.0, stretch)
    )
    assert stretched.score == pytest.approx(plain.score, abs=1e-6)


def test_narrow_noise_seems_to_know_all_until_chance_is_taken_off():
    noise = normal(*GRID.shape), np.full(GRID.shape, 1e-5)
    assert (alone(noise, reference=True).parts["mutual_information"] > 0.9 * LOGS).all()
    corrected = alone(noise)
    assert corrected.score < 0.02
    assert corrected.notes[0].startswith("The posteriors of codes 0, 1, 2 overlap so little")


def test_noise_that_overlaps_has_no_note_and_seems_to_know_little():
    score = alone((normal(*GRID.shape), 0.5))
    assert score.notes == ()
    assert (score.parts["mutual_information"] < 0.02 * LOGS).all()


# ---- interval, floor, ceiling


def test_noise_scores_its_floor_and_factors_their_ceiling():
    noise = chen_mig(
        (normal(*GRID.shape), 0.05),
        GRID,
        num_samples=1500,
        calibration=Calibration(bootstraps=0, permutations=20),
    )
    assert noise.floor_interval[0] <= noise.score <= noise.floor_interval[1]
    assert noise.floor < 0.05
    factors = chen_mig((GRID, 0.01), GRID, num_samples=1500, calibration=FEW)
    assert factors.score == pytest.approx(factors.ceiling, abs=0.01)
    assert factors.ceiling == pytest.approx(1, abs=0.02)
    assert factors.calibrated == pytest.approx(1, abs=0.02)


def test_the_interval_is_as_wide_as_the_score_spreads_over_draws_of_few_of_the_data():
    factors = GRID[::3]
    loc = factors + normal(*factors.shape)
    calibration = Calibration(bootstraps=200, permutations=0)
    run = chen_mig((loc, 0.5), factors, num_samples=60, calibration=calibration)
    runs = [alone((loc, 0.5), factors, num_samples=60, seed=seed).score for seed in range(40)]
    spread = np.std(runs, ddof=1)
    half = (run.interval[1] - run.interval[0]) / 2
    assert half / 1.97 == pytest.approx(spread, rel=0.5)
    assert run.floor is None


def test_the_score_does_not_depend_on_its_calibration():
    loc = GRID + normal(*GRID.shape)
    assert chen_mig((loc, 0.5), GRID, num_samples=1500, calibration=FEW).score == alone((loc, 0.5)).score


# ---- what comes in


def test_seeds_repeat_the_score_and_leave_the_global_generator_alone():
    loc = GRID + normal(*GRID.shape)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (
        chen_mig((loc, 0.5), GRID, num_samples=1500, calibration=FEW, seed=s) for s in (3, 3, 4)
    )
    assert first.score == again.score != other.score
    assert (first.interval, first.floor) == (again.interval, again.floor)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


LOC, SCALE = GRID + normal(*GRID.shape), np.array([0.5, 0.3, 0.7]) * np.ones(GRID.shape)
FORMS = {
    "tensors with gradients": lambda _, *moments: tuple(each.requires_grad_() for each in moments),
    "a Normal": lambda library, loc, scale: library.Normal(loc.requires_grad_(), scale),
    "an Independent": lambda library, loc, scale: library.Independent(library.Normal(loc, scale), 1),
    "a MultivariateNormal": lambda library, loc, scale: library.MultivariateNormal(
        loc, scale[:, :, None] * (0.3 + 0.7 * torch.eye(3)) * scale[:, None]
    ),
}


@pytest.mark.parametrize("library", [torch.distributions, dist])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_posterior_gives_what_its_arrays_give(form, library):
    posterior = FORMS[form](library, torch.tensor(LOC), torch.tensor(SCALE))
    found, expected = alone(posterior, num_samples=200), alone((LOC, SCALE), num_samples=200)
    np.testing.assert_allclose(
        found.parts["mutual_information"], expected.parts["mutual_information"], rtol=1e-9, atol=1e-12
    )


def test_half_precision_will_do():
    loc = torch.tensor(GRID, dtype=torch.bfloat16)
    found = alone((loc, torch.full(GRID.shape, 0.5, dtype=torch.bfloat16)))
    assert found.score == alone((GRID, 0.5)).score


WRONG = {
    "Laplace": (dist.Laplace(torch.tensor(LOC), 1.0), "with Normal margins but got Laplace"),
    "LogNormal": (
        dist.LogNormal(torch.tensor(LOC), 1.0).to_event(1),
        "with Normal margins but got LogNormal",
    ),
    "Delta": (dist.Delta(torch.tensor(LOC), event_dim=1), "with Normal margins but got Delta"),
    "no noise": ((LOC, 0 * SCALE), "Expected scale > 0 but got 0: codes without noise are for mig"),
    "shapes": ((LOC, SCALE[:2]), r"of one shape \(n, L\) but got \(600, 3\) and \(2, 3\)"),
    "three": ((LOC, SCALE, SCALE), r"a pair \(loc, scale\) but got 3 arrays"),
    "nan": ((LOC * np.nan, SCALE), "Expected finite loc"),
    "inf": ((LOC, SCALE * np.inf), "Expected finite scale"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_has_no_normal_margins_is_refused(case):
    posterior, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        alone(posterior)


def test_values_of_factors_are_names():
    loc = GRID + normal(*GRID.shape)
    assert alone((loc, 0.5), GRID * 10 - 7).score == alone((loc, 0.5)).score


def test_a_single_code_is_refused():
    with pytest.raises(ValueError, match="Expected at least two codes but got 1"):
        alone((GRID[:, :1], 0.5))


def test_too_few_draws_are_refused():
    for number in (1, 2.5):
        with pytest.raises(ValueError, match=f"num_samples to be an integer >= 2 but got {number}"):
            alone((GRID, 0.5), num_samples=number)


def test_constant_factors_and_other_lengths_are_refused():
    with pytest.raises(ValueError, match="factor 0 is always 0"):
        alone((GRID, 0.5), 0 * GRID)
    with pytest.raises(ValueError, match="600 rows of codes and 599 of factors"):
        alone((GRID, 0.5), GRID[1:])
