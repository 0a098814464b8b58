"""The bound and its gradient against sums written out, and its maximum against the capacity of channels."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, config_enumerate
from pyro.infer.autoguide.effect import AutoNormalMessenger

from pyro_infomax.infer import (
    PowerLimitedNormal,
    Trace_IM,
    TraceEnum_IM,
    TraceGraph_IM,
    transmitted_information,
)
from pyro_infomax.oracles import blahut_arimoto
from pyro_infomax.training import fit

LN2 = math.log(2)
# p(y|x) of a channel that is far from symmetric, (input, output)
TABLE = [[0.7, 0.1, 0.15, 0.05], [0.2, 0.5, 0.1, 0.2], [0.1, 0.1, 0.2, 0.6]]
SAMPLED = [Trace_IM, TraceGraph_IM]


class Table:
    """A trainable input, a fixed table, and a trainable decoder; the bound is a sum over x and y."""

    start = {
        "input": [0.4, -0.3, 0.2],
        "decoder": [[1.0, 0.2, -0.5], [-0.3, 0.8, 0.1], [0.2, 0.1, 0.3], [-1.0, 0.0, 0.9]],
    }

    def __init__(self, **infer):
        self.infer = infer
        self.table = torch.tensor(TABLE)

    def param(self, name):
        return pyro.param(name, torch.tensor(self.start[name]))

    def draw(self, name, logits):
        return pyro.sample(name, dist.Categorical(logits=logits), infer=self.infer)

    def sender(self):
        return self.draw("y", self.table[self.draw("x", self.param("input"))].log())

    def decoder(self, y):
        pyro.sample("x", dist.Categorical(logits=self.param("decoder")[y]))

    def parameters(self):
        return {name: torch.tensor(value, requires_grad=True) for name, value in self.start.items()}

    def terms(self, p):
        """H(X) and −E log r(x|y)."""
        log_input = p["input"].log_softmax(-1)
        joint = log_input.exp()[:, None] * self.table  # (x, y)
        return -(log_input.exp() * log_input).sum(), -(joint * p["decoder"].log_softmax(-1).T).sum()


class Code(Table):
    """A source of three words and the trainable code that steers the channel; the words are decoded."""

    start = {"code": [[0.9, -0.2, 0.1, 0.3], [0.0, 0.7, -0.4, 0.2], [0.1, -0.6, 0.5, 0.8]]} | {
        "decoder": Table.start["decoder"]
    }

    def sender(self):
        return self.draw("y", self.param("code")[self.draw("x", torch.zeros(3))])

    def terms(self, p):
        joint = p["code"].softmax(-1) / 3
        return torch.tensor(math.log(3)), -(joint * p["decoder"].log_softmax(-1).T).sum()


class Gauss(Table):
    """A Normal input of trainable scale, a channel of trainable gain and noise, a linear decoder."""

    start = {"log_scale": 0.3, "channel_gain": 0.8, "log_noise": -0.4, "gain": 0.5, "log_error": -0.2}

    def sender(self):
        x = pyro.sample("x", dist.Normal(0.0, self.param("log_scale").exp()))
        return pyro.sample("y", dist.Normal(self.param("channel_gain") * x, self.param("log_noise").exp()))

    def decoder(self, y):
        pyro.sample("x", dist.Normal(self.param("gain") * y, self.param("log_error").exp()))

    def terms(self, p):
        variance, error = (2 * p["log_scale"]).exp(), (2 * p["log_error"]).exp()
        noise = (2 * p["log_noise"]).exp()
        square = (1 - p["gain"] * p["channel_gain"]) ** 2 * variance + p["gain"] ** 2 * noise
        log_density = 0.5 * math.log(2 * math.pi)
        return log_density + 0.5 + p["log_scale"], log_density + p["log_error"] + square / (2 * error)


def reference(line):
    p = line.parameters()
    entropy, equivocation = line.terms(p)
    gradients = torch.autograd.grad(equivocation - entropy, list(p.values()))
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    return torch.stack([entropy.detach(), equivocation.detach()]), flat


def evaluate(im, line):
    loss = im.loss_and_grads(line.decoder, line.sender)
    assert loss == -im.parts.bound
    parameters = [pyro.param(name).unconstrained() for name in line.start]
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
    for parameter in parameters:
        parameter.grad = None
    return torch.tensor([im.parts.input_entropy, im.parts.equivocation]), flat


def assert_right_on_average(im, line, repeats=20):
    """Within five standard errors in each part and each derivative."""
    parts, gradients = zip(*(evaluate(im, line) for _ in range(repeats)), strict=True)
    for draws, expected in zip((parts, gradients), reference(line), strict=True):
        draws = torch.stack(draws)
        error = draws.std(0) / math.sqrt(repeats)
        assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-9).all()
        assert (error <= 0.1).all()  # else the test could not fail


def particles(number):
    return {"num_particles": number, "vectorize_particles": True, "max_plate_nesting": 0}


@pytest.mark.parametrize("make", [Table, Code])
@pytest.mark.parametrize("how", ["parallel", "sequential"])
def test_enumerated_lines_are_exact(make, how):
    line = make(enumerate=how)
    parts, gradient = evaluate(TraceEnum_IM(max_plate_nesting=0), line)
    expected_parts, expected_gradient = reference(line)
    torch.testing.assert_close(parts, expected_parts)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("make", [Table, Code])
@pytest.mark.parametrize("make_im", SAMPLED)
def test_score_functions_are_right_on_average(make, make_im):
    assert_right_on_average(make_im(**particles(1000)), make())


@pytest.mark.parametrize("make", [Table, Code])
def test_score_functions_with_baselines_are_right_on_average(make):
    line = make(baseline={"use_decaying_avg_baseline": True})
    assert_right_on_average(TraceGraph_IM(**particles(1000)), line)
    assert any(name.startswith("__baseline") for name in pyro.get_param_store())


@pytest.mark.parametrize("make", [Table, Code])
def test_score_functions_are_right_where_nothing_is_enumerated(make):
    im = TraceEnum_IM(strict_enumeration_warning=False, **particles(1000))
    assert_right_on_average(im, make())


@pytest.mark.parametrize("make", [Table, Code])
@pytest.mark.parametrize("sampled", ["x", "y"])
def test_lines_that_are_enumerated_in_part_are_right_on_average(make, sampled):
    line = make()
    line.draw = lambda name, logits: pyro.sample(
        name, dist.Categorical(logits=logits), infer={} if name == sampled else {"enumerate": "parallel"}
    )
    assert_right_on_average(TraceEnum_IM(**particles(1000)), line)


@pytest.mark.parametrize("make_im", [*SAMPLED, TraceEnum_IM])
def test_normal_lines_are_right_on_average(make_im):
    assert_right_on_average(make_im(strict_enumeration_warning=False, **particles(1000)), Gauss())


@pytest.mark.parametrize("make_im", [Trace_IM, TraceEnum_IM])
def test_the_differentiable_loss_has_the_same_gradient(make_im):
    line = Table(enumerate="parallel") if make_im is TraceEnum_IM else Gauss()
    torch.manual_seed(3)
    _, expected = evaluate(make_im(max_plate_nesting=0), line)
    torch.manual_seed(3)
    im = make_im(max_plate_nesting=0)
    loss = im.differentiable_loss(line.decoder, line.sender)
    parameters = [pyro.param(name).unconstrained() for name in line.start]
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(torch.cat([gradient.reshape(-1) for gradient in gradients]), expected)
    assert im.parts.bound == -float(loss.detach())


def test_the_graph_estimator_has_no_differentiable_loss():
    line = Gauss()
    with pytest.raises(NotImplementedError, match=r"TraceGraph_IM has no differentiable loss.*Trace_IM"):
        TraceGraph_IM().differentiable_loss(line.decoder, line.sender)


def test_a_sender_that_is_a_messenger_is_refused():
    line = Table()
    guide = AutoNormalMessenger(lambda: None)
    with pytest.raises(NotImplementedError, match="plain program"):
        TraceEnum_IM().loss(line.decoder, guide)


@pytest.mark.parametrize("make_im", SAMPLED)
@pytest.mark.parametrize("make", [Table, Code])
def test_an_estimator_that_cannot_enumerate_names_one_that_can(make, make_im):
    line = make(enumerate="parallel")
    with pytest.raises(NotImplementedError, match=f"{make_im.__name__} cannot enumerate.*'x'.*TraceEnum_IM"):
        make_im(max_plate_nesting=0).loss(line.decoder, line.sender)


def test_there_are_no_parts_before_the_first_evaluation():
    assert TraceEnum_IM().parts is None


def test_an_objective_can_be_copied_and_pickled_after_a_step():
    im, line = TraceEnum_IM(max_plate_nesting=0), Table(enumerate="parallel")
    im.loss_and_grads(line.decoder, line.sender)
    assert copy.deepcopy(im).parts == pickle.loads(pickle.dumps(im)).parts == im.parts


# ---- plates, data


class Letters:
    """Data of two letters, each sent by a trainable signal through a noisy table; the letters are decoded."""

    data = torch.tensor([0, 1, 1, 0, 1, 1])

    def __init__(self, chosen=None):
        self.chosen = None if chosen is None else torch.tensor(chosen)

    def sender(self, letters):
        signal = pyro.param("signal", torch.tensor([[0.3, -0.2], [-0.5, 0.4]]))
        with pyro.plate("data", len(letters), subsample=self.chosen) as index:
            return pyro.sample(
                "y", dist.Categorical(logits=signal[letters[index]]), infer={"enumerate": "parallel"}
            )

    def decoder(self, y, letters):
        logits = pyro.param("decoder", torch.tensor([[0.6, -0.1], [0.2, 0.9]]))
        with pyro.plate("data", len(letters), subsample=self.chosen) as index:
            pyro.sample("letters", dist.Categorical(logits=logits[y]), obs=letters[index])

    def costs(self, letters):
        """−E log r of each letter."""
        joint = pyro.param("signal").softmax(-1)[letters]  # (data, y)
        return -(joint * pyro.param("decoder").log_softmax(-1)[:, letters].T).sum(-1)


def test_data_are_summed_and_have_no_entropy():
    letters, im = Letters(), TraceEnum_IM(max_plate_nesting=1)
    loss = im.loss(letters.decoder, letters.sender, letters.data)
    torch.testing.assert_close(loss, float(letters.costs(letters.data).sum().detach()))
    assert im.parts.input_entropy == 0
    assert im.parts.equivocation == loss
    assert im.stands_for(6) == 6


def test_a_subsample_stands_for_all_data():
    letters, im = Letters(chosen=[0, 4]), TraceEnum_IM(max_plate_nesting=1)
    loss = im.loss_and_grads(letters.decoder, letters.sender, letters.data)
    expected = 3 * letters.costs(letters.data[letters.chosen]).sum()
    torch.testing.assert_close(loss, float(expected.detach()))
    for name in ("signal", "decoder"):
        (gradient,) = torch.autograd.grad(expected, pyro.param(name), retain_graph=True)
        torch.testing.assert_close(pyro.param(name).grad, gradient)
    assert im.stands_for(2) == 6


def test_an_input_in_a_plate_counts_once_a_use():
    table, counts = Table(enumerate="parallel"), 5

    def sender():
        with pyro.plate("uses", counts):
            return table.sender()

    def decoder(y):
        with pyro.plate("uses", counts):
            table.decoder(y)

    im = TraceEnum_IM(max_plate_nesting=1)
    im.loss(decoder, sender)
    entropy, equivocation = table.terms(table.parameters())
    torch.testing.assert_close(im.parts.input_entropy, counts * float(entropy.detach()))
    torch.testing.assert_close(im.parts.equivocation, counts * float(equivocation.detach()))


def test_fit_trains_an_encoder_on_data():
    letters = Letters()
    svi = SVI(
        letters.decoder, letters.sender, pyro.optim.Adam({"lr": 0.1}), TraceEnum_IM(max_plate_nesting=1)
    )
    losses = fit(svi, letters.data, epochs=30, batch_size=3, progress=False, seed=0).to_frame()["loss"]
    assert losses.iloc[-1] < 0.1 < 0.5 < losses.iloc[0]


def test_a_decoder_may_sum_out_a_latent_of_its_own():
    table = Table(enumerate="parallel")
    weights, logits = torch.tensor([0.3, 0.7]), torch.randn(2, 4, 3)

    def decoder(y):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Categorical(logits=logits[k, y]))

    im = TraceEnum_IM(max_plate_nesting=0)
    im.loss(decoder, table.sender)
    joint = table.parameters()["input"].detach().softmax(-1)[:, None] * table.table
    mixture = (weights[:, None, None] * logits.softmax(-1)).sum(0)  # (y, x)
    torch.testing.assert_close(im.parts.equivocation, -float((joint * mixture.log().T).sum()))


def test_a_finite_input_through_continuous_noise():
    """Two signals in Normal noise: the exact decoder's bound is the information, by quadrature."""
    noise = 0.8

    def sender():
        x = pyro.sample("x", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        return pyro.sample("y", dist.Normal(2 * x - 1, noise))

    def decoder(y):
        pyro.sample("x", dist.Bernoulli(logits=2 * y / noise**2))

    y = torch.linspace(-8, 8, 4001)
    density = dist.Normal(1.0, noise).log_prob(y).exp()
    truth = LN2 - torch.trapezoid(density * torch.nn.functional.softplus(-2 * y / noise**2), y)
    estimate = transmitted_information(decoder, sender, num_samples=20_000, seed=0)
    assert abs(float(estimate) - float(truth)) < 4 * float(estimate.standard_error) < 0.02


# ---- capacity


def train_table(table, steps=200):
    table = torch.tensor(table)
    inputs, outputs = table.shape

    @config_enumerate
    def sender():
        x = pyro.sample("x", dist.Categorical(logits=pyro.param("input", lambda: 0.5 * torch.randn(inputs))))
        return pyro.sample("y", dist.Categorical(table[x]))

    def decoder(y):
        logits = pyro.param("decoder", lambda: 0.1 * torch.randn(outputs, inputs))
        pyro.sample("x", dist.Categorical(logits=logits[y]))

    optimiser = pyro.optim.Adam({"lr": 0.1})
    svi = SVI(decoder, sender, optimiser, TraceEnum_IM(max_plate_nesting=0))
    for _ in range(steps):
        svi.step()
    return transmitted_information(decoder, sender), pyro.param("input").detach().softmax(-1)


ERROR = 0.3
CHANNELS = {
    "binary symmetric": (
        [[1 - ERROR, ERROR], [ERROR, 1 - ERROR]],
        LN2 + ERROR * math.log(ERROR) + (1 - ERROR) * math.log(1 - ERROR),
        0.5,
    ),
    "erasure": ([[1 - ERROR, ERROR, 0.0], [0.0, ERROR, 1 - ERROR]], (1 - ERROR) * LN2, 0.5),
    "Z": (
        [[1.0, 0.0], [ERROR, 1 - ERROR]],
        math.log1p((1 - ERROR) * ERROR ** (ERROR / (1 - ERROR))),
        0.42093,
    ),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_the_oracle_knows_the_channels(name):
    table, capacity, ones = CHANNELS[name]
    found = blahut_arimoto(table)
    torch.testing.assert_close(found.capacity, torch.tensor(capacity), atol=1e-8, rtol=0)
    torch.testing.assert_close(float(found.input[1]), ones, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CHANNELS)
def test_training_reaches_the_capacity_of_a_table(name):
    table, capacity, ones = CHANNELS[name]
    bound, inputs = train_table(table)
    assert bound.standard_error == 0
    assert 0.99 * capacity <= float(bound) <= capacity * (1 + 1e-9)
    torch.testing.assert_close(float(inputs[1]), ones, atol=0.02, rtol=0)


def train_normal(source, noise, steps=300):
    variances = torch.tensor(noise)

    def sender():
        pyro.module("source", source)
        x = pyro.sample("x", source())
        return pyro.sample("y", dist.Normal(x, variances.sqrt()).to_event(1))

    def decoder(y):
        gain = pyro.param("gain", torch.full_like(variances, 0.5))
        error = pyro.param("error", torch.ones_like(variances), constraint=dist.constraints.positive)
        pyro.sample("x", dist.Normal(gain * y, error).to_event(1))

    optimiser = pyro.optim.ClippedAdam({"lr": 0.2, "betas": (0.9, 0.95), "lrd": 0.03 ** (1 / steps)})
    svi = SVI(decoder, sender, optimiser, Trace_IM(**particles(500)))
    for _ in range(steps):
        svi.step()
    return transmitted_information(decoder, sender, num_samples=100_000, seed=1)


def test_training_reaches_the_capacity_of_a_normal_channel():
    power, noise = 3.0, 0.5
    source = PowerLimitedNormal(1, power=power)
    bound, capacity = train_normal(source, [noise]), 0.5 * math.log1p(power / noise)
    error = 3 * float(bound.standard_error)
    assert error < 0.01 * capacity
    assert 0.99 * capacity - error <= float(bound) <= capacity + error
    assert 0.98 * power <= float(source.variances.detach().sum()) <= power * (1 + 1e-12)


def test_training_fills_parallel_channels_with_water():
    noise, power, level = [0.5, 1.0, 3.0], 2.0, 1.75
    source = PowerLimitedNormal(3, power=power)
    bound = train_normal(source, noise)
    capacity = 0.5 * math.log(level / 0.5) + 0.5 * math.log(level / 1.0)
    error = 3 * float(bound.standard_error)
    assert 0.99 * capacity - error <= float(bound) <= capacity + error
    variances = source.variances.detach()
    assert float(variances.sum()) <= power * (1 + 1e-12)
    torch.testing.assert_close(variances, torch.tensor([1.25, 0.75, 0.0]), atol=0.1, rtol=0)
