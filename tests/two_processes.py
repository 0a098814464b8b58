"""What two processes compute together, to be compared with one: run as a script, imported for the reference.

``python two_processes.py FOLDER`` runs the example of two processes, which starts the other one, and
leaves in the folder what the example does and what each process then found.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
import torch._dynamo  # which the first optimiser of each process would import
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.diagnostics import decompose
from pyro_infomax.infer import (
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
    TraceMeanField_WeightedELBO,
)
from pyro_infomax.schedules import Linear
from pyro_infomax.training import EarlyStopping, fit

ROWS, BATCH = 35, 10  # the last batch has five, of which one process gets three
ADAM = {"lr": 0.05}
Report = dict[str, Any]


def rows(size: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(size, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(*sizes: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(*sizes)


# ---- programs without noise, whose training is the same to rounding


def regression() -> tuple[Any, Any, Any]:
    """A plate of the size of the data, a module and a parameter of the store."""
    network = layer(3, 1)

    def model(x: Tensor) -> None:
        pyro.module("network", network)
        bias = pyro.param("bias", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(network(x[:, :3]).squeeze(-1) + bias, 0.5), obs=x[:, 3])

    return model, lambda x: None, Trace_ELBO()


def subsampled() -> tuple[Any, Any, Any]:
    """A plate that says it is a subsample, and a factor outside of the data."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(4))
        pyro.factor("penalty", -10.0 * (loc**2).sum())
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return model, lambda x: None, Trace_BetaELBO(beta=2.0)


