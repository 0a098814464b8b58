"""Mutual information by critics: pins at the optimal critic, trained critics, and what is no bound."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from pyro_infomax.information import critic_bound, critic_information
from pyro_infomax.nn import MLPCritic, QuadraticCritic
from pyro_infomax.oracles import CorrelatedNormals, information_problems, sparse_covariance

LBFGS = partial(torch.optim.LBFGS, max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-12)


def normals(nats, size=1):
    """Two Gaussian vectors of so much mutual information."""
    correlation = math.sqrt(1 - math.exp(-2 * nats / size))
    return CorrelatedNormals(sparse_covariance(size, size, [correlation] * size), x_dim=size)


def optimal_scores(problem, n, seed=0):
    x, y = problem.sample(n, seed=seed)
    return problem.conditional(x).log_prob(y[:, None]).T - problem.log_marginal(y)


# ---- bounds of given scores


@pytest.mark.parametrize("name", ["normal", "normal, dense", "Student, dense", "uniform noise, much"])
@pytest.mark.parametrize("estimator", ["nwj", "dv"])
def test_nwj_and_dv_equal_the_information_at_the_optimal_critic(name, estimator):
    problem = information_problems()[name]
    scores = optimal_scores(problem, 600).clamp(min=-1e3)  # exp(-1e3) is the 0 of a uniform density
    found = critic_bound(scores, estimator=estimator)
    assert found.bound == "lower"
    assert abs(float(found) - float(problem.mutual_information)) < 4 * float(found.standard_error)


def test_pairs_that_belong_together_do_not_count_as_torn_apart():
    each = [optimal_scores(normals(2.0), 25, seed=seed) for seed in range(100)]
    found = torch.stack([critic_bound(scores).value for scores in each])
    # as some public code has it
    with_own = torch.stack([scores.diagonal().mean() - scores.exp().mean() + 1 for scores in each])
    error = float(found.std()) / math.sqrt(len(each))
    assert abs(float(found.mean()) - 2.0) < 4 * error
    assert float(with_own.mean()) < 2.0 - 8 * error


def test_shifts_of_the_critic_move_what_they_should():
    scores = optimal_scores(normals(1.0), 300)
    shifted = scores + 0.7
    of_x = scores + torch.linspace(-1, 1, 300)[:, None]
    for estimator, moved, alike in [("nwj", shifted, False), ("dv", shifted, True), ("info_nce", of_x, True)]:
        before, after = (float(critic_bound(each, estimator=estimator)) for each in (scores, moved))
        assert math.isclose(before, after, abs_tol=1e-9) == alike


def test_info_nce_stays_below_its_ceiling_and_says_so():
    scores = optimal_scores(normals(3.0), 8)
    found = critic_bound(scores, estimator="info_nce")
    assert float(found) < math.log(8) < 3.0
    assert "ln 8 = 2.079" in found.target
    assert "ceiling" in found.note
    own_left_out = scores.masked_fill(torch.eye(8, dtype=torch.bool), -math.inf).logsumexp(1) - math.log(7)
    assert float((scores.diagonal() - own_left_out).mean()) > math.log(8)  # the published wrong variant


def test_smile_is_no_bound_and_exceeds_the_information():
    scores = optimal_scores(normals(1.0), 500)
    found = critic_bound(3 * scores, estimator="smile", clip=0.5)
    assert found.bound is None
    assert "no bound" in found.target
    assert "(no bound" in str(found)
    assert float(found) > 1.0 + 5 * float(found.standard_error)
    assert float(critic_bound(3 * scores, estimator="dv")) < 1.0
    wide = critic_bound(scores, estimator="smile", clip=50.0)
    assert math.isclose(float(wide), float(critic_bound(scores, estimator="dv")), abs_tol=1e-9)


@pytest.mark.parametrize("estimator", ["nwj", "dv", "info_nce", "smile"])
def test_the_error_is_the_spread_over_data(estimator):
    problem = normals(1.0)
    # A critic that is not the best, so that pairs that do not belong together vary too
    each = [0.4 * optimal_scores(problem, 50, seed=k) + 0.5 for k in range(120)]
    found = [critic_bound(scores, estimator=estimator) for scores in each]
    spread = torch.stack([each.value for each in found]).std()
    stated = torch.stack([each.standard_error for each in found]).mean()
    assert 0.8 < float(stated / spread) < 1.25


def test_the_error_of_info_nce_is_that_of_the_jackknife():
    scores = optimal_scores(normals(1.0), 7)

    def value(kept):
        return critic_bound(scores[kept][:, kept], estimator="info_nce").value

    every = torch.arange(7)
    pseudo = torch.stack([7 * value(every) - 6 * value(every[every != left_out]) for left_out in every])
    found = critic_bound(scores, estimator="info_nce").standard_error
    torch.testing.assert_close(found, pseudo.std() / math.sqrt(7))
    assert critic_bound(scores[:2, :2], estimator="info_nce").standard_error.isnan()


def test_the_error_of_info_nce_is_the_spread_in_small_blocks_too():
    class Products(nn.Module):
        def forward(self, x, y):
            return 4 * (x * y - (x - y).square())[..., 0]

    options = {"estimator": "info_nce", "folds": 2, "batch_size": 4, "progress": False, "seed": 0}
    x, y = normals(1.5).sample(80 * 64, seed=0)
    found = [
        critic_information(*pair, Products(), **options)
        for pair in zip(x.split(64), y.split(64), strict=True)
    ]
    spread = torch.stack([each.value for each in found]).std()
    stated = torch.stack([each.standard_error for each in found]).mean()
    assert 0.9 < float(stated / spread) < 1.15  # which is 0.83 by the spread of the terms


def test_large_scores_of_pairs_that_belong_together_do_no_harm():
    scores = torch.eye(4) * 1e3
    for estimator in ("nwj", "dv", "smile"):
        assert math.isclose(float(critic_bound(scores, estimator=estimator)), 1e3)


def test_what_few_pairs_carry_has_a_note():
    scores = torch.zeros(50, 50)
    scores[3, 7] = 8.0
    assert "one pair makes 5" in critic_bound(scores).note
    assert "no 50 data can show" in critic_bound(torch.eye(50) * 200, estimator="dv").note
    assert critic_bound(torch.zeros(50, 50)).note is None


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (torch.zeros(3, 4), {}, r"shape \(batch, batch\)"),
        (torch.zeros(1, 1), {}, "at least 2 data"),
        (torch.full((3, 3), math.nan), {}, "9 of 9 are not"),
        (torch.full((3, 3), -1e3), {"estimator": "dv"}, "exponentials have a mean"),
        (torch.full((3, 3), 1e3), {"estimator": "nwj"}, "exponentials have a mean"),
        (torch.zeros(3, 3), {"estimator": "mine"}, "'nwj' or 'dv' or 'info_nce' or 'smile'"),
        (torch.zeros(3, 3), {"clip": 0.0}, "clip to be a finite number > 0"),
    ],
)
def test_scores_that_say_nothing_are_refused(scores, options, message):
    with pytest.raises(ValueError, match=message):
        critic_bound(scores, **options)


# ---- critics that are trained


def test_quadratic_critics_find_the_information_of_normals():
    nats = 3.0
    x, y = normals(nats).sample(1600, seed=0)
    found = critic_information(
        1e3 * x + 5, y, QuadraticCritic(1, 1), folds=2, steps=1, batch_size=400, optim=LBFGS, seed=0
    )
    assert found.bound == "lower"
    assert found.note is None
    assert abs(float(found) - nats) < 0.03 * nats


def test_minibatches_find_it_too_and_leave_critic_and_random_state_alone():
    x, y = normals(1.0, size=2).sample(1000, seed=0)
    critic = QuadraticCritic(2, 2)
    state = torch.get_rng_state()
    options = {
        "folds": 2,
        "steps": 80,
        "batch_size": 64,
        "optim": partial(torch.optim.Adam, lr=0.05),
        "seed": 1,
    }
    for estimator in ("dv", "info_nce"):
        found = critic_information(x.numpy(), y.numpy(), critic, estimator=estimator, **options)
        assert abs(float(found) - 1.0) < 0.04 + 2 * float(found.standard_error)
    assert torch.equal(torch.get_rng_state(), state)
    assert not critic.matrix.any()
    assert float(critic_information(x, y, critic, estimator="info_nce", **options)) == float(found)


def test_no_critic_judges_what_it_has_learned_from():
    x, y = torch.randn(60, 4), torch.randn(60, 4)  # nothing in common
    critic = MLPCritic(4, 4, hidden=(48,))
    options = {"batch_size": 60, "steps": 80, "optim": partial(torch.optim.Adam, lr=0.02), "seed": 0}
    found = critic_information(x, y, critic, folds=2, **options)
    assert float(found) < 0.1
    twice = torch.cat([x, x, x, x]), torch.cat([y, y, y, y])  # so that folds share their data
    assert float(critic_information(*twice, critic, folds=2, **options)) > 0.5


class Rising(torch.optim.Optimizer):
    """Goes up by a tenth a step, whatever the gradient."""

    def __init__(self, parameters, by=0.1):
        super().__init__(parameters, {})
        self.by = by

    def step(self, closure):
        (parameter,) = self.param_groups[0]["params"]
        parameter.data += self.by
        return closure()


class Constant(nn.Module):
    """A critic that scores all pairs alike."""

    def __init__(self):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(()))

    def forward(self, x, y):
        return self.score.expand(torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]))


def test_the_second_half_of_the_steps_is_averaged():
    x = torch.randn(12, 1)
    found = critic_information(x, x, Constant(), folds=2, steps=4, optim=Rising)
    score = (0.3 + 0.4) / 2
    assert math.isclose(float(found), score - math.exp(score) + 1)


def test_constants_between_the_critics_of_the_folds_are_no_error():
    x, rises = torch.randn(12, 1), iter((0.1, 0.5))
    options = {"estimator": "dv", "folds": 2, "steps": 1, "progress": False}
    found = critic_information(x, x, Constant(), optim=lambda each: Rising(each, next(rises)), **options)
    torch.testing.assert_close(found.standard_error, torch.zeros(()))


def test_critics_see_standardised_rows_of_their_folds_in_the_mode_of_the_phase():
    seen = []

    class Looking(Constant):
        def forward(self, x, y):
            seen.append((self.training, torch.is_grad_enabled(), x, y))
            return super().forward(x, y)

    x, y = torch.randn(30, 2) * 3 + 1, torch.randn(30, 1)
    critic_information(x, y, Looking().eval(), folds=3, steps=1, batch_size=30, progress=False)
    assert [training for training, *_ in seen] == [True, False] * 3
    for training, graded, *parts in seen:
        assert graded == training
        for part in parts:
            rows = part.flatten(0, 1)
            assert len(rows) == (20 if training else 10)
            exact = torch.allclose(rows.mean(0), torch.zeros(())) and torch.allclose(
                rows.std(0, correction=0), torch.ones(())
            )
            assert exact == training  # by moments that know nothing of the rows held out


def test_data_come_in_the_dtype_of_a_critic_of_ones_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.labels = nn.Linear(1, 4), nn.Embedding(3, 4)
            self.float()

        def forward(self, x, y):
            return (self.layer(x) * self.labels(y[..., 0])).sum(-1)

    x, y = torch.randn(20, dtype=torch.float64), torch.arange(20) % 3
    assert critic_information(x, y, Own(), folds=2, steps=1, progress=False).value.isfinite()


class KnownRatio(nn.Module):
    """A critic of one's own, which needs no training."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem

    def forward(self, x, y):
        x, y = torch.broadcast_tensors(x, y)
        scores = self.problem.log_ratio(x.flatten(0, -2), y.flatten(0, -2))
        return scores.reshape(x.shape[:-1])


