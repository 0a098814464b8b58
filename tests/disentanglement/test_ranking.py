from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso
from sklearn.preprocessing import StandardScaler

from pyro_infomax.disentanglement import Calibration, udr

FEW = Calibration(bootstraps=6, permutations=6)


def normal(size, seed=0, n=500):
    return np.random.RandomState(seed).randn(n, size)


def rotation(size, seed=0):
    return np.linalg.qr(np.random.RandomState(seed).randn(size, size))[0]


def models():
    """The truth with noise, reordered with another sign, in part and beside noise, and mixed."""
    truth = normal(4)
    return [
        truth + 0.3 * normal(4, 1),
        -5 * truth[:, ::-1] + 100,
        np.concatenate([truth[:, :2] ** 3, normal(2, 2)], axis=1),
        truth @ rotation(4),
    ]


KL = [np.ones(4), np.ones(4), np.array([1.0, 2.0, 0.01, 0.001]), np.ones(4)]


def score(codes, **options):
    return udr(codes, **{"calibration": None, "progress": False} | options)


def by_the_definition(codes, kl, correlation):
    """Pair by pair as the reference does: of each model, and of each pair (predictor, predicted)."""
    ready = [StandardScaler().fit_transform(each) * (k > 0.01) for each, k in zip(codes, kl, strict=True)]
    pairs = np.zeros((len(codes), len(codes)))
    for i, j in permutations(range(len(codes)), 2):
        if correlation == "lasso":
            related = np.abs(Lasso(alpha=0.1).fit(ready[i], ready[j]).coef_).T
        else:
            related = np.array(
                [
                    [abs(spearmanr(a, b)[0]) if np.ptp(a) * np.ptp(b) > 0 else 0 for b in ready[j].T]
                    for a in ready[i].T
                ]
            )
        related = related[kl[i] > 0.01][:, kl[j] > 0.01]
        means = []
        for matrix in (related, related.T):
            one = [column.max() ** 2 / column.sum() if column.sum() > 0 else 0.0 for column in matrix.T]
            means.append(np.mean(one))
        pairs[i, j] = np.mean(means)
    return [np.median(np.delete(pairs[:, i], i)) for i in range(len(codes))], pairs


@pytest.mark.parametrize("correlation", ["lasso", "spearman"])
def test_the_reference_is_its_definition(correlation):
    result = score(models(), kl=KL, correlation=correlation, reference=True)
    per_model, pairs = by_the_definition(models(), KL, correlation)
    np.testing.assert_allclose(result.parts["pairwise"], pairs, atol=1e-8)
    np.testing.assert_allclose(result.parts["per_model"], per_model, atol=1e-8)
    assert result.score == pytest.approx(np.mean(per_model), abs=1e-8)


def test_correlations_of_codes_that_are_left_out_are_zero():
    result = score(models(), kl=KL)
    related = result.parts["correlation"][2, 0]
    expected = np.abs(
        Lasso(alpha=0.1)
        .fit(StandardScaler().fit_transform(models()[2][:, :2]), StandardScaler().fit_transform(models()[0]))
        .coef_
    ).T
    np.testing.assert_allclose(related[:2], expected, atol=1e-8)
    assert (related[2:] == 0).all()
    assert [each.sum() for each in result.parts["active"]] == [4, 4, 2, 4]


def test_by_default_both_directions_count():
    result = score(models())
    pairs = result.parts["pairwise"]
    for model in range(4):
        one, other = np.delete(pairs[:, model], model), np.delete(pairs[model], model)
        expected = (np.median(one) + np.median(other)) / 2
        assert result.parts["per_model"][model] == pytest.approx(expected, abs=1e-12)
    assert not np.allclose(pairs, pairs.T)


def test_order_sign_and_scale_mean_nothing():
    truth = normal(4)
    other = models()
    other[1] = truth * [1e-4, 1.0, -1e4, 3.0] + 7
    np.testing.assert_allclose(score(other).parts["pairwise"], score(models()).parts["pairwise"], atol=1e-6)


def test_of_orthogonal_codes_the_lasso_takes_off_its_penalty():
    codes = np.linalg.qr(normal(3) - normal(3).mean(0))[0]
    assert score([codes, codes[:, [2, 0, 1]]]).score == pytest.approx(0.9, abs=1e-6)


