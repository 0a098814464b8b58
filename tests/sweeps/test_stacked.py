"""Points whose trainings run as one come out as they do alone; what cannot be stacked is refused by name."""

import random
import signal
import threading
import time

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from pyro_infomax.infer import BetaELBO, Trace_BetaELBO
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.schedules import Linear
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import BestWeights, CapturedSVI, FusedOptim, LearningRateSchedule, fit
from pyro_infomax.vae import VAE

X = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()
GRID = {"beta": [0.5, 4.0], "lr": [0.01, 0.003]}
BETAS = {"beta": [0.5, 4.0]}


def pair(hidden=5):
    encoder, decoder = MLPEncoder(6, hidden=(hidden,)), MLPDecoder(2, 6, hidden=(hidden,))
    return VAE(encoder, decoder, latent_dim=2)


def adam(lr=0.01, **options):
    return FusedOptim(torch.optim.Adam, {"lr": lr}, **options)


def training(beta, *, svi=SVI, vae=None, optim=None, objective=BetaELBO):
    vae = vae or pair()
    return svi(vae.model, vae.guide, optim or adam(), objective(beta=beta))


def differences(run, grid, *, seeds=2):
    """The largest relative difference of each variable between points together and alone."""
    alone = sweep(run, grid, seeds=seeds, progress=False)
    together = sweep(run, grid, seeds=seeds, progress=False, stacked=True)
    assert list(alone) == list(together)
    assert (alone["failure"] == together["failure"]).all()
    numbers = [name for name in alone if name != "failure" and not name.endswith("seconds")]
    assert all((together[name].isnull() == alone[name].isnull()).all() for name in numbers)
    return {
        name: float((abs(together[name] - alone[name]) / abs(alone[name]).max()).max()) for name in numbers
    }


def left_behind():
    """What the next lines of a function meet."""
    return {"torch": torch.rand(2), "numpy": np.random.rand(), "python": random.random()}  # noqa: NPY002


# ---- together as alone


def warmed_up(beta, lr, seed):
    vae = pair()
    svi = training(Linear(0.0, beta, 5), vae=vae, optim=adam(lr))
    history = fit(svi, X, epochs=2, batch_size=16, progress=False)
    # A further step knows moments, step count and schedule
    weights = dict(vae.decoder.named_parameters())
    return {"history": history, "next": svi.step(X), **left_behind(), **weights}


def clipped(beta, lr, seed):
    # Data of the seed's own, all at once, tensors that programs close over, and moments that change
    x, scale = X * torch.rand(6), torch.rand(6)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("networks", networks)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.1).to_event(1))

    encoder, decoder = nn.Linear(6, 2), nn.Linear(2, 6)
    networks = nn.ModuleList([encoder, decoder])
    optim = FusedOptim(torch.optim.SGD, {"lr": lr, "momentum": 0.9}, clip_norm=1.0)
    svi = SVI(model, guide, optim, Trace_BetaELBO(beta=beta))

    def turn_back(state):
        for group in optim.groups(state.programs.parameters.values()):
            group.optimizer.state[group.flat]["momentum_buffer"].mul_(-1.0)

    first = fit(svi, x, epochs=3, batch_size=None, callbacks=[turn_back], progress=False, seed=7)
    second = fit(svi, x, epochs=2, batch_size=None, progress=False)
    return {"history": first, "second_loss": second["loss"], "weight": decoder.weight, **left_behind()}


def discrete(beta, lr, seed):
    # What is drawn depends on what was drawn and computed before
    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            y = pyro.sample("y", dist.Gamma(1 + z, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z + y)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            scores = encoder(x + 0.1 * torch.randn(len(x), 1))
            z = pyro.sample("z", dist.Bernoulli(logits=scores).to_event(1))
            pyro.sample("y", dist.LogNormal(scores, 1 + z).to_event(1))

    encoder, decoder = nn.Linear(6, 2), nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.2))
    svi = SVI(model, guide, adam(lr), Trace_BetaELBO(beta=beta))
    return {"history": fit(svi, X, epochs=2, batch_size=20, progress=False), **left_behind()}


