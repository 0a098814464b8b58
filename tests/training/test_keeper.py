"""Resume is exact: a training that was stopped ends as the one that never was."""

import warnings
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.infer import Trace_BetaELBO, TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO
from pyro_infomax.nn import MLPDecoder
from pyro_infomax.schedules import Linear
from pyro_infomax.training import BestWeights, Checkpoint, EarlyStopping, NonFiniteLossError, fit
from pyro_infomax.vae import VAE

STEPS = 4  # an epoch, the last of them on two data
EPOCHS = 3


@pytest.fixture
def data():
    return torch.randn(11, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.pt"


# -- programs, each a function that returns model, guide and ELBO ------------------------------------


def networks():
    encoder = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 4))
    decoder = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3))
    return encoder, decoder


def closed_over():
    encoder, decoder = networks()

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", lambda: 1 + torch.rand(3), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        # before its statement
        loc, log_scale = encoder(x).chunk(2, -1)
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, TraceMeanField_InfoMaxELBO(lam=Linear(0.0, 1.0, 20))


class Pair(PyroModule):
    def __init__(self, name):
        super().__init__(name)
        self.encoder, self.decoder = networks()
        self.scale = PyroParam(1 + torch.rand(3), constraint=constraints.positive)


class Model(Pair):
    def forward(self, x):
        scale = self.scale
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)


class Guide(Pair):
    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def pyro_modules():
    return Model("model"), Guide("guide"), Trace_ELBO()


def mixture():
    """Constrained parameters alone, one of them for each datum and subsampled."""

    def model(x):
        weights = pyro.param("weights", lambda: torch.rand(4).softmax(0), constraint=constraints.simplex)
        locs = pyro.param("locs", lambda: torch.randn(4))
        with pyro.plate("data", 11, subsample_size=5):
            shift = pyro.param("shift", torch.zeros(11), event_dim=0)
            mixed = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, 1.0))
            pyro.sample("x", mixed, obs=x.sum() + shift)

    return model, lambda x: None, Trace_BetaELBO(1.0)


def regression(x):
    with pyro.plate("features", 2):
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(x[:, :2] @ weights, scale), obs=x[:, 2])


def autoguide(kind):
    return regression, kind(regression), Trace_ELBO()


def amortized():
    _, decoder = networks()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.Normal(z.sum(-1), 1.0))
            pyro.sample("x", dist.Normal(decoder(z) + y[:, None], 1.0).to_event(1), obs=x)

    encoder = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh())
    return model, AmortizedNormal(model, encoder, structured=True), TraceMeanField_BetaELBO(2.0)


def vae():
    encoder = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh())
    pair = VAE(encoder, MLPDecoder(2, (3,)), latent_dim=2, likelihood="gaussian")
    return pair.model, pair.guide, TraceMeanField_InfoMaxELBO(lam=1.0)


def late():
    """A parameter and a network that only the last batch of an epoch meets."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        if len(x) == 2:
            scale = pyro.param("late", lambda: 1 + torch.rand(3), constraint=constraints.positive)
            pyro.module("network", network)
            loc = loc + network(x)
        else:
            scale = 1.0
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    return model, lambda x: None, Trace_ELBO()


def with_baseline():
    """Pyro's decaying baseline gives its name in the store another tensor at each step."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        k = pyro.sample("k", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(k + loc, 1.0), obs=x[:, 0])

    def guide(x):
        logits = pyro.param("logits", torch.zeros(()))
        baseline = {"use_decaying_avg_baseline": True, "baseline_beta": 0.5}
        pyro.sample("k", dist.Bernoulli(logits=logits), infer={"baseline": baseline})

    return model, guide, TraceGraph_ELBO()


class Local(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.randn(3))
        self.scale = PyroParam(1 + torch.rand(3), constraint=constraints.positive)

    def forward(self, x):
        scale = self.scale
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, scale).to_event(1), obs=x)


def local():
    return Local(), lambda x: None, Trace_ELBO()


PROGRAMS = {
    "closed over": closed_over,
    "PyroModule": pyro_modules,
    "constrained": mixture,
    "AutoNormal": partial(autoguide, AutoNormal),
    "AutoDiagonalNormal": partial(autoguide, AutoDiagonalNormal),
    "AmortizedNormal": amortized,
    "VAE": vae,
    "late": late,
    "baseline": with_baseline,
    "local": local,
}

OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.01}),
    "Adam, clipped": lambda: pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 1.0}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.9}),
    "SGD, each with its rate": lambda: pyro.optim.SGD(
        lambda name: {"lr": 0.001 * len(name) / 10, "momentum": 0.9}
    ),
    "ExponentialLR": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5}
    ),
    "MultiStepLR": lambda: pyro.optim.MultiStepLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.001}, "milestones": [1, 2], "gamma": 0.1}
    ),
    "FusedOptim": lambda: FusedOptim(torch.optim.Adam, {"lr": 0.01}, clip_norm=5.0),
    "FusedOptim, scheduled": lambda: FusedOptim(
        torch.optim.Adam, {"lr": 0.01}, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)
    ),
}


def step_scheduler(state):
    if hasattr(state.svi.optim, "step") and getattr(state.svi.optim, "scheduler", True) is not None:
        state.svi.optim.step()


def make(programs, optimizer="Adam", *, seed):
    """An SVI as a new process would build it."""
    pyro.clear_param_store()
    torch.manual_seed(seed)
    model, guide, elbo = PROGRAMS[programs]()
    return SVI(model, guide, OPTIMIZERS[optimizer](), elbo)


class Stopped(KeyboardInterrupt):
    """Stands for the end of a process."""


def stop_after(svi, steps):
    step, left = svi.step, iter(range(steps))

    def stopping(*args):
        if next(left, None) is None:
            raise Stopped
        return step(*args)

    svi.step = stopping
    return svi


def outcome(svi, data, *, callbacks=(), **arguments):
    """All that a training leaves behind: history, parameters, buffers and the random state."""
    buffers = {}

    def look(state):
        buffers.update({name: buffer.clone() for name, buffer in state.programs.buffers().items()})

    settings = {"epochs": EPOCHS, "batch_size": 3} | arguments
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The warm-up is not finished")
        history = fit(svi, data, progress=False, callbacks=[*callbacks, look], **settings)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history]
    values = [value.detach().clone() for value in pyro.get_param_store()._params.values()]
    return rows, history.stopped, values, buffers, torch.get_rng_state()


def assert_same(ours, theirs):
    assert ours[:2] == theirs[:2]
    assert len(ours[2]) == len(theirs[2])
    assert all(torch.equal(*pair) for pair in zip(ours[2], theirs[2], strict=True))
    assert ours[3].keys() == theirs[3].keys()
    assert all(torch.equal(buffer, theirs[3][name]) for name, buffer in ours[3].items())
    assert torch.equal(ours[4], theirs[4])


def check_resume(make_svi, data, path, *, stops, every_steps=1, **arguments):
    """Stops once or several times, each time after some more steps, and compares with no stop at all."""
    make_arguments = arguments.pop("make_arguments", dict)
    expected = outcome(make_svi(seed=7), data, **arguments, **make_arguments())
    for attempt, steps in enumerate(stops):
        # Values of a file must replace what another process has drawn
        svi = stop_after(make_svi(seed=7 + 100 * attempt), steps)
        with pytest.raises(Stopped):
            outcome(
                svi,
                data,
                checkpoint=Checkpoint(path, every_steps=every_steps),
                resume=True,
                **arguments,
                **make_arguments(),
            )
    resumed = outcome(
        make_svi(seed=999),
        data,
        checkpoint=Checkpoint(path, every_steps=every_steps),
        resume=True,
        **arguments,
        **make_arguments(),
    )
    assert_same(resumed, expected)


# -- exactness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("programs", PROGRAMS)
def test_every_kind_of_program(programs, data, path):
    check_resume(partial(make, programs), data, path, stops=(2, 5))


@pytest.mark.parametrize("programs", ["closed over", "late"])
def test_between_two_epochs(programs, data, path):
    check_resume(partial(make, programs), data, path, stops=(STEPS,))


# the first is that of the programs above
@pytest.mark.parametrize("optimizer", [each for each in OPTIMIZERS if each != "Adam"])
def test_every_kind_of_optimizer(optimizer, data, path):
    check_resume(
        partial(make, "closed over", optimizer), data, path, stops=(2, 4), callbacks=[step_scheduler]
    )


