import numpy as np
import pytest

from pyro_infomax.disentanglement import Calibration, factor_vae_score

SIZES = (3, 4, 5)
FEW = Calibration(bootstraps=20, permutations=5)


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
    return factor_vae_score(
        codes, factors() if given is None else given, **{"calibration": None, "progress": False} | options
    )


def rotation(size, seed=0):
    return np.linalg.qr(np.random.RandomState(seed).randn(size, size))[0]


def mixed(observations):
    """Three codes that mix the factors, one that hardly moves and one that never does."""
    v = np.asarray(observations) @ [[1.3, 0.8, 0.9], [0.7, 0.9, -0.5], [0.1, -0.6, 0.6]]
    return np.concatenate([v, 0.01 * v[:, :1], 0 * v[:, :1] + 0.1], axis=1)


def by_the_definition(encode, seed):
    """Draw by draw, in the reference's order: train and test accuracy, and the train votes (factor, code)."""
    rng, grid = np.random.RandomState(seed), Grid()
    variances = np.var(encode(grid.sample_factors(10_000, seed=rng)), axis=0, ddof=1)
    kept = np.flatnonzero(np.sqrt(variances) >= 0.05)

    def votes(number):
        table, batches, held = np.zeros((3, len(variances)), dtype=int), [], []
        for _ in range(number):
            index = rng.randint(3)
            batch = grid.sample_factors(64, seed=rng)
            batch[:, index] = batch[0, index]
            batches.append(batch)
            held.append(index)
        local = np.var(encode(np.concatenate(batches)).reshape(number, 64, -1), axis=1, ddof=1)
        winners = kept[np.argmin(local[:, kept] / variances[kept], axis=1)]
        np.add.at(table, (held, winners), 1)
        return table

    train, test = votes(10_000), votes(5_000)
    label, every = train.argmax(0), np.arange(len(variances))
    return train[label, every].sum() / 10_000, test[label, every].sum() / 5_000, train


def test_the_reference_is_its_definition_draw_by_draw():
    train, test, votes = by_the_definition(mixed, 5)
    grid = Grid()
    result = score(mixed, grid, reference=True, seed=5)
    assert grid.seen == 60  # each combination once
    assert result.score == pytest.approx(test, abs=1e-12)
    assert result.parts["train_accuracy"] == pytest.approx(train, abs=1e-12)
    np.testing.assert_array_equal(result.parts["votes"], votes.T)
    assert 0.5 < test < 0.97


def test_the_reference_counts_the_codes_that_may_vote():
    result = score(mixed(factors()), reference=True)
    assert result.parts["active"].tolist() == [True, True, True, False, False]
    assert result.parts["num_active"] == 3
    assert result.notes == ("Codes with a deviation below 0.05 may not vote: 3, 4.",)


def test_codes_far_from_zero_vote_as_they_would_near_it():
    codes = factors(600) + 0.0
    assert score(codes + 1e8, factors(600)).score == score(codes, factors(600)).score == 1


def test_the_default_keeps_small_codes_and_no_dead_ones():
    result = score(mixed(factors()))
    assert result.parts["active"].tolist() == [True, True, True, True, False]
    assert result.parts["num_active"] == 4
    assert result.notes == ("Codes with no single factor that moves them may not vote: 4.",)


@pytest.mark.parametrize(
    "codes",
    [factors(), -3.5 * factors()[:, ::-1] + 100, np.tile(factors(), 2), np.pad(factors(), ((0, 0), (0, 2)))],
    ids=["factors", "scaled and reordered", "duplicated", "dead ones beside"],
)
def test_codes_that_are_factors_score_one(codes):
    for reference in (False, True):
        assert score(codes, reference=reference).score == 1.0