def test_the_same_codes_in_another_order_are_at_the_ceiling():
    truth = normal(4)
    for correlation in ("lasso", "spearman"):
        result = score([truth, -truth[:, ::-1]], correlation=correlation, calibration=FEW)
        assert result.score == pytest.approx(result.ceiling, abs=1e-9)
        assert result.calibrated == pytest.approx(1.0, abs=1e-9)


def test_models_that_agree_rank_above_one_that_is_mixed():
    truth = normal(4)
    others = [truth + 0.2 * normal(4, seed) for seed in (1, 2, 3)]
    result = score([truth @ rotation(4), *others])
    assert result.parts["per_model"][0] < result.parts["per_model"][1:].min() - 0.15
    assert result.parts["best"] == result.parts["per_model"].argmax()


@pytest.mark.parametrize("correlation", ["lasso", "spearman"])
def test_models_that_have_nothing_in_common_lie_at_the_floor(correlation):
    apart = [normal(4, seed) for seed in (3, 4, 5)]
    result = score(apart, correlation=correlation, calibration=FEW)
    low, high = result.floor_interval
    assert low <= result.score <= high
    assert result.floor < 0.1
    assert result.score < 0.1


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("correlation", ["lasso", "spearman"])
def test_a_collapsed_model_scores_zero_and_leaves_the_others_alone(correlation, reference):
    options = {"correlation": correlation, "reference": reference}
    alive = score(models(), **options).parts["per_model"]
    collapsed = [*models(), normal(3, 9)]
    result = score(collapsed, kl=[*[np.ones(4)] * 4, np.zeros(3)], **options)
    np.testing.assert_allclose(result.parts["per_model"], [*alive, 0.0], atol=1e-9)
    assert result.notes == (
        "Model 4 has no active code: it scores 0, and no other model is compared with it.",
    )


def test_constant_codes_are_left_out():
    with_dead = [np.insert(each, 1, 0.1, axis=1) for each in models()]
    for correlation in ("lasso", "spearman"):
        np.testing.assert_allclose(
            score(with_dead, correlation=correlation).parts["per_model"],
            score(models(), correlation=correlation).parts["per_model"],
            atol=1e-9,
        )


def test_one_model_that_is_alive_has_none_to_agree_with():
    result = score([normal(3), np.ones((500, 2)), np.zeros((500, 4))], calibration=FEW)
    assert result.score == 0.0
    assert result.parts["per_model"].tolist() == [0, 0, 0]
    assert result.notes[-1] == "There are no two models with active codes to compare."


def test_models_may_have_different_numbers_of_codes():
    result = score([normal(3), np.concatenate([normal(3), normal(2, 4)], axis=1), normal(3)[:, :1]])
    assert result.parts["correlation"][0, 1].shape == (3, 5)
    assert result.parts["correlation"][2, 1].shape == (1, 5)
    assert 0 < result.score < 1


def test_data_resampled_are_the_same_for_all_models():
    result = score(models(), calibration=Calibration(bootstraps=20, permutations=0))
    low, high = result.interval
    assert low < result.score < high
    assert high - low < 0.1  # each in an order of its own would be at the floor


def test_a_seed_settles_everything():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"calibration": FEW, "correlation": "spearman"}
    one, two, other = (score(models(), seed=seed, **options) for seed in (1, 1, 2))
    assert (one.score, one.interval, one.floor) == (two.score, two.interval, two.floor)
    assert one.floor != other.floor
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        ([normal(3)], {}, "two models or more but got 1: .* train it from several seeds"),
        ([], {}, "two models or more but got 0"),
        (normal(3), {}, r"several models but got one array \(500, 3\)"),
        ([normal(3), normal(3, n=400)], {}, r"same data for all models but they have \[500, 400\] rows"),
        ([normal(3), np.full((500, 3), np.nan)], {}, "finite codes"),
        ([normal(3)] * 2, {"kl": [np.ones(3)]}, "kl with a number for each code"),
        ([normal(3)] * 2, {"kl": [np.ones(3), np.ones(2)]}, "kl with a number for each code"),
        ([normal(3)] * 2, {"kl": [np.ones(3), np.full(3, np.inf)]}, "finite kl"),
        ([normal(3)] * 2, {"kl": ["a", "b"]}, "kl to be an array of real numbers but got str"),
        ([normal(3)] * 2, {"correlation": "pearson"}, "lasso, spearman but got 'pearson'"),
    ],
)
def test_what_cannot_be_compared_is_refused(codes, options, message):
    with pytest.raises(ValueError, match=message):
        score(codes, **options)