@pytest.mark.parametrize("optimizer", ["Adam", "FusedOptim"])
def test_nothing_of_the_optimizers_own_stays(optimizer, data, path):
    """Neither moments, nor those of other programs' parameters, nor what waits for one that there is not."""
    kept = {"checkpoint": Checkpoint(path, every_steps=1), "resume": True}
    expected = outcome(make("closed over", optimizer, seed=7), data)
    with pytest.raises(Stopped):
        outcome(stop_after(make("closed over", optimizer, seed=7), 6), data, **kept)
    svi = make("closed over", optimizer, seed=9)
    outcome(svi, 100 * data, epochs=1)
    own = svi.optim.get_state()
    elsewhere = pyro.param("elsewhere", torch.zeros(2)).unconstrained()
    elsewhere.grad = torch.ones(2)
    svi.optim([elsewhere])
    del pyro.get_param_store()["elsewhere"]
    svi.optim.set_state({"ghost": own["scale"]})
    svi.loss_and_grads.__self__.load_state_dict({"step": 0})
    assert_same(outcome(svi, data, **kept), expected)
    assert svi.optim.get_state().keys() == own.keys()


@pytest.mark.parametrize("optimizer", ["Adam", "FusedOptim"])
def test_parameters_that_a_module_keeps_to_itself(optimizer, data, path):
    """They are in no store, under no name."""
    modules = []

    def make_svi(*, seed):
        svi = make("local", optimizer, seed=seed)
        modules.append(svi.model)
        return svi

    with pyro.settings.context(module_local_params=True):
        check_resume(make_svi, data, path, stops=(3, 4))
    assert len(pyro.get_param_store()) == 0
    first, *_, last = (list(module.parameters()) for module in modules)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(last, first, strict=True))


def test_a_captured_step(data, path):
    """The first step of each shape is an ordinary one, whose terms may differ in the last digit."""

    def make_svi(seed):
        svi = make("closed over", "FusedOptim", seed=seed)
        return CapturedSVI(svi.model, svi.guide, svi.optim, svi.loss_and_grads.__self__)

    kept = {"checkpoint": Checkpoint(path, every_steps=1), "resume": True}
    expected = outcome(make_svi(7), data)
    with pytest.raises(Stopped):
        outcome(stop_after(make_svi(7), 6), data, **kept)
    resumed = outcome(make_svi(9), data, **kept)
    for ours, theirs in zip(resumed[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert_same(({}, None, *resumed[2:]), ({}, None, *expected[2:]))


def test_a_parameter_that_the_first_batch_of_the_data_does_not_state(path):
    """It is looked for in the others."""
    data = torch.randn(11, 3)
    data[:3] = -torch.ones(3)

    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        if bool((x > 0).any()):
            loc = loc * pyro.param("scale", lambda: 1 + torch.rand(3), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def make_svi(*, seed):
        pyro.clear_param_store()
        torch.manual_seed(seed)
        return SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())

    check_resume(make_svi, data, path, stops=(1, 4))


def test_what_waits_is_kept_meanwhile(data, path):
    """In steps that do not meet what the file knows."""
    check_resume(partial(make, "late"), data, path, stops=(5, 1))


def test_at_the_end_of_an_epoch(data, path):
    check_resume(partial(make, "closed over"), data, path, stops=(5, 6), every_steps=None)


@pytest.mark.parametrize("every_steps", [2, 5])
def test_steps_after_the_last_writing_are_done_again(every_steps, data, path):
    check_resume(partial(make, "closed over"), data, path, stops=(5, 4), every_steps=every_steps)


def test_with_a_seed(data, path):
    def make_svi(*, seed):
        svi = make("closed over", seed=seed)
        # what the caller draws from is not touched
        torch.manual_seed(0)
        return svi

    check_resume(make_svi, data, path, stops=(3,), seed=3)


def test_with_validation(data, path):
    check_resume(partial(make, "closed over"), data, path, stops=(5,), validation=data + 1)


@pytest.mark.parametrize("restore_best", [True, False])
def test_with_early_stopping(restore_best, data, path):
    def callbacks():
        # The best epoch lies before the stop
        stopping = EarlyStopping(2, min_delta=0.5, monitor="loss", restore_best=restore_best)
        return {"callbacks": [stopping, BestWeights("loss")]}

    check_resume(partial(make, "closed over"), data, path, stops=(6, 3), make_arguments=callbacks, epochs=6)


def test_a_callback_that_has_no_state_to_give_is_not_kept(data, path):
    class Reader:
        def __call__(self, state):
            pass

        def load_state_dict(self, state):
            raise AssertionError

    outcome(make("closed over", seed=0), data, epochs=1, checkpoint=path, callbacks=[Reader()])
    assert torch.load(path, weights_only=True)["callbacks"] == []


def test_a_refused_training_leaves_alone_what_another_one_is_writing(data, path):
    outcome(make("closed over", seed=0), data, epochs=1, checkpoint=path)
    writing = path.with_name(f".{path.name}.123.tmp")
    writing.touch()
    with pytest.raises(ValueError, match="pass resume=True"):
        outcome(make("closed over", seed=0), data, epochs=1, checkpoint=path)
    assert writing.exists()


def loader(x, **options):
    return DataLoader(TensorDataset(x), batch_size=3, **options)


class Noisy(torch.utils.data.Dataset):
    """Draws from the global stream, and from a generator of its own, for each item."""

    def __init__(self, x):
        self.x = x
        self.generator = torch.Generator().manual_seed(5)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.rand(3) + torch.rand(3, generator=self.generator)
        return self.x[index] + noise


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x[torch.randperm(len(self.x))])


def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    "load",
    [
        lambda x: (x,),
        lambda x: loader(x),
        lambda x: loader(x, shuffle=True),
        lambda x: loader(x, shuffle=True, generator=generator()),
        lambda x: loader(x, sampler=RandomSampler(x, replacement=True, generator=generator())),
        lambda x: DataLoader(Noisy(x), batch_size=3, shuffle=True),
        Noisy,
        Stream,
    ],
    ids=["tuple", "in order", "shuffled", "generator", "sampler", "noisy loader", "noisy", "stream"],
)
def test_every_kind_of_data(load, data, path):
    def run(svi, **arguments):
        # Loaders are as a new process builds them
        return outcome(svi, load(data), validation=load(data), **arguments)

    kept = {"checkpoint": Checkpoint(path, every_steps=1), "resume": True}
    expected = run(make("closed over", seed=7))
    for steps in (STEPS, 2):  # at the end of an epoch, and within the next
        with pytest.raises(Stopped):
            run(stop_after(make("closed over", seed=7), steps), **kept)
    assert_same(run(make("closed over", seed=99), **kept), expected)


