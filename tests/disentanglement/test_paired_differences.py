import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pyro_infomax.disentanglement import Calibration, beta_vae_score

SIZES = (3, 4, 5)
FEW = Calibration(bootstraps=20, permutations=4)


class Grid:
    """Observations that are the factors themselves."""

    factor_sizes = SIZES
    seen = 0

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in SIZES], axis=1)

    def observations(self, factors):
        self.seen += len(factors)
        return np.asarray(factors, dtype=np.float64)


def factors(n=1500, seed=0):
    return Grid().sample_factors(n, seed=np.random.RandomState(seed))


def noise(codes, n=1500, seed=1):
    return np.random.RandomState(seed).randn(n, codes)


def score(codes, given=None, **options):
    return beta_vae_score(
        codes, factors() if given is None else given, **{"calibration": None, "progress": False} | options
    )


def mixed(observations):
    """Codes that mix the factors: the first two in much the same way, the last hardly moves."""
    v = np.asarray(observations)
    return np.stack([v[:, 0] + v[:, 1], v[:, 0] + 0.8 * v[:, 1] + 0.3 * v[:, 2], 0.05 * v[:, 2]], axis=1)


def by_the_definition(encode, seed):
    """Draw by draw, in the reference's order: train and test accuracy, and the coefficients."""
    rng, grid = np.random.RandomState(seed), Grid()

    def examples(number):
        labels, ones, others = [], [], []
        for _ in range(number):
            index = rng.randint(3)
            one, other = grid.sample_factors(64, seed=rng), grid.sample_factors(64, seed=rng)
            other[:, index] = one[:, index]
            labels.append(index)
            ones.append(one)
            others.append(other)
        one, other = (encode(np.concatenate(each)) for each in (ones, others))
        return np.abs(one - other).reshape(number, 64, -1).mean(1), np.array(labels)

    train = examples(10_000)
    learner = LogisticRegression(random_state=rng).fit(*train)
    return learner.score(*train), learner.score(*examples(5_000)), learner.coef_


@pytest.fixture(scope="module")
def of_source():
    grid = Grid()
    result = score(mixed, grid, reference=True, seed=5)
    assert grid.seen == 60  # each combination once
    return result


def test_the_reference_is_its_definition_draw_by_draw(of_source):
    train, test, coefficients = by_the_definition(mixed, 5)
    result = of_source
    assert result.score == pytest.approx(test, abs=1e-3)
    assert result.parts["train_accuracy"] == pytest.approx(train, abs=1e-3)
    np.testing.assert_allclose(result.parts["coefficients"], coefficients.T, rtol=1e-3, atol=1e-3)
    assert 0.5 < test < 0.99


@pytest.mark.parametrize(
    "codes",
    [factors(), -3.5 * factors()[:, ::-1] + 100, np.tile(factors(), 2), np.pad(factors(), ((0, 0), (0, 2)))],
    ids=["factors", "scaled and reordered", "duplicated", "dead ones beside"],
)
def test_codes_that_are_factors_score_one(codes):
    for reference in (False, True):
        assert score(codes, reference=reference).score == pytest.approx(1.0, abs=0.001)


def test_data_at_hand_and_a_source_both_say_the_same(of_source):
    """Rows that share a value are the same in distribution as an intervention."""
    at_hand = score(mixed(factors(9000)), factors(9000), reference=True).score
    assert at_hand == pytest.approx(of_source.score, abs=0.03)


def test_scales_mean_nothing():
    codes = factors() @ np.linalg.qr(noise(3, 3))[0] + 0.3 * noise(3)
    one, two = score(codes), score(codes * [1e-5, 1.0, 1e5])
    assert one.score == pytest.approx(two.score, abs=1e-3)
    np.testing.assert_allclose(one.parts["coefficients"], two.parts["coefficients"], rtol=1e-2, atol=1e-2)


def test_the_reference_depends_on_scale():
    codes = 1e-3 * mixed(factors())
    assert score(codes, reference=True).score < score(codes).score - 0.05


def test_the_confusion_is_that_of_the_draws_that_judge():
    result = score(mixed(factors()))
    confusion = result.parts["confusion"]
    assert confusion.sum() == 5000
    assert np.trace(confusion) / 5000 == result.score
    assert confusion.sum(1).min() > 5000 / 3 - 5 * np.sqrt(5000 * 2 / 9)


def test_a_code_speaks_against_the_factors_it_varies_with():
    coefficients = score(factors()).parts["coefficients"]
    assert (coefficients.argmin(1) == np.arange(3)).all()


def test_two_factors_have_a_column_each():
    result = score(factors()[:, :2], factors()[:, :2])
    coefficients = result.parts["coefficients"]
    assert coefficients.shape == (2, 2)
    assert coefficients[0, 0] < 0 < coefficients[0, 1]
    assert result.score == 1.0


def test_a_learner_that_stopped_early_is_noted():
    codes = factors() * [1e-3, 1.0, 1e4] + 0.1 * noise(3) * [1e-3, 1.0, 1e4]
    assert score(codes, reference=True).notes == (
        "The learner stopped before it had converged, as the reference's does.",
    )
    assert score(codes).notes == ()


@pytest.mark.parametrize("reference", [False, True])
def test_dead_codes_are_chance(reference):
    assert score(np.full((1500, 2), 0.1), reference=reference).score == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("reference", [False, True])
def test_noise_lies_at_its_floor_and_the_factors_at_the_ceiling(reference):
    result = score(noise(4, seed=2), reference=reference, calibration=FEW)
    low, high = result.floor_interval
    assert low <= result.score <= high
    assert result.floor == pytest.approx(1 / 3, abs=0.1)
    assert result.ceiling == pytest.approx(1.0, abs=1e-3)


def test_few_data_do_not_lift_the_floor():
    """Rows that learn and judge at once tell of each other, and so do rows paired with themselves."""
    given = factors(60)
    calibration = Calibration(bootstraps=0, permutations=2)
    floors = [
        score(noise(6, 60), given, reference=reference, calibration=calibration).floor
        for reference in (False, True)
    ]
    assert floors[0] == pytest.approx(1 / 3, abs=0.08)
    assert floors[1] > floors[0] + 0.1


def test_a_seed_settles_everything():
    codes = factors() + noise(3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    few = Calibration(bootstraps=5, permutations=1)
    one, two, other = (score(codes, seed=seed, calibration=few) for seed in (1, 1, 2))
    assert (one.score, one.interval, one.floor) == (two.score, two.interval, two.floor)
    assert one.floor != other.floor
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
