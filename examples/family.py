"""The family: one model, one guide, one data set, and every objective that goes with them.

Each objective trains the same VAE with the same number of steps, from the same seeds. The account afterwards
says what each has bought: distortion and rate, and of the rate the information and what the aggregate
posterior differs from the prior by; and the log-evidence of data that were held out. Digits are real images
under Gaussian noise of a fixed variance; with --data linear both networks are linear and the data Gaussian,
so that rate and distortion of the ELBO lie on Shannon's curve.

    python examples/family.py --jobs 2 --out runs/family
    python examples/family.py --data linear --out runs/family_linear
    python examples/family.py --only elbo harmony wae

A run that was stopped, or asked for more objectives or seeds, goes on with what is missing. Not here are
ReverseKL, which trains no model (wake-sleep does both); VIMCO, which on reparameterised latents is IWAE;
GroupedELBO, which takes several latent sites; and the IM algorithm, which trains the input of a channel.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter
from pyro.infer import SVI
from pyro.optim.clipped_adam import ClippedAdam
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from pyro_infomax import infer
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.datasets import load_digits
from pyro_infomax.diagnostics import decompose, evidence
from pyro_infomax.nn import Gaussian, MLPCritic, MLPDecoder, MLPEncoder
from pyro_infomax.oracles import LinearGaussian, gaussian_rate_distortion
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE

DRAWS: Final = 4  # of z for each datum of the account
GAP: Final = 0.034  # between the names beside a plane, as a share of its height
LEAST: Final = 0.01  # nats, on a logarithmic axis
QUANTITIES: Final = {
    "distortion": "D",
    "rate": "R",
    "mutual_information": "I",
    "marginal_kl": "KL(q(z)|p)",
    "total_correlation": "TC",
    "evidence": "held-out ln p(x)",
}
NOTE: Final = """Means over the seeds, ± their standard deviation, in nats per datum. I of N data is at most
ln N. The held-out evidence is a lower bound, loose where the posterior is much narrower than it should be."""
COLOURS: Final = {
    "weights": "#0173b2",
    "several draws": "#029e73",
    "targets": "#de8f05",
    "parts of the rate": "#cc78bc",
    "samples and moments": "#ca9161",
    "other directions": "#d55e00",
    "critics": "0.35",
}


# ---- the data


@dataclass(frozen=True)
class Problem:
    """Data to train on and data that are held out, under Gaussian noise of a fixed variance.

    Args:
        x, holdout: (datum, dim).
        s2: the variance of the noise.
        latent_dim: of the VAE.
        hidden: units of both networks' hidden layer; none makes them linear.
        rate, distortion: targets, in nats per datum, of the objectives that hold one.
        learning_rate: at the beginning.
    """

    x: Tensor
    holdout: Tensor
    s2: float
    latent_dim: int
    hidden: tuple[int, ...]
    rate: float
    distortion: float
    learning_rate: float

    @property
    def size(self) -> int:
        return len(self.x)

    @property
    def curve(self) -> tuple[Tensor, Tensor]:
        """Rate and distortion of the best code of a Gaussian with the data's covariance."""
        centred = (self.x - self.x.mean(0)).double()
        spectrum = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).clamp(min=0)
        errors = torch.logspace(-1.2, 0, 100, dtype=torch.float64) * spectrum.sum()
        points = gaussian_rate_distortion(spectrum, distortion=errors)
        least = len(spectrum) / 2 * math.log(2 * math.pi * self.s2)
        return points.rate, least + points.distortion / (2 * self.s2)


def digits() -> Problem:
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x = load_digits().images.flatten(1)[order]
    train, holdout = x[:1500], x[1500:]
    return Problem(train, holdout, 0.1, 8, (128,), rate=3.0, distortion=-3.0, learning_rate=3e-3)


def linear() -> Problem:
    pair = LinearGaussian.optimum([4.0, 2.0, 1.0, 0.5, 0.25], beta=1.0, latent_dim=4, s2=0.5)
    x = pair.sample(1000, exact=True, seed=0).to(torch.get_default_dtype())
    holdout = pair.sample(300, seed=1).to(torch.get_default_dtype())
    return Problem(x, holdout, 0.5, 4, (), rate=1.0, distortion=6.0, learning_rate=0.02)


DATA: Final = {"digits": digits, "linear": linear}


# ---- the objectives