def global_latent() -> tuple[Any, Any, Any]:
    """A point estimate of a latent variable that all data share."""

    def model(x: Tensor) -> None:
        with pyro.plate("features", 4):
            loc = pyro.sample("loc", dist.Normal(0.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return model, AutoDelta(model), Trace_ELBO()


def enumerated() -> tuple[Any, Any, Any]:
    """A discrete latent variable, summed over in the guide, under a scheduled weight."""
    encoder, decoder = layer(4, 1), layer(1, 4, seed=1)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(decoder(z.unsqueeze(-1)), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            logits = encoder(x).squeeze(-1)
            pyro.sample("z", dist.Bernoulli(logits=logits), infer={"enumerate": "parallel"})

    return model, guide, TraceEnum_InfoMaxELBO(lam=Linear(0.0, 2.0, 8))


def closed_form() -> tuple[Any, Any, Any]:
    """A rate in closed form, whose scale is the guide's, beside a distortion that knows nothing of z."""
    encoder = layer(4, 4)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(4))
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide, TraceMeanField_BetaELBO(beta=3.0)


class ByDimension(TraceMeanField_WeightedELBO):
    """An objective of a user's, whose terms are the rates of the two latent dimensions."""

    def latent_cost(self, model_site: Any, guide_site: Any) -> dict[str, Tensor]:
        posterior, prior = (site["fn"].base_dist for site in (guide_site, model_site))
        rate = torch.distributions.kl_divergence(posterior, prior)
        return {"first": rate[:, 0], "second": rate[:, 1]}


def own_objective() -> tuple[Any, Any, Any]:
    """The same programs under weights for terms of one's own, one of them scheduled."""
    model, guide, _ = closed_form()
    return model, guide, ByDimension(weights={"first": Linear(0.0, 4.0, 12), "second": 0.5})


QUIET: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "regression": regression,
    "subsampled": subsampled,
    "global_latent": global_latent,
    "enumerated": enumerated,
    "closed_form": closed_form,
    "own_objective": own_objective,
}


def adam() -> Any:
    return pyro.optim.Adam(ADAM)


def fused() -> Any:
    return FusedOptim(torch.optim.Adam, ADAM, clip_norm=50.0)


STEPPERS: dict[str, Callable[[Any, Any, Any], SVI]] = {
    "svi": lambda model, guide, elbo: SVI(model, guide, adam(), elbo),
    "fused": lambda model, guide, elbo: SVI(model, guide, fused(), elbo),
    "captured": lambda model, guide, elbo: CapturedSVI(model, guide, fused(), elbo),
}
TRAINED = [(name, "svi") for name in QUIET]
TRAINED += [("regression", "fused"), ("subsampled", "captured"), ("closed_form", "captured")]
TRAINED += [("own_objective", "captured")]


def trained(programs: str, stepper: str, fabric: Any = None) -> Report:
    pyro.clear_param_store()
    model, guide, elbo = QUIET[programs]()
    svi = STEPPERS[stepper](model, guide, elbo)
    if fabric is None:
        # Several processes draw noise apart from the order of the data, which one process does not
        svi.step = isolated(svi.step)
    data = rows(ROWS, 4)
    with warnings.catch_warnings():
        # Closed forms with a latent site that nothing reads are as good as noise-free; schedules end later
        warnings.simplefilter("ignore", UserWarning)
        history = fit(
            svi,
            data,
            epochs=4,
            batch_size=BATCH,
            validation=rows(9, 4, seed=1),
            progress=False,
            fabric=fabric,
            seed=0,
        )
    columns = [name for name in history.columns if name != "seconds"]
    return {
        "parameters": parameters(),
        "seconds": history["seconds"].tolist(),
        "columns": columns,
        "history": history.to_frame().reset_index()[columns].to_numpy(),
        "captured": getattr(svi, "captured", None),
        "reason": getattr(svi, "reason", None),
        "step": getattr(elbo, "step", None),
    }


def isolated(step: Callable[..., float]) -> Callable[..., float]:
    def quietly(*args: Any) -> float:
        with torch.random.fork_rng(devices=[]):
            return step(*args)

    return quietly


def parameters() -> dict[str, Tensor]:
    store = pyro.get_param_store()
    return {name: store._params[name].detach().clone() for name in sorted(store._params)}


# ---- programs with noise


class Autoencoder(nn.Module):
    """z (batch, 2) and x (batch, 4), with a network whose batch norm keeps statistics."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
            self.decoder = nn.Linear(2, 4)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", lambda: torch.rand(4) + 0.5, constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    @property
    def statistics(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.named_buffers()}


def correlated(size: int = 240) -> Tensor:
    return rows(size, 2, seed=3) @ rows(2, 4, seed=4) + 0.3 * rows(size, 4, seed=5)


def autoencoded(fabric: Any = None, *, seed: int | None = 0, epochs: int = 10, **kwargs: Any) -> Report:
    pyro.clear_param_store()
    # What each process draws before the training must not matter
    torch.manual_seed(100 + (fabric.global_rank if fabric else 0))
    pair = Autoencoder(torch.initial_seed() if seed is None else 1)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_InfoMaxELBO(lam=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        history = fit(
            svi,
            correlated(),
            epochs=epochs,
            batch_size=40,
            validation=correlated(),
            progress=False,
            fabric=fabric,
            seed=seed,
            **kwargs,
        )
    return {
        "parameters": parameters(),
        "buffers": pair.statistics,
        "losses": history["validation_loss"],
        "stopped": history.stopped,
        "steps": history.steps,
    }


def resumed(fabric: Any, folder: Path) -> Report:
    path = folder / "training.pt"
    autoencoded(fabric, epochs=2, checkpoint=path)
    return autoencoded(fabric, epochs=5, checkpoint=path, resume=True)


def shared_noise(fabric: Any = None) -> Report:
    """A latent variable that all data share, of which each process makes draws of its own."""
    pyro.clear_param_store()

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 0.1))
        with pyro.plate("data", len(x), dim=-2), pyro.plate("features", 4, dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc, scale = pyro.param("loc", torch.zeros(())), pyro.param("log_scale", torch.full((), -2.0))
        pyro.sample("w", dist.Normal(loc, scale.exp()))

    elbo = Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=2)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05, "betas": (0.8, 0.9)}), elbo)
    fit(svi, 0.5 + rows(ROWS, 4), epochs=60, batch_size=None, progress=False, fabric=fabric, seed=0)
    return parameters()


# ---- what goes wrong in one process must end in all


class Rows(Dataset[Tensor]):
    """Data that nobody looks at beforehand."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        return self.data[index]


def gave_up(fabric: Any) -> Report:
    """Steps that one process cannot replay, because its program counts on its fingers."""
    pyro.clear_param_store()
    count = [0]

    def model(x: Tensor) -> None:
        count[0] += not fabric.is_global_zero
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(4)) + pyro.param("other", torch.ones(1)) + 0.01 * count[0]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = CapturedSVI(model, lambda x: None, fused(), Trace_ELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit(svi, rows(ROWS, 4), epochs=12, batch_size=None, progress=False, fabric=fabric, seed=0)
    return {"parameters": parameters(), "reason": svi.reason}


def with_nan() -> Rows:
    data = rows(ROWS, 4)
    data[7, 2] = torch.nan
    return Rows(data)


def attempts(fabric: Any) -> dict[str, Callable[[], Any]]:
    first = fabric.is_global_zero

    def fitted(model: Any, data: Any = None, elbo: Any = None, guide: Any = None, svi: Any = SVI) -> Any:
        pyro.clear_param_store()
        data = rows(ROWS, 4) if data is None else data
        made = svi(model, guide or (lambda x: None), adam(), elbo or Trace_ELBO())
        return fit(made, data, epochs=2, batch_size=BATCH, progress=False, fabric=fabric, seed=0)

    def plain(x: Tensor, *, loc: Tensor | float = 0.0) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc + pyro.param("loc", torch.zeros(4)), 1.0).to_event(1), obs=x)

    count = [0]

    def fails_in_one(x: Tensor, error: type[Exception]) -> None:
        count[0] += 1
        if count[0] > 6 and not first:
            raise error("out of luck")
        plain(x)

    def late_in_one(x: Tensor) -> None:
        count[0] += 1
        plain(x, loc=pyro.param("late", torch.zeros(())) if count[0] > 6 and not first else 0.0)

    def late_at_random(x: Tensor) -> None:
        count[0] += 1
        plain(x, loc=pyro.param("late", torch.rand(())) if count[0] > 6 else 0.0)

    def other_shape(x: Tensor) -> None:
        plain(x, loc=pyro.param("loc_of_one", torch.zeros(4 if first else 1)))

    def without_plate(x: Tensor) -> None:
        pyro.sample(
            "x", dist.Normal(pyro.param("loc", torch.zeros(4)), 1.0).expand(x.shape).to_event(2), obs=x
        )

    def global_bound(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        plain(x, loc=w)

    def of_global(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))

    def loader(size: int) -> DataLoader[Tensor]:
        return DataLoader(Rows(rows(size, 4, seed=fabric.global_rank)), batch_size=4)

    wrapped = fabric.setup_module(layer(4, 4))

    def with_wrapper(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(wrapped(x), 1.0).to_event(1), obs=x)

    class OwnStep(SVI):
        def step(self, *args: Any, **kwargs: Any) -> float:
            return super().step(*args, **kwargs)

    def reset(run: Callable[[], Any]) -> Callable[[], Any]:
        def started() -> Any:
            count[0] = 0
            return run()

        return started

    return {
        name: reset(run)
        for name, run in {
            "nan": lambda: fitted(plain, with_nan()),
            "value error": lambda: fitted(lambda x: fails_in_one(x, ValueError)),
            "key error": lambda: fitted(lambda x: fails_in_one(x, KeyError)),
            "captured": lambda: fitted(lambda x: fails_in_one(x, RuntimeError), svi=CapturedSVI),
            "late in one": lambda: fitted(late_in_one),
            "late at random": lambda: fitted(late_at_random),
            "other shape": lambda: fitted(other_shape),
            "without plate": lambda: fitted(without_plate),
            "bound": lambda: fitted(global_bound, guide=of_global, elbo=Renyi_InfoMaxELBO(num_particles=2)),
            "function": lambda: fitted(plain, elbo=lambda model, guide, x: x.sum()),
            "one loader longer": lambda: fitted(plain, loader(20 if first else 24)),
            "same loader": lambda: fitted(plain, DataLoader(Rows(rows(20, 4)), batch_size=4)),
            "wrapper": lambda: fitted(with_wrapper),
            "own step": lambda: fitted(plain, svi=OwnStep),
            "account of nan": lambda: (
                decompose(*Diagonal().programs, torch.full((3, 6), torch.nan), fabric=fabric)
                if first
                else decompose(*Diagonal().programs, binary(3, 0), fabric=fabric)
            ),
        }.items()
    }