def stopped(beta, lr, seed):
    # Most end after the second epoch and train on, the others go on; a callback moves a parameter
    vae, optim = pair(), adam(lr, scheduler=lambda optim: torch.optim.lr_scheduler.ExponentialLR(optim, 0.5))
    svi = training(beta, vae=vae, optim=optim)
    best, seen = BestWeights("validation_loss"), []

    def look(state):
        seen.append(vae.decoder(torch.ones(2)).mean().detach() + torch.rand(()))
        with torch.no_grad():
            svi.guide.__self__.encoder.layers[0].bias.mul_(0.5)
        if max(beta, 1 / lr) > 100 and state.epoch == 2:
            state.stop("enough")

    first = fit(
        svi,
        X,
        epochs=5,
        batch_size=20,
        validation=X[:10],
        callbacks=[LearningRateSchedule(), best, look],
        progress=False,
    )
    second = fit(svi, X, epochs=1, batch_size=20, progress=False)
    return {"history": first, "best": best.epoch, "seen": torch.stack(seen), "second_loss": second["loss"]}


@pytest.mark.parametrize(
    ("run", "grid", "seeds"),
    [
        (warmed_up, GRID, 2),
        (clipped, BETAS | {"lr": [0.01]}, 2),
        (discrete, BETAS | {"lr": [0.01]}, 2),
        (stopped, GRID, 1),
    ],
)
def test_points_together_are_as_alone(run, grid, seeds):
    found = differences(run, grid, seeds=seeds)
    assert not any(found.get(name) for name in ("torch", "numpy", "python"))
    assert max(found.values()) < 1e-9


def test_single_precision():
    def run(beta, seed):
        svi = training(beta, svi=CapturedSVI)
        return fit(svi, X.float(), epochs=2, batch_size=20, progress=False)

    torch.set_default_dtype(torch.float32)
    assert max(differences(run, BETAS, seeds=1).values()) < 1e-4


def test_default_dtypes_of_functions():
    # Of what is drawn ahead, of what is drawn in its turn, and of what is made of integers
    def run(beta, seed):
        torch.set_default_dtype(torch.float64)
        return of_model(drawing)(beta, seed)

    def drawing(x, loc, _):
        ahead = torch.randn(6)
        scale = 1 + torch.bernoulli(loc.sigmoid()) / torch.arange(1, 7)
        normal(x, loc + ahead + torch.randn(6), scale)

    torch.set_default_dtype(torch.float32)
    found = differences(run, BETAS, seeds=1)
    assert max(found.values()) < 1e-9


def test_a_point_that_diverges_ends_alone():
    def run(beta, seed):
        # Its loss overflows in step 8, among others that are taken in one go
        optim = FusedOptim(torch.optim.SGD, {"lr": 2e21 if beta == 4.0 else 0.01})
        svi = SVI(model, lambda x: None, optim, Trace_ELBO())
        try:
            fit(svi, X[:, 0], epochs=3, batch_size=8, progress=False)
        except RuntimeError as error:
            return {"step": error.step, "loc": pyro.param("loc"), **left_behind()}
        return {"step": 0, "loc": pyro.param("loc"), **left_behind()}

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            noise = pyro.sample("noise", dist.Normal(0.0, 1.0).mask(False), infer={"is_auxiliary": True})
            pyro.sample("x", dist.Normal(loc + 0 * noise, 1.0), obs=x)

    with pyro.validation_enabled(False):
        assert max(differences(run, BETAS, seeds=1).values()) < 1e-9


def test_a_single_step_may_spoil_the_parameters():
    def run(beta, seed):
        optim = FusedOptim(torch.optim.SGD, {"lr": torch.inf if beta == 4.0 else 0.01})
        return fit(training(beta, optim=optim), X, epochs=1, batch_size=None, progress=False)

    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        alone = sweep(run, BETAS, progress=False)["failure"]
    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        together = sweep(run, BETAS, progress=False, stacked=True)["failure"]
    assert "The parameters are not finite after step 1" in together.item(1)
    assert (together == alone).all()