def test_a_critic_of_ones_own_is_a_module():
    problem = normals(1.0)
    x, y = problem.sample(600, seed=0)
    found = critic_information(x[:, 0], y[:, 0], KnownRatio(problem), seed=0)
    assert abs(float(found) - 1.0) < 4 * float(found.standard_error)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(5), torch.zeros(6), {}, "as many rows of x as of y but got 5 and 6"),
        (torch.zeros(5), torch.zeros(5), {"folds": 3}, "at least 6 data"),
        (torch.zeros(5), torch.full((5,), math.nan), {}, "finite values of y"),
        (torch.zeros(50), torch.zeros(50), {"batch_size": 1}, "batch_size to be an integer >= 2"),
        (torch.zeros(50), torch.zeros(50), {"critic": nn.Bilinear(1, 1, 1)}, "critic"),
        (torch.zeros(50), torch.zeros(50), {"critic": nn.Flatten()}, "critic"),
    ],
)
def test_what_cannot_be_estimated_is_refused(x, y, options, message):
    with pytest.raises((ValueError, RuntimeError, TypeError), match=message):
        critic_information(x, y, **({"critic": QuadraticCritic(1, 1), "steps": 1} | options))


def test_copies_of_pairs_have_a_note():
    class Known(nn.Module):
        def forward(self, x, y):
            return 0.0 * (x[..., 0] + y[..., 0])

    def note(x, y):
        return critic_information(x, y, Known(), folds=2, progress=False, seed=0).note

    x, y = torch.randn(20, 3), torch.randn(20)
    again = torch.arange(20).repeat(3)
    assert note(x, y) is None
    assert "60 pairs are 20 different ones" in note(x[again], y[again])
    assert "21 pairs are 20 different ones" in note(torch.cat([x, x[:1]]), torch.cat([y, y[:1]]))
    labels = torch.arange(20) % 2
    assert "60 pairs are 20" in note(x[again], labels[again])
    assert "60 pairs are 20" in note(labels[again], x[again])
    assert note(x[again], torch.randn(60)) is None  # the same x with other y
    # Draws of discrete variables are alike without being copies
    assert note(torch.randint(3, (60,)), torch.randint(3, (60,))) is None
    assert note(torch.randint(3, (60,)).double(), torch.randn(60)) is None
    digits = torch.randint(10, (300,))
    noisy = torch.where(torch.rand(300) < 0.1, torch.randint(10, (300,)), digits)
    assert note(digits, noisy) is None
    assert note(torch.randint(1000, (2000,)), torch.rand(2000) < 0.02) is None  # with one partner by chance
    # A few coincidences beside copies hide none
    shared_x, shared_y = x.clone(), y.clone()
    shared_x[1], shared_y[3] = x[0], y[2]
    assert "60 pairs are 20" in note(shared_x[again], shared_y[again])
    assert "61 pairs are 21" in note(torch.cat([x[again], x[:1]]), torch.cat([labels[again], 1 - labels[:1]]))
    zeros = torch.cat([torch.zeros(40, 3), x[again]]), torch.cat([torch.randn(40), y[again]])
    assert "100 pairs are 60" in note(*zeros)


def test_what_copies_let_critics_learn_by_heart_does_not_go_without_a_word():
    x, y = torch.randn(40, 2), torch.randn(40, 2)
    again = torch.arange(40).repeat(10)
    optim = partial(torch.optim.Adam, lr=0.02)
    options = {
        "optim": optim,
        "folds": 2,
        "steps": 100,
        "estimator": "info_nce",
        "seed": 0,
        "progress": False,
    }
    found = critic_information(x[again], y[again], MLPCritic(2, 2, hidden=(64,)), **options)
    assert float(found) > 0.5  # where there is none
    assert "copies" in found.note
