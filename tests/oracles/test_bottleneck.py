import math

import pytest
import torch
from torch import Tensor

from pyro_infomax.oracles import gaussian_information_bottleneck, information_bottleneck


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def information(joint: Tensor) -> Tensor:
    apart = joint.sum(1, keepdim=True) * joint.sum(0)
    return torch.where(joint > 0, joint * (joint / apart).log(), 0).sum()


def h(p: Tensor) -> Tensor:
    return torch.special.entr(p) + torch.special.entr(1 - p)


@pytest.fixture
def joint() -> Tensor:
    return (1.5 * torch.randn(20)).softmax(0).reshape(5, 4)


# discrete


def test_report_holds_together(joint: Tensor) -> None:
    kept = information_bottleneck(joint, 4.0, 5, seed=0)
    p_x = joint.sum(1)
    close(kept.encoder.sum(1), torch.ones(5))
    close(kept.compression, information(p_x[:, None] * kept.encoder))
    close(kept.relevance, information(kept.encoder.T @ joint))
    close(kept.marginal, p_x @ kept.encoder)
    close(kept.decoder.T * kept.marginal, joint.T @ kept.encoder)
    close(kept.loss, kept.compression - 4.0 * kept.relevance)


def test_encoder_is_self_consistent(joint: Tensor) -> None:
    kept = information_bottleneck(joint, 4.0, 3, seed=0)
    given_x = joint / joint.sum(1, keepdim=True)
    kl = (given_x[:, None] * (given_x[:, None] / kept.decoder).log()).sum(-1)  # (x, t)
    close((kept.marginal.log() - 4.0 * kl).softmax(1), kept.encoder, tolerance=1e-7)


@pytest.mark.parametrize("beta", [1.5, 50.0])
def test_no_other_encoder_has_a_lower_loss(joint: Tensor, beta: float) -> None:
    kept = information_bottleneck(joint, beta, 5, seed=0)
    p_x = joint.sum(1)
    for scale in torch.linspace(0.05, 6, 300):
        near = (kept.encoder.clamp(min=1e-6).log() + scale * torch.randn(5, 5)).softmax(1)
        loss = information(p_x[:, None] * near) - beta * information(near.T @ joint)
        assert loss >= kept.loss - 1e-9


@pytest.mark.parametrize("beta", [1.2, 10.0])
def test_data_processing(joint: Tensor, beta: float) -> None:
    kept = information_bottleneck(joint, beta, 5, seed=0)
    assert 0 <= kept.relevance <= information(joint) + 1e-12
    assert kept.relevance <= kept.compression + 1e-12


def test_weight_moves_along_the_information_curve(joint: Tensor) -> None:
    points = [information_bottleneck(joint, beta, 5, seed=0) for beta in (1.5, 3.0, 6.0, 20.0)]
    compressions = torch.stack([point.compression for point in points])
    relevances = torch.stack([point.relevance for point in points])
    assert (compressions.diff() > 0).all()
    assert (relevances.diff() > 0).all()
    gains = relevances.diff() / compressions.diff()
    assert (gains.diff() < 0).all()  # concave


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_little_weight_keeps_nothing(joint: Tensor, beta: float) -> None:
    kept = information_bottleneck(joint, beta, 3, seed=0, tolerance=1e-7)
    close(kept.compression, 0.0, tolerance=1e-5)


def test_great_weight_keeps_all_that_is_relevant(joint: Tensor) -> None:
    kept = information_bottleneck(joint, 1e4, 5, seed=0)
    close(kept.relevance, information(joint), tolerance=1e-4)


def test_deterministic_relation_keeps_just_its_classes() -> None:
    joint = torch.tensor([[0.2, 0.0], [0.3, 0.0], [0.0, 0.1], [0.0, 0.4]])  # y = f(x), both halves likely
    kept = information_bottleneck(joint, 30.0, 4, seed=0)
    close(kept.relevance, math.log(2), tolerance=1e-6)
    close(kept.compression, kept.relevance, tolerance=1e-6)


@pytest.mark.parametrize(("beta", "flip"), [(1.6, 0.02), (1.6, 0.1), (3.0, 0.1), (8.0, 0.02)])
def test_binary_symmetric_source_meets_its_closed_form(beta: float, flip: float) -> None:
    """T is X through another symmetric channel, by the lemma of Mrs. Gerber."""
    joint = torch.tensor([[1 - flip, flip], [flip, 1 - flip]]) / 2
    noise = torch.linspace(0, 0.5, 200_001)
    compression = math.log(2) - h(noise)
    relevance = math.log(2) - h(noise * (1 - flip) + (1 - noise) * flip)
    best = (compression - beta * relevance).argmin()
    kept = information_bottleneck(joint, beta, 3, seed=0, restarts=5)
    on_grid = (compression - beta * relevance)[best]
    assert on_grid - 2e-6 <= kept.loss <= on_grid + 1e-12
    close(kept.compression, compression[best], tolerance=1e-4)
    close(kept.relevance, relevance[best], tolerance=1e-4)