@pytest.mark.parametrize("row", [0, 3])  # met by a stacked step, and by the first
def test_data_that_are_not_finite_fail_as_alone(row):
    def run(beta, seed):
        x = X.clone()
        x[row, 0] = torch.inf if beta == 4.0 else 1.0
        return fit(training(beta), x, epochs=1, batch_size=8, progress=False)

    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        alone = sweep(run, BETAS, progress=False)["failure"].item(1)
    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        together = sweep(run, BETAS, progress=False, stacked=True)["failure"].item(1)
    assert "step" in together
    assert together.partition(" at ")[2] == alone.partition(" at ")[2]


def test_points_that_fail_before_their_training(tmp_path):
    def run(beta, seed):
        if beta == 4.0:
            raise ArithmeticError("too much")
        return fit(training(beta), X, epochs=1, progress=False)

    with pytest.warns(UserWarning, match="1 of 2 points failed"):
        ds = sweep(run, BETAS, store=tmp_path, progress=False, stacked=True)
    assert ds["failure"].sel(beta=4.0, seed=0).item() == "ArithmeticError: too much"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npz"]


def test_nothing_is_left_behind():
    threads, before = threading.active_count(), torch.get_rng_state()
    pyro.param("mine", torch.ones(1))
    sweep(
        lambda beta, seed: fit(training(beta), X, epochs=1, progress=False),
        BETAS,
        stacked=True,
        progress=False,
    )
    with pytest.raises(NotImplementedError):
        sweep(RUNS["epochs"][0], BETAS, stacked=True, progress=False)
    assert threading.active_count() == threads
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pyro.get_param_store()) == ["mine"]


# ---- what is refused


def fitting(**options):
    return lambda beta, seed: fit(training(beta), X, epochs=2, progress=False, **options)


def made_by(make, data=X, **options):
    return lambda beta, seed: fit(make(beta), data, epochs=2, batch_size=8, progress=False, **options)


def reducing(*args):
    svi = CapturedSVI(*args)
    svi.reduce_gradients = print
    return svi


def of_model(observe, **options):
    """A training of a model that observes as it is told."""

    def make(beta):
        def model(x):
            loc = pyro.param("loc", torch.zeros(6))
            with pyro.plate("data", len(x)):
                observe(x, loc, beta)

        return SVI(model, lambda x: None, adam(), Trace_ELBO())

    return made_by(make, **options)


def normal(x, loc, scale):
    pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


NETWORKS = pair()
SCALES = [1.0]
BATCH_NORM = nn.BatchNorm1d(6, affine=False, dtype=torch.float64)