def test_a_loss_that_is_not_finite_goes_back_to_the_same_epoch(data, path):
    """Also where the training was resumed in the middle of the next one; the file stays as it was."""
    outcome(make("closed over", seed=7), data, epochs=1)
    expected = [each.detach().clone() for each in pyro.get_param_store().values()]
    with pytest.raises(Stopped):
        outcome(stop_after(make("closed over", seed=7), 6), data, checkpoint=Checkpoint(path, every_steps=1))
    kept = path.read_bytes()
    svi = make("closed over", seed=8)
    svi.step = lambda *_: torch.nan
    with pytest.raises(NonFiniteLossError, match=r"step 7 \(epoch 2\).*end of epoch 1"):
        outcome(svi, data, checkpoint=Checkpoint(path, every_steps=1), resume=True)
    ours = [each.detach() for each in pyro.get_param_store().values()]
    assert all(torch.equal(mine, other) for mine, other in zip(ours, expected, strict=True))
    assert path.read_bytes() == kept


def test_parameters_that_are_not_finite_are_not_kept(data, path):
    """A finite loss may have a gradient that is not."""
    count = iter(range(100))

    def model(x):
        scale = pyro.param("scale", torch.ones(3))
        if next(count) == 2:
            pyro.factor("spoiler", -(scale - scale).sum().sqrt())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(scale, 1.0).to_event(1), obs=x)

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    with pytest.raises(NonFiniteLossError):
        fit(svi, data, epochs=1, batch_size=3, progress=False, checkpoint=Checkpoint(path, every_steps=1))
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 2
    assert bool(kept["programs"]["parameters"]["scale"].isfinite().all())


def test_a_refusal_leaves_buffers_and_random_streams_alone(data, path):
    """Although the programs had to run, to know what they keep."""
    outcome(make("PyroModule", seed=7), loader(data, shuffle=True, generator=generator()), checkpoint=path)
    svi, own = make("PyroModule", seed=8), generator()
    before = [buffer.clone() for buffer in svi.guide.buffers()]
    state, stood = torch.get_rng_state(), own.get_state()
    with pytest.raises(ValueError, match="Expected the callbacks"):
        outcome(
            svi,
            loader(data, shuffle=True, generator=own),
            checkpoint=path,
            resume=True,
            callbacks=[BestWeights("loss")],
        )
    assert len(before) == 6
    assert all(torch.equal(*pair) for pair in zip(svi.guide.buffers(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(own.get_state(), stood)