def outcome(run: Callable[[], Any]) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            run()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def seen(fabric: Any) -> list[float]:
    """The data that a process sees in an epoch, where none has said what to draw from."""
    pyro.clear_param_store()
    torch.manual_seed(fabric.global_rank)
    epoch: list[list[float]] = []

    def model(x: Tensor) -> None:
        epoch.append(x.tolist())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    svi = SVI(model, lambda x: None, adam(), Trace_ELBO())
    fit(svi, torch.arange(ROWS) * 1.0, epochs=2, batch_size=BATCH, progress=False, fabric=fabric)
    return [row for batch in epoch[-4:] for row in batch]


def noise(fabric: Any) -> list[float]:
    """What the guide draws in the first steps, where every process sees the same data."""
    pyro.clear_param_store()
    drawn: list[float] = []

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            drawn.append(float(pyro.sample("z", dist.Normal(0.0, 1.0))[0].detach()))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

    fit(
        SVI(model, guide, adam(), Trace_ELBO()),
        torch.zeros(4),
        epochs=2,
        batch_size=None,
        progress=False,
        fabric=fabric,
        seed=0,
    )
    return drawn[-2:]


def prior_of_each(fabric: Any) -> dict[str, str]:
    """Why there is no one prior, where each process has a label of its own for all its data."""
    label = torch.full((20,), float(fabric.global_rank))
    return decompose(*Labelled().programs, (binary(20, 0), label), fabric=fabric).unavailable


