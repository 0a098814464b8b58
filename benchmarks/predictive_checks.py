"""Whether p-values of predictive checks are what they are said to be, over many data sets of a known truth.

The truth has two elements of variances 2 and 0.7 and one latent. Each data set is checked under the truth
with the exact posterior, and under the pair that fits a training set best (maximum likelihood, exact
posterior), on the training set and on held-out data. The statistic is the first element, summarised by its
mean, standard deviation and Kolmogorov-Smirnov distance. Uniform p-values have a mean of 0.5, and a share of
0.05 is at or below 0.05. Run ``python benchmarks/predictive_checks.py``, and with ``--training 1000``.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor

from pyro_infomax.diagnostics import predictive_check
from pyro_infomax.oracles import LinearGaussian

EIGENVALUES = [2.0, 0.7]
Case = tuple[str, LinearGaussian, Tensor, dict[str, object]]


def first(x: Tensor) -> Tensor:
    return x[:, 0]


def fitted(x: Tensor) -> LinearGaussian:
    """The pair of maximum likelihood, with its exact posterior."""
    covariance = torch.cov(x.T, correction=0)
    values, axes = torch.linalg.eigh(covariance)
    best = LinearGaussian.optimum(values, beta=1.0, latent_dim=1)
    axes = axes.flip(1)  # the largest eigenvalue is the first
    return LinearGaussian(covariance, axes @ best.W, best.s2, best.V @ axes.T, best.Delta, mu=x.mean(0))


def cases(truth: LinearGaussian, size: int, training: int, seed: int) -> Iterator[Case]:
    x = truth.sample(training, seed=2 * seed)
    new = truth.sample(size, seed=2 * seed + 1)
    own, best = x[:size], fitted(x)
    yield "truth, prior", truth, new, {"kind": "prior"}
    yield "truth, posterior", truth, new, {"kind": "posterior"}
    yield "truth, aggregate", truth, own, {"kind": "aggregate"}
    yield "truth, aggregate, held out", truth, x, {"kind": "aggregate", "holdout": new}
    yield "fitted, prior", best, own, {"kind": "prior"}
    yield "fitted, prior, held out", best, x, {"kind": "prior", "holdout": new}
    yield "fitted, posterior", best, own, {"kind": "posterior"}
    yield "fitted, posterior, held out", best, x, {"kind": "posterior", "holdout": new}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=300, help="data sets")
    parser.add_argument("--size", type=int, default=100, help="data that are checked")
    parser.add_argument(
        "--training", type=int, default=100, help="data that the pair is fitted to, as many or more"
    )
    parser.add_argument("--num-draws", type=int, default=99)
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    truth = LinearGaussian.optimum(EIGENVALUES, beta=1.0, latent_dim=1)
    found = defaultdict(list)
    for seed in range(args.repeats):
        for name, pair, data, options in cases(truth, args.size, args.training, seed):
            options = options | {"num_draws": args.num_draws, "seed": seed, "progress": False}
            table = predictive_check(pair.model, pair.guide, data, {"x": first}, **options).to_frame()
            for over in ("mean", "sd", "ks"):
                found[name, over].append(table.loc[("x", over), "p_value"])
    p_values = pd.DataFrame(found)
    shares = {
        "mean": p_values.mean(),
        "p <= 0.05": (p_values <= 0.05).mean(),
        "p <= 0.5": (p_values <= 0.5).mean(),
    }
    print(pd.DataFrame(shares).unstack().round(2).to_string())


if __name__ == "__main__":
    main()