@dataclass(frozen=True)
class Objective:
    """One of the family.

    Args:
        kind: which part of it.
        make: builds it for a problem.
        records: whether its steps can be recorded; those of a critic cannot.
        has_decoder: whether it trains the decoder.
    """

    kind: str
    make: Callable[[Problem], object]
    records: bool = True
    has_decoder: bool = True


CRITIC: Final = partial(torch.optim.Adam, lr=3e-3)
SEVERAL: Final = {"num_particles": 8, "vectorize_particles": True, "max_plate_nesting": 1}


def of_latents(problem: Problem) -> MLPCritic:
    return MLPCritic(problem.latent_dim, hidden=(128, 128))


def of_both(problem: Problem) -> MLPCritic:
    return MLPCritic(problem.x.shape[1], problem.latent_dim, hidden=(128, 128))


FAMILY: Final = {
    "elbo": Objective("weights", lambda _: infer.BetaELBO(beta=1.0)),
    "beta = 3": Objective("weights", lambda _: infer.BetaELBO(beta=3.0)),
    "infomax, lam = 1": Objective("weights", lambda _: infer.InfoMaxELBO(lam=1.0)),
    "iwae": Objective("several draws", lambda _: infer.IWAE_InfoMaxELBO(**SEVERAL)),
    "dreg": Objective("several draws", lambda _: infer.DReG_InfoMaxELBO(**SEVERAL)),
    "renyi, alpha = 1/2": Objective(
        "several draws", lambda _: infer.Renyi_InfoMaxELBO(lam=0.0, alpha=0.5, **SEVERAL)
    ),
    "stl": Objective("several draws", lambda _: infer.STL_InfoMaxELBO(max_plate_nesting=1)),
    "tvo": Objective("several draws", lambda _: infer.TVO_InfoMaxELBO(**SEVERAL)),
    "target rate": Objective("targets", lambda p: infer.ConstrainedELBO(rate=p.rate, dual_lr=0.03)),
    "target distortion": Objective(
        "targets", lambda p: infer.ConstrainedELBO(distortion=p.distortion, dual_lr=0.03)
    ),
    "target information": Objective(
        "targets",
        lambda p: infer.ConstrainedELBO(mutual_information=p.rate, dual_lr=0.03, data_size=p.size),
    ),
    "capacity": Objective("targets", lambda p: infer.CapacityELBO(p.rate, gamma=5.0)),
    "free bits": Objective("targets", lambda _: infer.FreeBitsELBO(0.5)),
    "beta-tcvae": Objective("parts of the rate", lambda p: infer.beta_tcvae(6.0, data_size=p.size)),
    "infovae": Objective("parts of the rate", lambda p: infer.infovae(1.0, 10.0, data_size=p.size)),
    "information x 3": Objective(
        "parts of the rate", lambda p: infer.DecomposedELBO(mutual_information=3.0, data_size=p.size)
    ),
    "direct infomax": Objective(
        "parts of the rate", lambda p: infer.DirectInfoMax(1.0, data_size=p.size), has_decoder=False
    ),
    "mmd": Objective("samples and moments", lambda p: infer.MMDELBO(data_size=p.size)),
    "wae": Objective("samples and moments", lambda p: infer.wae(100.0, data_size=p.size)),
    "sliced wasserstein": Objective("samples and moments", lambda _: infer.SlicedWassersteinELBO()),
    "dip-vae-ii": Objective("samples and moments", lambda p: infer.DIPELBO(data_size=p.size)),
    "dip-vae-i": Objective(
        "samples and moments", lambda p: infer.DIPELBO(covariance="means", data_size=p.size)
    ),
    "wake-sleep": Objective("other directions", lambda _: infer.WakeSleepELBO(max_plate_nesting=1)),
    "rws": Objective("other directions", lambda _: infer.RWS_InfoMaxELBO(**SEVERAL)),
    "harmony": Objective("other directions", lambda _: infer.HarmonyELBO()),
    "factor-vae": Objective(
        "critics", lambda p: infer.FactorVAE(of_latents(p), 5.0, critic_optim=CRITIC), records=False
    ),
    # The rate is whatever the critic sees of it, so that it is worth more steps
    "avb": Objective(
        "critics", lambda p: infer.AVB(of_both(p), critic_steps=3, critic_optim=CRITIC), records=False
    ),
    "symmetric": Objective(
        "critics", lambda p: infer.SymmetricELBO(of_both(p), 0.1, critic_optim=CRITIC), records=False
    ),
    "adversarial": Objective(
        "critics",
        lambda p: infer.AdversarialELBO(of_both(p), critic_optim=CRITIC, gradient_penalty=10.0),
        records=False,
    ),
}
SMOKE: Final = (
    "elbo",
    "dreg",
    "target rate",
    "infovae",
    "direct infomax",
    "mmd",
    "wake-sleep",
    "adversarial",
)


