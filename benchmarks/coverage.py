"""How often the intervals of the account hold the truth: value ± 1.96 standard errors, for the data at hand.

Means are standard normal beside a standard normal prior. Some of the repetitions draw anew from each set of
data, whose truth is the same account of many more draws. For each term stand the bias of the estimates and
their spread about the truth, the error that is reported on average, the share of the intervals that hold the
truth, and that among the estimates without a note that their error cannot be trusted. Run ``python
benchmarks/coverage.py --posterior student --data 50 --dimensions 3``.
"""

import argparse

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

from pyro_infomax.information import Account, Draws, Estimate

TERMS = ("rate", "mutual_information", "marginal_kl", "total_correlation", "dimensionwise_kl")
DRAWS_OF_TRUTH = 50_000


def posterior_of(arguments: argparse.Namespace) -> Independent | MixtureSameFamily:
    size, scale = arguments.data, arguments.scale
    mean = torch.randn(size, arguments.dimensions)
    if arguments.posterior == "normal":
        return Independent(Normal(mean, scale), 1)
    if arguments.posterior == "student":
        return Independent(StudentT(arguments.df, mean, scale), 1)
    pair = torch.stack([mean, mean + 1], -2)  # (data, component, latent)
    return MixtureSameFamily(Categorical(logits=torch.randn(size, 2)), Independent(Normal(pair, scale), 1))


def values(estimate: Estimate) -> Tensor:
    """Value, error and whether there is a note, (3,); of a vector the first."""
    first = estimate if estimate.value.dim() == 0 else estimate[0]
    return torch.stack([first.value, first.standard_error, torch.tensor(float(first.note is not None))])


def terms(posterior: Independent | MixtureSameFamily, samples: int, names: list[str]) -> Tensor:
    """(term, 3)."""
    prior = Independent(Normal(torch.zeros(posterior.event_shape), 1.0), 1)
    account = Account(Draws(posterior, prior, num_samples=samples, progress=False))
    return torch.stack([values(getattr(account, name)) for name in names])


def share(of: Tensor) -> float:
    return float(of.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posterior", choices=("normal", "student", "mixture"), default="normal")
    parser.add_argument("--df", type=float, default=3.0, help="of Student's t")
    parser.add_argument("--scale", type=float, default=0.5, help="of the posteriors")
    parser.add_argument("--data", type=int, default=50)
    parser.add_argument("--dimensions", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1, help="draws of each datum")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--sets", type=int, default=20, help="of data, that share the repetitions")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(arguments.seed)
    names = [each for each in TERMS if arguments.dimensions > 1 or each != "total_correlation"]

    off, errors, notes = [], [], []
    for _ in range(arguments.sets):
        posterior = posterior_of(arguments)
        truth = terms(posterior, DRAWS_OF_TRUTH // arguments.data, names)[:, 0]
        again = range(arguments.repetitions // arguments.sets)
        found = torch.stack([terms(posterior, arguments.samples, names) for _ in again])
        off.append(found[..., 0] - truth)  # (repetition, term)
        errors.append(found[..., 1])
        notes.append(found[..., 2] > 0)
    distance, error, noted = (torch.cat(each) for each in (off, errors, notes))
    hit = distance.abs() <= 1.96 * error + 1e-12

    print(f"{arguments.posterior}, N = {arguments.data}, d = {arguments.dimensions}, S = {arguments.samples}")
    print("| term | bias | spread | error | coverage | with a note | coverage without one |")
    print("|---|---|---|---|---|---|---|")
    for column, name in enumerate(names):
        bias, spread = float(distance[:, column].mean()), float(distance[:, column].std())
        trusted = hit[~noted[:, column], column]
        rest = f"{share(trusted):.1%}" if len(trusted) else "—"
        figures = f"{bias:.4f} | {spread:.4f} | {float(error[:, column].mean()):.4f}"
        print(
            f"| `{name}` | {figures} | {share(hit[:, column]):.1%} | {share(noted[:, column]):.0%} | {rest} |"
        )


if __name__ == "__main__":
    main()