def absent_in_one(fabric: Any) -> Report:
    """A parameter that only one process has a gradient for, in some steps."""
    pyro.clear_param_store()

    def model(x: Tensor) -> None:
        loc, shift = pyro.param("loc", torch.zeros(4)), pyro.param("shift", torch.zeros(4))
        moved = loc + shift if fabric.is_global_zero else loc
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(moved, 1.0).to_event(1), obs=x)

    svi = SVI(model, lambda x: None, adam(), Trace_ELBO())
    fit(svi, rows(ROWS, 4), epochs=2, batch_size=BATCH, progress=False, fabric=fabric, seed=0)
    return parameters()


def loaded(fabric: Any) -> Report:
    """Loaders that each process has its own part of, by Fabric's own sampler."""
    pyro.clear_param_store()
    model, guide, elbo = regression()
    loader = fabric.setup_dataloaders(DataLoader(Rows(rows(36, 4)), batch_size=6))
    fit(SVI(model, guide, adam(), elbo), loader, epochs=2, progress=False, fabric=fabric, seed=0)
    return parameters()


# ---- accounts


def binary(size: int, seed: int) -> Tensor:
    chances = torch.full((size, 6), 0.5, dtype=torch.float64)
    return torch.bernoulli(chances, generator=torch.Generator().manual_seed(seed))


class Diagonal:
    """Dimensions that are independent given x."""

    def __init__(self) -> None:
        self.encoder, self.decoder = layer(6, 6).double(), layer(3, 6, seed=1).double()

    @property
    def programs(self) -> tuple[Any, Any]:
        return self.model, self.guide

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(3 * loc, (scale / 3).exp()).to_event(1))