# ---- a training and its account


@dataclass(frozen=True)
class Training:
    """Trains the VAE of a problem by one of the family, and accounts for it.

    Args:
        data: the name of the problem.
        steps: of the training, by minibatches of 128.
        draws: for each datum that is held out.
        rows: how many data to take; None for all.
    """

    data: str
    steps: int
    draws: int
    rows: int | None = None

    def __call__(self, objective: str, seed: int) -> dict[str, object]:
        member, problem = FAMILY[objective], self.problem
        dim, latents, hidden = problem.x.shape[1], problem.latent_dim, problem.hidden
        encoder, decoder = MLPEncoder(dim, hidden=hidden), MLPDecoder(latents, dim, hidden=hidden)
        likelihood = Gaussian(scale=math.sqrt(problem.s2))
        vae = VAE(encoder, decoder, latent_dim=latents, likelihood=likelihood)
        epochs = -(-self.steps // -(-problem.size // 128))
        options = {"lr": problem.learning_rate, "lrd": 0.05 ** (1 / self.steps), "clip_norm": math.inf}
        kind = CapturedSVI if member.records else SVI
        svi = kind(vae.model, vae.guide, FusedOptim(ClippedAdam, options), member.make(problem))
        history = fit(svi, problem.x, epochs=epochs, progress=False, seed=seed)
        account = decompose(vae.model, vae.guide, problem.x, num_samples=DRAWS, seed=seed)
        found: dict[str, object] = {name: getattr(account, name) for name in QUANTITIES if name != "evidence"}
        if member.has_decoder:
            held_out = evidence(
                vae.model, vae.guide, problem.holdout, num_samples=self.draws, seed=seed, progress=False
            )
            found["evidence"] = held_out.lower
            found["heavy"] = len(held_out.unreliable) / len(problem.holdout)
        else:  # what the decoder was before training says nothing of the objective
            del found["distortion"]
        multiplier = history.to_frame().get("multiplier")
        return found | {"multiplier": math.nan if multiplier is None else float(multiplier.iloc[-1])}

    @property
    def problem(self) -> Problem:
        whole = DATA[self.data]()
        return replace(whole, x=whole.x[: self.rows], holdout=whole.holdout[: self.rows])

    @property
    def name(self) -> str:
        """What tells the stored points of this training from those of another."""
        return f"{self.data}_{self.steps}steps_{self.draws}draws_{self.rows or 'all'}rows"


# ---- table and pictures


def summary(ds: xr.Dataset) -> pd.DataFrame:
    """A row an objective: mean and standard deviation over the seeds of each quantity."""
    names = [*QUANTITIES, "multiplier", "heavy"]
    alone = ds.sizes["seed"] == 1
    columns = {}
    for name in names:
        columns[name] = ds[name].mean("seed").to_series()
        columns[f"{name}_spread"] = columns[name] * math.nan if alone else ds[name].std("seed", ddof=1)
    table = pd.DataFrame({name: np.asarray(each) for name, each in columns.items()})
    table.insert(0, "objective", ds["objective"].values)
    table.insert(1, "kind", [FAMILY[name].kind for name in table["objective"]])
    return table


def in_words(table: pd.DataFrame) -> str:
    shown = {"objective": table["objective"]}
    for name, title in QUANTITIES.items():
        pairs = zip(table[name], table[f"{name}_spread"], strict=True)
        shown[title] = ["" if np.isnan(mean) else f"{mean:.2f} ± {spread:.2f}" for mean, spread in pairs]
    return pd.DataFrame(shown).to_string(index=False)


def draw_rate_distortion(table: pd.DataFrame, problem: Problem, path: Path) -> None:
    _, ax = plt.subplots(figsize=(11, 8), layout="constrained")
    # Some rates are far beyond the others
    ax.set_xscale("log")
    known = table.dropna(subset=["distortion"]).assign(rate=lambda t: t["rate"].clip(lower=LEAST))
    plane(known, "rate", "distortion", ax)
    limits = ax.axis()
    name = "Shannon's curve" if not problem.hidden else "Gaussian of the same covariance"
    ax.plot(*problem.curve, color="0.6", linewidth=1.2, label=name, zorder=1)
    ax.axis(limits)
    logarithmic(ax.xaxis)
    legend(ax)
    ax.set(xlabel="rate (nats per datum)", ylabel="distortion (nats per datum)")
    save(ax, path)


def draw_information(table: pd.DataFrame, problem: Problem, path: Path) -> None:
    _, ax = plt.subplots(figsize=(11, 8), layout="constrained")
    ax.set_yscale("log")
    ax.axvline(math.log(problem.size), color="0.6", linestyle=":", label=r"$\ln N$", zorder=1)
    plane(
        table.assign(marginal_kl=table["marginal_kl"].clip(lower=LEAST)),
        "mutual_information",
        "marginal_kl",
        ax,
    )
    logarithmic(ax.yaxis)
    legend(ax)
    ax.set(xlabel="mutual information (nats per datum)", ylabel="marginal KL (nats per datum)")
    save(ax, path)


def plane(table: pd.DataFrame, across: str, up: str, ax: Axes) -> None:
    """A point an objective, with its spread over the seeds, and its name beside the frame."""
    for kind, rows in table.groupby("kind", sort=False):
        ax.errorbar(
            rows[across],
            rows[up],
            xerr=rows[f"{across}_spread"],
            yerr=rows[f"{up}_spread"],
            fmt="o",
            markersize=6,
            elinewidth=1,
            color=COLOURS[str(kind)],
            label=str(kind),
            zorder=3,
        )
    name_points(table, across, up, ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)


def legend(ax: Axes) -> None:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=5, frameon=False, fontsize=9)