def test_codes_of_dependent_factors_are_judged_by_interventions():
    """Data that share one of two dependent factors vary less in the other; what is set does not."""

    class Chained(Grid):
        def sample_factors(self, n, *, seed=None):
            factors = super().sample_factors(n, seed=seed)
            factors[:, 2] = factors[:, 1] + (seed.rand(n) < 0.1)
            return factors

    def blind(observations):
        """The second factor has no code of its own."""
        return np.stack([observations[:, 0], observations[:, 2]], axis=1)

    source = Chained()
    set_anew = score(blind, source)
    given = source.sample_factors(3000, seed=np.random.RandomState(0))
    at_hand = score(blind(given), given)
    assert set_anew.score == pytest.approx(2 / 3, abs=0.08)
    votes, chosen = (each.parts["votes"][1] for each in (set_anew, at_hand))  # of the last factor's code
    assert votes[1] < 0.8 * votes[2]
    assert chosen[1] == pytest.approx(chosen[2], rel=0.1)


def test_rotated_codes_score_what_data_at_hand_and_a_source_both_say():
    """Rows that share a value are the same in distribution as an intervention."""
    turn = rotation(3)
    standard = factors(9000) / np.sqrt([2 / 3, 15 / 12, 2])
    at_hand = score(standard @ turn, factors(9000)).score
    held = score(lambda x: x / np.sqrt([2 / 3, 15 / 12, 2]) @ turn, Grid(), reference=True).score
    assert at_hand == pytest.approx(held, abs=0.05)
    assert at_hand < 0.95


def test_noise_wins_no_votes_however_small():
    codes = np.concatenate([factors()[:, :2], 1e-3 * noise(1), 1e3 * noise(1, seed=2)], axis=1)
    result = score(codes)
    assert result.parts["active"].tolist() == [True, True, False, False]
    assert result.parts["votes"][2:].sum() == 0
    # the factor that no code knows is never named, or one of the others is not
    assert result.score == pytest.approx(2 / 3, abs=5 * np.sqrt(2 / 9 / 5000))


def test_a_weak_share_moves_a_code_only_where_data_are_many():
    for n, expected in ((60, [True, False]), (6000, [True, True])):
        given = factors(n)
        codes = given[:, :2] + noise(2, n) * [0.0, 8.0]  # a fiftieth of the variance
        assert score(codes, given).parts["active"].tolist() == expected


def test_scales_mean_nothing():
    codes = factors() @ rotation(3) + 0.3 * noise(3)
    other = codes * [1e-5, 1.0, 1e5]
    one, two = score(codes), score(other)
    assert one.score == two.score
    np.testing.assert_array_equal(one.parts["votes"], two.parts["votes"])


def test_the_reference_depends_on_scale():
    assert score(1e-3 * factors(), reference=True).score == 0.0


def test_dead_codes_guess_the_commonest_factor():
    result = score(np.full((1500, 2), 0.1))
    assert result.score == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 9 / 5000))
    assert result.parts["num_active"] == 0
    assert result.parts["votes"].sum() == 0


def test_dead_codes_score_zero_in_the_reference():
    result = score(np.full((1500, 2), 0.1), reference=True)
    assert (result.score, result.parts["train_accuracy"]) == (0.0, 0.0)


@pytest.mark.parametrize("reference", [False, True])
def test_noise_lies_at_its_floor_and_the_factors_at_the_ceiling(reference):
    result = score(noise(4), reference=reference, calibration=FEW)
    low, high = result.floor_interval
    assert low <= result.score <= high
    assert result.floor == pytest.approx(1 / 3, abs=0.1 if reference else 0.02)
    assert result.ceiling == 1.0


def test_the_interval_is_that_of_a_share_of_draws():
    result = score(factors() @ rotation(3), calibration=Calibration(bootstraps=200, permutations=0))
    half = 1.97 * np.sqrt(result.score * (1 - result.score) / 5000)
    assert (result.interval[1] - result.interval[0]) / 2 == pytest.approx(half, rel=0.2)
    assert result.floor is None


def test_a_seed_settles_everything():
    codes = factors() + noise(3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (score(codes, seed=seed, calibration=FEW) for seed in (1, 1, 2))
    assert (one.score, one.interval, one.floor) == (two.score, two.interval, two.floor)
    assert one.floor != other.floor
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_calibration_does_not_change_the_score():
    codes = factors() + noise(3)
    assert score(codes, calibration=FEW).score == score(codes).score