class Full(Diagonal):
    """A covariance of its own for each datum."""

    def guide(self, x: Tensor) -> None:
        root = torch.eye(3) * 0.5 + torch.ones(3, 3).tril(-1) * 0.2
        with pyro.plate("data", len(x)):
            loc = 3 * self.encoder(x)[:, :3]
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=root * (1 + x[:, :1, None])))


class Sites(Diagonal):
    """Two latent sites of two families, and two observed ones."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.LogNormal(0.0, 1.0))
            v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(torch.cat([u.unsqueeze(-1), v], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits[:, :4]).to_event(1), obs=x[:, :4])
            pyro.sample("y", dist.Bernoulli(logits=logits[:, 4:]).to_event(1), obs=x[:, 4:])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            out = self.encoder(x)
            pyro.sample("u", dist.LogNormal(out[:, 0], 0.4))
            pyro.sample("v", dist.Normal(out[:, 1:3], 0.6).to_event(1))


class Chain(Sites):
    """Sites that depend on each other, which the guide has to be run for."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(torch.cat([u.unsqueeze(-1), v], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            out = self.encoder(x)
            u = pyro.sample("u", dist.Normal(out[:, 0], 0.4))
            pyro.sample("v", dist.Normal(out[:, 1:3] + u.unsqueeze(-1), 0.6).to_event(1))


class Labelled(Diagonal):
    """A prior that depends on a label, which is the same for all the data of a process."""

    def model(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = label.unsqueeze(-1).expand(-1, 3)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor, label: Tensor) -> None:
        super().guide(x)


PAIRS: dict[str, type[Diagonal]] = {"diagonal": Diagonal, "full": Full, "sites": Sites, "chain": Chain}
WHOLE, HELD_OUT = binary(150, 0), binary(60, 1)
CUTS = {0: (slice(0, 97), slice(0, 11)), 1: (slice(97, 150), slice(11, 60))}


def account(name: str, fabric: Any = None) -> Any:
    data, holdout = (slice(None), slice(None)) if fabric is None else CUTS[fabric.global_rank]
    programs = PAIRS[name]().programs
    return decompose(*programs, WHOLE[data], holdout=HELD_OUT[holdout], num_samples=2, seed=3, fabric=fabric)


# ---- the two processes


def work(fabric: Any, folder: str) -> None:
    torch.set_num_threads(1)
    found: Report = {f"{each}": trained(*each, fabric) for each in TRAINED}
    found["autoencoder"] = autoencoded(fabric)
    found["unseeded"] = autoencoded(fabric, seed=None, epochs=2)
    found["gave up"] = gave_up(fabric)
    found["again"] = autoencoded(fabric, epochs=5)
    found["resumed"] = resumed(fabric, Path(folder))
    found["early"] = autoencoded(fabric, epochs=60, callbacks=[EarlyStopping(2, min_delta=1.0)])
    found["shared noise"] = shared_noise(fabric)
    found["absent"] = absent_in_one(fabric)
    found["seen"] = seen(fabric)
    found["noise"] = noise(fabric)
    found["prior of each"] = prior_of_each(fabric)
    found["loaded"] = loaded(fabric)
    found["outcomes"] = {name: outcome(run) for name, run in attempts(fabric).items()}
    found["accounts"] = {name: account(name, fabric) for name in PAIRS}
    torch.distributed.barrier()
    torch.save(found, Path(folder) / f"rank_{fabric.global_rank}.pt")


def main(folder: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import distributed

    # to start two processes once is enough: what the example has launched goes on with the rest
    launch, launched = distributed.launched, []
    distributed.launched = lambda args: launched.append(launch(args)) or launched[0]
    distributed.main(["--smoke", "--devices", "2", "--out", str(Path(folder) / "example")])
    torch.set_default_dtype(torch.float64)
    work(launched[0], folder)


if __name__ == "__main__":
    main(sys.argv[1])