RUNS = {
    "a checkpoint": (fitting(checkpoint="training.ckpt"), "its fit has a checkpoint"),
    "epochs": (
        lambda beta, seed: fit(training(beta), X, epochs=int(2 * beta), progress=False),
        "at beta=4.0, seed=0 its fit has 8 epochs .* in place of 1 epochs of batches, 1 of 40 data",
    ),
    "a loader": (made_by(training, DataLoader(X, batch_size=8)), "its data are no tensors"),
    "a slow optimiser": (
        made_by(lambda beta: training(beta, optim=pyro.optim.Adam({"lr": 0.01}))),
        "its optimiser is a PyroOptim; take FusedOptim",
    ),
    "another optimiser": (
        made_by(
            lambda beta: training(beta, optim=FusedOptim(torch.optim.SGD, {"lr": 1.0}) if beta > 1 else None)
        ),
        "beta=4.0, seed=0 has another optimiser than beta=0.5, seed=0",
    ),
    "a function as loss": (
        made_by(lambda beta: SVI(*2 * (lambda x: None,), adam(), lambda *_: torch.zeros(()))),
        "its loss is a plain function",
    ),
    "a hidden number": (
        of_model(lambda x, loc, beta: normal(x, loc, beta)),
        r"beta=4.0, seed=0 does not take the steps of beta=0.5, .*it has .*4.0.* in place of .*0.5",
    ),
    "another size": (
        made_by(lambda beta: training(beta, vae=pair(int(4 + beta)))),
        "does not take the steps",
    ),
    "one network": (made_by(lambda beta: training(beta, vae=NETWORKS)), "points train the same parameters"),
    "averages": (
        of_model(lambda x, loc, beta: normal(BATCH_NORM(x), loc, 1.0)),
        "it writes to tensors that it keeps, such as the averages of batch norm",
    ),
    "a read": (
        of_model(lambda x, loc, beta: normal(x, loc, float(loc[0].exp()))),
        "the programs read the value",
    ),
    "a number that changes": (
        of_model(
            lambda x, loc, beta: normal(x, loc, SCALES[0]),
            callbacks=[lambda state: SCALES.__setitem__(0, 1.0 + (len(state.history) == 1))],
        ),
        r"at beta=0.5, seed=0 its step 6 is not the one that SVI takes: the loss is .* in place of",
    ),
    "a gradient hook": (
        made_by(lambda beta: training(beta, svi=reducing)),
        "its gradients go through a function of the user's own",
    ),
    "a handler": (
        lambda beta, seed: pyro.poutine.scale(fitting(), scale=2.0)(beta, seed),
        "its fit is called within ScaleMessenger",
    ),
}


SCALE = torch.ones(())


def by_a_global(beta, seed):
    SCALE.fill_(beta)
    return of_model(lambda x, loc, _: normal(x, loc, SCALE))(beta, seed)


def by_a_patch(beta, seed):
    SCALE.mul_(2.0 if beta == 0.5 else 1.0)
    try:
        return of_model(lambda x, loc, _: normal(x, loc, SCALE))(beta, seed)
    finally:
        SCALE.div_(2.0 if beta == 0.5 else 1.0)


def by_a_mode(beta, seed):
    with FlexiblyScaled():
        return of_model(lambda x, loc, _: normal(x, loc, torch.ones(6).exp()))(beta, seed)