def name_points(table: pd.DataFrame, across: str, up: str, ax: Axes) -> None:
    """The names in a column beside the frame, each as near to the height of its point as others allow."""
    rows = table.sort_values(up)
    ax.autoscale_view()  # the limits of the points, which matplotlib finds when it draws
    at = ax.transAxes.inverted().transform(ax.transData.transform(rows[[across, up]].to_numpy()))[:, 1]
    apart = min(GAP, 1 / max(1, len(rows) - 1)) * np.arange(len(rows))
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0 - apart[-1]).fit_transform(apart, at - apart)
    for height, (_, row) in zip(fitted + apart, rows.iterrows(), strict=True):
        colour = COLOURS[row["kind"]]
        ax.annotate(
            row["objective"],
            (row[across], row[up]),
            xytext=(1.06, height),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=9,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
            },
            annotation_clip=False,
        )


def logarithmic(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.set_minor_formatter(NullFormatter())


def save(ax: Axes, path: Path) -> None:
    figure = ax.get_figure()
    figure.savefig(path, dpi=130)
    plt.close(figure)


# ---- the command


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=DATA, default="digits", help="what to train on")
    parser.add_argument("--only", choices=FAMILY, nargs="+", metavar="NAME", help=", ".join(FAMILY))
    parser.add_argument("--seeds", type=int, help="how many; default 5")
    parser.add_argument("--steps", type=int, help="of each training; default 1000")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, -1 for a processor each")
    parser.add_argument("--out", type=Path, default=Path("runs/family"), help="folder of table and pictures")
    parser.add_argument("--smoke", action="store_true", help="a few objectives, data and steps")
    args = parser.parse_args(argv)
    args.seeds = (1 if args.smoke else 5) if args.seeds is None else args.seeds
    args.steps = (2 if args.smoke else 1000) if args.steps is None else args.steps
    for name in ("seeds", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"Expected --{name} >= 1 but got {getattr(args, name)}.")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    run = Training(args.data, args.steps, draws=20 if args.smoke else 200, rows=60 if args.smoke else None)
    points = args.out / "points" / run.name
    names = list(dict.fromkeys(args.only or (SMOKE if args.smoke else FAMILY)))
    ds = sweep(run, {"objective": names}, seeds=args.seeds, n_jobs=args.jobs, store=points)
    ds.to_netcdf(args.out / "family.nc", engine="h5netcdf")
    table, problem = summary(ds), run.problem
    table.to_csv(args.out / "family.csv", index=False)
    draw_rate_distortion(table, problem, args.out / "rate_distortion.png")
    draw_information(table, problem, args.out / "information.png")
    print(f"{in_words(table)}\n\n{NOTE}\nln N = {math.log(problem.size):.2f}")
    print(f"\nThe points, the table, the Dataset and the pictures are in {args.out}")


if __name__ == "__main__":
    main()