def test_values_of_x_that_never_occur_change_nothing(joint: Tensor) -> None:
    padded = torch.cat([joint, torch.zeros(1, 4)])
    kept, plain = (information_bottleneck(each, 3.0, 3, seed=0) for each in (padded, joint))
    close(kept.loss, plain.loss)


def test_seed_isolates_the_starts(joint: Tensor) -> None:
    state = torch.get_rng_state()
    first, again = (information_bottleneck(joint, 3.0, 2, seed=1) for _ in range(2))
    assert torch.equal(first.encoder, again.encoder)
    assert torch.equal(state, torch.get_rng_state())


def test_unsettled_encoder_is_an_error(joint: Tensor) -> None:
    with pytest.raises(RuntimeError, match="after 3 iterations it still moves by"):
        information_bottleneck(joint, 3.0, 3, seed=0, max_iterations=3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"joint": [0.5, 0.5]}, "Expected joint with at least 2 axes"),
        ({"joint": [[0.5, 0.6]]}, "Expected joint to sum to 1"),
        ({"beta": 0.0}, r"Expected beta > 0 but got 0\.0"),
        ({"num_states": 0}, "Expected num_states to be an integer >= 1 but got 0"),
        ({"restarts": 0}, "restarts to be an integer >= 1 but got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        information_bottleneck(
            **({"joint": [[0.5, 0.0], [0.0, 0.5]], "beta": 2.0, "num_states": 2} | arguments)
        )


# Gaussian


def informations(correlation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """I(X; T), I(T; Y) of T = X + noise of this variance, X and Y of variance one."""
    compression = -0.5 * torch.log(1 - 1 / (1 + noise))
    return compression, -0.5 * torch.log(1 - correlation**2 / (1 + noise))


@pytest.mark.parametrize(
    ("beta", "correlation"), [(1.0, 0.95), (1.3, 0.95), (1.3, -0.8), (2.0, -0.8), (5.0, 0.3), (100.0, 0.3)]
)
def test_gaussian_bottleneck_is_the_best_noise(beta: float, correlation: float) -> None:
    noise = torch.logspace(-6, 8, 400_001)
    compression, relevance = informations(torch.tensor(correlation), noise)
    losses = compression - beta * relevance
    kept = gaussian_information_bottleneck([correlation], beta)
    close(kept.compression - beta * kept.relevance, losses.min().clamp(max=0), tolerance=1e-7)
    assert kept.active == (beta * correlation**2 > 1)
    if kept.active:
        close(kept.compression, compression[losses.argmin()], tolerance=1e-3)


def test_gaussian_directions_add_up() -> None:
    beta = torch.tensor([[1.0, 2.0], [5.0, 50.0]])
    both = gaussian_information_bottleneck([0.9, 0.5], beta)
    one, other = (gaussian_information_bottleneck([rho], beta) for rho in (0.9, 0.5))
    close(both.compression, one.compression + other.compression)
    close(both.relevance, one.relevance + other.relevance)
    assert both.active.tolist() == [[0, 1], [2, 2]]


def test_gaussian_bottleneck_of_great_weight_keeps_all() -> None:
    kept = gaussian_information_bottleneck([0.9, 0.5], 1e8)
    close(kept.relevance, -0.5 * (math.log(1 - 0.81) + math.log(1 - 0.25)), tolerance=1e-7)


def test_gaussian_bottleneck_has_the_slope_of_its_weight() -> None:
    beta = torch.tensor([2.0, 7.0], requires_grad=True)
    kept = gaussian_information_bottleneck([0.9, 0.6], beta)
    (cost,) = torch.autograd.grad(kept.compression.sum(), beta, retain_graph=True)
    (gain,) = torch.autograd.grad(kept.relevance.sum(), beta)
    close(cost / gain, beta.detach())


def test_tables_of_a_gaussian_come_near_its_closed_form() -> None:
    grid, correlation, beta = torch.linspace(-3.5, 3.5, 21), 0.8, 3.0
    square = grid[:, None] ** 2 - 2 * correlation * grid[:, None] * grid + grid**2
    joint = torch.exp(-0.5 * square / (1 - correlation**2))
    kept = information_bottleneck(joint / joint.sum(), beta, 8, seed=0, restarts=2, tolerance=1e-5)
    truth = gaussian_information_bottleneck([correlation], beta)
    close(kept.loss, truth.compression - beta * truth.relevance, tolerance=5e-3)


@pytest.mark.parametrize(
    ("correlations", "beta", "sentence"),
    [
        ([1.0], 2.0, r"Expected correlations within \(-1, 1\) but got 1\.0"),
        ([0.5], 0.0, r"Expected beta > 0 but got 0\.0"),
        (0.5, 2.0, r"Expected correlations of shape \(dim\)"),
        ([math.nan], 2.0, "Expected correlations to be finite"),
    ],
)
def test_wrong_gaussians_are_refused(correlations: object, beta: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        gaussian_information_bottleneck(correlations, beta)