class FlexiblyScaled(TorchFunctionMode):
    """Halves exponentials, in the thread that enters it alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        return found / 2 if function is torch.Tensor.exp else found


def by_a_dtype(beta, seed):
    torch.set_default_dtype(torch.float64 if beta == 4.0 else torch.float32)
    return fitting()(beta, seed)


def autocasting(beta, seed):
    with torch.autocast("cpu"):
        return fitting()(beta, seed)


RUNS |= {
    "a global tensor": (
        by_a_global,
        "at beta=0.5, seed=0 its loss is .* when all have come to fit, .* global tensors",
    ),
    "a patch": (by_a_patch, "at beta=4.0, seed=0 its loss is .* when others have left fit, in place of"),
    "a mode of a thread": (by_a_mode, "at beta=0.5, seed=0 its loss is .* when all have come to fit"),
    "another dtype": (
        by_a_dtype,
        "at beta=4.0, seed=0 the defaults are torch.float64 on cpu in place of torch.float32 on cpu",
    ),
    "autocast": (autocasting, "at beta=0.5, seed=0 its fit is called within torch.autocast"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_cannot_be_stacked_is_refused(name):
    run, reason = RUNS[name]
    with pytest.raises(
        NotImplementedError, match=rf"can run as one, .* but .*{reason}.*: leave stacked=True"
    ):
        sweep(run, BETAS, progress=False, stacked=True)


def test_a_refusal_after_others_have_left():
    def run(beta, seed):
        def leave(state):
            read.append(beta)
            if beta != 4.0:
                state.stop("enough")

        read = []  # from the second epoch on
        observe = of_model(
            lambda x, loc, _: normal(x, loc, float(loc[0].exp()) if read else 1.0), callbacks=[leave]
        )
        return observe(beta, seed)

    with pytest.raises(NotImplementedError, match=r"can run as one, .* but the programs read the value"):
        sweep(run, {"beta": [0.5, 1.0, 4.0]}, progress=False, stacked=True)


def test_points_may_not_train():
    def run(beta, seed):
        return {"one": 1.0} if beta == 4.0 else fit(training(beta), X, epochs=1, progress=False)

    assert sweep(run, BETAS, progress=False, stacked=True)["one"].sel(beta=4.0).item() == 1.0
    with pytest.warns(UserWarning, match="No point has called fit"):
        ds = sweep(lambda beta, seed: {"beta_is": beta}, BETAS, progress=False, stacked=True)
    assert ds["beta_is"].values.tolist() == [[0.5], [4.0]]


# ---- sweeps within sweeps


def one_step(beta, seed, **options):
    return fit(training(beta), X, epochs=1, batch_size=None, progress=False, **options)


def within(beta, seed):
    sweep(one_step, {"beta": [beta]}, progress=False, stacked=True)


def test_a_stacked_sweep_within_another_is_refused():
    for stacked in (False, True):
        with pytest.warns(UserWarning, match="NotImplementedError: .* within a sweep, a training"):
            sweep(within, {"beta": [1.0]}, progress=False, stacked=stacked)
    with pytest.raises(NotImplementedError, match="within a sweep, a training or a block"):
        one_step(1.0, 0, callbacks=[lambda state: within(1.0, 0)])


def test_a_sweep_within_a_stacked_one_trains_by_itself():
    def run(beta, seed):
        history = one_step(beta, seed)
        inner = sweep(one_step, {"beta": [3.0, beta]}, progress=False)
        return {"own": history["loss"], "inner": inner["loss"].isel(beta=1).values.ravel()}

    ds = sweep(run, BETAS, progress=False, stacked=True)
    assert torch.allclose(*(torch.tensor(ds[name].values.ravel()) for name in ("own", "inner")), rtol=1e-12)


# ---- ends


def test_functions_that_catch_everything_end():
    def run(beta, seed):
        for _ in range(3):
            try:
                one_step(beta, seed)
                if beta == 4.0:
                    one_step(beta, seed, checkpoint="training.ckpt")
            except:  # noqa: E722
                pass
        return {"never": 1}

    threads = threading.active_count()
    with pytest.raises(NotImplementedError, match="its fit has a checkpoint"):
        sweep(run, BETAS, stacked=True, progress=False)
    assert threading.active_count() == threads


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_process_ends_a_sweep(error, tmp_path):
    def run(beta, seed):
        if beta == 4.0:
            raise error
        return {"one": 1}

    with pytest.raises(error):
        sweep(run, BETAS, stacked=True, store=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.npz"))) == 1


@pytest.fixture
def interruptible():
    """Has an interrupt raise, also in a process that was started to ignore it, as in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_keeps_what_has_ended(tmp_path, interruptible):
    def run(beta, seed):
        if beta == 0.5:
            return one_step(beta, seed)
        # handled by this thread, it does not wake the main one, as if it had come just before that one waits
        signal.raise_signal(signal.SIGINT)
        if beta == 4.0:
            time.sleep(0.1)
            return {"one": 1}
        waited.append(goes_on.wait(20))
        return None

    goes_on, threads = threading.Event(), threading.active_count()
    waited = []
    with pytest.raises(KeyboardInterrupt):
        sweep(run, BETAS, stacked=True, store=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match=r"2 points have not ended, the first at beta=0.5, seed=0"),
    ):
        sweep(run, {"beta": [0.5, 1.0]}, stacked=True, progress=False)
    assert not waited  # raised while the function still ran
    goes_on.set()
    while threading.active_count() > threads:
        time.sleep(0.01)
    one_step(1.0, 0)


def test_processes_are_refused():
    with pytest.raises(ValueError, match=r"Expected n_jobs=1 with stacked=True, .* but got 2"):
        sweep(lambda beta, seed: {}, BETAS, progress=False, stacked=True, n_jobs=2)
