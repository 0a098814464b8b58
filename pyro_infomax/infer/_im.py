r"""The IM algorithm: an input and a decoder trained together, so that as much as possible passes a channel.

The sender p(x) p(y|x) and the decoder r(x|y) are two joints over the same sites, as a VAE's are. Only the
channel p(y|x) is given: nothing weighs it, and what is trained are the input and the decoder.

Barber and Agakov, 2003, The IM algorithm: A variational approach to information maximization.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.util import Dice
from pyro.ops.provenance import detach_provenance
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor, nn

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import patiently
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.distributions import family_name, is_discrete, is_point_mass
from pyro_infomax.infer._elbo import Terms, Traces, WeightedELBO, check_nesting, subsampled_data
from pyro_infomax.infer._weights import TermWeights
from pyro_infomax.information import Estimate
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.poutine import frames_of, is_deterministic, plain_errors, sample_sites

# ---- One run of a sender and a decoder: what is sent, what is scored, and what is only noise on the way.


Count = Tensor | float | None  # a scale or a mask


@final
class Line:
    """Runs a sender, hands what it returns to a decoder, and sees that the two make a bound."""

    def __init__(self, decoder: Program, sender: Program, *, refuse_enumeration: str | None) -> None:
        self._decoder, self._sender = decoder, sender
        self._refuse_enumeration = refuse_enumeration
        self._sent = _SitesInOrder(self._check_enumeration)
        self._decoded = _SitesInOrder(self._check_decoded)
        self._received: object = None

    @property
    def scored(self) -> list[str]:
        """The sites of the last run that the sender draws and the decoder scores."""
        return [name for name in self._sent.found if name in self._scores]

    @property
    def channel(self) -> list[str]:
        """The sites of the last run that the sender alone has."""
        return [name for name in self._sent.found if name not in self._scores]

    @property
    def _scores(self) -> dict[str, Site]:
        return {name: site for name, site in self._decoded.found.items() if not is_deterministic(site)}

    def send(self, *args: object, **kwargs: object) -> object:
        """The sender, as a guide."""
        with self._sent:
            self._received = self._sender(*args, **kwargs)
        self._check_sender()
        return self._received

    def receive(self, *args: object, **kwargs: object) -> object:
        """The decoder, as a model that is replayed against what was sent last."""
        with self._decoded:
            result = self._decoder(self._received, *args, **kwargs)
        self._check_decoder()
        for name in self.scored:
            _check_comparable(self._sent.found[name], self._scores[name])
            # Both programs share this dictionary. Pyro's check of shapes would refuse that what is received,
            # and with it the decoder's distribution, depends on the enumerated value.
            self._sent.found[name]["infer"].pop("_enumerate_dim", None)
        # Pyro warns of a guide's site that the model lacks, unless it is known to be auxiliary
        for name in self.channel:
            self._sent.found[name]["infer"]["is_auxiliary"] = True
        return result

    def _check_enumeration(self, site: Site) -> None:
        if site["is_observed"] or not site["infer"].get("enumerate"):
            return
        if self._refuse_enumeration:
            raise NotImplementedError(self._refuse_enumeration.format(site=site["name"]))
        if site["infer"].get("num_samples") is None and not site["fn"].has_enumerate_support:
            raise NotImplementedError(
                f"Expected a finite support to enumerate {site['name']!r} but got {family_name(site['fn'])}: "
                "drop its infer['enumerate'], and it will be sampled"
            )

    def _check_decoded(self, site: Site) -> None:
        sent = self._sent.found.get(site["name"])
        if sent is not None and not site["is_observed"] and is_point_mass(sent["fn"]):
            raise ValueError(
                f"Expected the sender to draw {site['name']!r}, which the decoder scores, but it is a point "
                "mass without a density: score what it is computed from"
            )
        self._check_enumeration(site)

    def _check_sender(self) -> None:
        for name, site in self._sent.found.items():
            if site["is_observed"] and not is_deterministic(site):
                given = "a factor" if site_is_factor(site) else "observed"
                raise ValueError(
                    f"Expected the sender to draw every site but {name!r} is {given}: it runs the "
                    "input and the channel forwards, so leave observing and factors out"
                )
        if self._received is None:
            raise ValueError(
                "Expected the sender to return what the decoder receives but got None: end it with "
                "`return y`, the output of the channel"
            )

    def _check_decoder(self) -> None:
        for name, site in self._scores.items():
            if site_is_factor(site):
                raise ValueError(
                    f"Expected a normalised decoder but got the factor {name!r}, with which there is no bound"
                )
            is_scored = site["is_observed"] or name in self._sent.found
            if not is_scored and not site["infer"].get("enumerate"):  # which is summed out
                raise ValueError(
                    f"Expected the decoder to score sites that the sender draws, {list(self._sent.found)}, "
                    f"but got {name!r}: give it the name of the site, obs= if it is an argument of both "
                    "programs, or enumerate it"
                )
        if not self.scored and not any(site["is_observed"] for site in self._scores.values()):
            raise ValueError(
                f"Expected the decoder to score a site of the sender, {list(self._sent.found)}, or data by "
                "obs= but it scores nothing"
            )


def _check_comparable(sent: Site, decoded: Site) -> None:
    name = sent["name"]
    if decoded["is_observed"]:
        raise ValueError(
            f"Expected the decoder to score {name!r} as the sender drew it but it has obs=: leave that out"
        )
    if {is_discrete(sent["fn"]), is_discrete(decoded["fn"])} == {True, False}:
        raise ValueError(
            f"Expected {name!r} to be discrete, or continuous, in both programs but got "
            f"{family_name(sent['fn'])} in the sender and {family_name(decoded['fn'])} in the decoder"
        )
    for key in ("scale", "mask"):
        if not _count_alike(sent[key], decoded[key]):
            raise ValueError(
                f"Expected {name!r} to count alike in both programs but its {key} is {_shown(sent[key])} in "
                f"the sender and {_shown(decoded[key])} in the decoder: use the same plates and contexts"
            )


def _count_alike(sent: Count, decoded: Count) -> bool:
    sent, decoded = (True if count is None else count for count in (sent, decoded))
    if not isinstance(sent, torch.Tensor) and not isinstance(decoded, torch.Tensor):
        return bool(sent == decoded)
    return bool((torch.as_tensor(sent) == torch.as_tensor(decoded)).all())


def _shown(count: Count) -> str:
    return f"a tensor of shape {tuple(count.shape)}" if isinstance(count, torch.Tensor) else str(count)


@final
class _SitesInOrder(Messenger):
    """Keeps the sites of a program, those of subsampling left out, in their order."""

    def __init__(self, check: Callable[[Site], None]) -> None:
        super().__init__()
        self._check = check
        self.found: dict[str, Site] = {}

    def __enter__(self) -> "_SitesInOrder":
        self.found = {}
        return super().__enter__()  # type: ignore[no-any-return]

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg):
            self._check(msg)

    def _pyro_post_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg):
            self.found[msg["name"]] = msg


# ---- The bound and its gradients.


@final
@dataclass(frozen=True)
class IMParts:
    """What the last bound was made of, in nats, summed like the loss and averaged over particles.

    Attributes:
        bound: input_entropy − equivocation, a lower bound on the information; the loss with its sign turned.
        input_entropy: −E log p(x) of what the sender draws and the decoder scores; 0 for data.
        equivocation: −E log r(x|y), an upper bound on the entropy of x given y.

    Example:
        >>> IMParts(bound=0.25, input_entropy=0.75, equivocation=0.5).bound
        0.25
    """

    bound: float
    input_entropy: float
    equivocation: float


class _IM(WeightedELBO):
    """Lets a Pyro ELBO run a sender and a decoder for its guide and its model.

    The channel's sites are the guide's alone. They cost nothing, since the channel is on both sides of the
    ratio, but gradients go through them: there is nothing to weight. An estimator that does not sample says
    how it takes expectations (:meth:`_expectation`).
    """

    @property
    def parts(self) -> IMParts | None:
        """The parts of the last evaluation, None before the first; :attr:`terms` has them by name."""
        terms = self.terms
        if terms is None:
            return None
        return IMParts(terms.bound, terms.input_entropy, terms.equivocation)

    def _check_terms(self, weights: TermWeights) -> None:
        if weights:
            raise ValueError(f"Expected no weights of {type(self).__name__} but got {dict(weights)}.")

    def _reset(self) -> None:
        self._sums, self._summed = {"input_entropy": 0.0}, self.num_particles

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        entropy = values["input_entropy"]
        return Terms(bound=-loss, input_entropy=entropy, equivocation=entropy + loss, loss=loss)

    # The two programs come as they are, without weights at their sites
    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        return super(WeightedELBO, self)._get_trace(model, guide, args, kwargs)  # type: ignore[safe-super]

    def _get_traces(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> Traces:
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            raise NotImplementedError(
                f"{type(self).__name__} cannot take a sender that is itself a messenger: use a plain program"
            )
        line = Line(model, guide, refuse_enumeration=self._refuse_enumeration())
        with plain_errors():
            for model_trace, guide_trace in super()._get_traces(line.receive, line.send, args, kwargs):
                if self.enumerates:
                    check_nesting(self.max_plate_nesting, model_trace, guide_trace)
                for name in line.channel:
                    _silence(guide_trace.nodes[name])
                self._subsampled = subsampled_data(model_trace, args, lambda site: not is_deterministic(site))
                with torch.no_grad():
                    self._add("input_entropy", -self._expectation(line.scored, guide_trace))
                yield model_trace, guide_trace

    def _refuse_enumeration(self) -> str | None:
        if self.enumerates:
            return None
        return (
            f"{type(self).__name__} cannot enumerate but the site {{site!r}} asks for it; use TraceEnum_IM, "
            "or drop its infer['enumerate']"
        )

    def _expectation(self, names: list[str], guide_trace: Trace) -> float | Tensor:
        """The expected sum of log-probabilities of sites of one trace of the sender."""
        sums = [detach_provenance(guide_trace.nodes[name]["log_prob_sum"]) for name in names]
        return sum((each.detach() for each in sums), start=torch.zeros(()))


def _silence(site: Site) -> None:
    """Takes the cost of a site away; its score function stays."""
    nothing = torch.zeros_like(site["log_prob"])
    parts = site["score_parts"]._replace(log_prob=nothing, entropy_term=0.0)
    site.update(log_prob=nothing, log_prob_sum=nothing.sum(), score_parts=parts)
    if "packed" in site:
        dims = site["packed"]["log_prob"]._pyro_dims
        site["packed"]["log_prob"] = torch.zeros_like(site["packed"]["log_prob"])
        site["packed"]["log_prob"]._pyro_dims = dims


@final
class Trace_IM(_IM, Trace_ELBO):
    """The IM algorithm by sampling, with reparameterised or score-function gradients.

    Programs, parts and errors are those of :class:`TraceEnum_IM`; further arguments those of
    :class:`pyro.infer.Trace_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceGraph_IM(_IM, TraceGraph_ELBO):
    """The IM algorithm with score-function gradients of lower variance, by dependencies between sites.

    A site takes a baseline as in Pyro, ``infer={"baseline": {"use_decaying_avg_baseline": True}}``. Programs,
    parts and errors are those of :class:`TraceEnum_IM`; further arguments those of
    :class:`pyro.infer.TraceGraph_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceEnum_IM(_IM, TraceEnum_ELBO):
    r"""The IM algorithm with exact sums over the sites that are enumerated: input, channel, or both.

    .. math:: I(X; Y) \;\ge\; H(X) + \mathbb{E}_{p(x)\, p(y \mid x)} \log r(x \mid y)
        = \mathbb{E} \log \frac{r(x \mid y)}{p(x)}

    (Barber and Agakov, 2003, The IM algorithm: A variational approach to information maximization). The loss
    is minus this bound. The model is the *decoder*, the guide is the *sender*:

    - ``sender(*args)`` draws the input, runs it through the channel, and returns what is received;
    - ``decoder(received, *args)`` scores the sites of the sender that it names.

    What the sender alone has is the channel (or an encoder in front of it): it is run, not scored. A decoder
    that scores data by ``obs=`` bounds I − H of the data, whose entropy no parameter moves. Where all sites
    of the sender are enumerated, bound and gradients are exact; continuous sites are reparameterised, all
    others have the score function. After an evaluation ``parts`` holds the :class:`IMParts`.

    Args:
        **kwargs: those of :class:`pyro.infer.TraceEnum_ELBO`.

    Raises:
        ValueError: if the sender observes, holds a factor, or returns nothing; if the decoder scores nothing,
            holds a factor, or names a site that the sender does not draw, draws without a density, or counts
            otherwise.
        NotImplementedError: where a site without finite support asks for enumeration, or the sender is itself
            a messenger.

    Example:
        A bit that is flipped in one of ten cases.

        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyro.infer import config_enumerate
        >>> flips = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> @config_enumerate
        ... def sender():
        ...     x = pyro.sample("x", dist.Categorical(torch.tensor([0.5, 0.5])))
        ...     return pyro.sample("y", dist.Categorical(flips[x]))
        >>> def decoder(y):
        ...     pyro.sample("x", dist.Categorical(flips[y]))
        >>> im = TraceEnum_IM(max_plate_nesting=0)
        >>> loss = im.loss(decoder, sender)
        >>> im.parts
        IMParts(bound=0.3680..., input_entropy=0.6931..., equivocation=0.3250...)
    """

    enumerates = True

    def _expectation(self, names: list[str], guide_trace: Trace) -> float:
        ordering = {
            site["name"]: frozenset(guide_trace.plate_to_symbol[frame.name] for frame in frames_of(site))
            for site in sample_sites(guide_trace)
        }
        costs: dict[frozenset[str], list[Tensor]] = {}
        for name in names:
            costs.setdefault(ordering[name], []).append(guide_trace.nodes[name]["packed"]["log_prob"])
        return float(Dice(guide_trace, ordering).compute_expectation(costs))


# ---- The bound of a sender and a decoder on draws that they have not been trained on.

# So many that the standard error of their mean is itself known to 7 %.
_BLOCKS: Final = 100


def transmitted_information(
    decoder: Program,
    sender: Program,
    *args: object,
    num_samples: int = 10_000,
    uses: int = 1,
    source_entropy: float = 0.0,
    vectorize: bool = True,
    seed: int | None = None,
    progress: bool = True,
) -> Estimate:
    r"""The Barber–Agakov bound of a sender and a decoder, exact where all is enumerated, else on fresh draws.

    .. math:: I(X; Y) \;\ge\; H(X) + \mathbb{E}_{p(x)\, p(y \mid x)} \log r(x \mid y)

    (Barber and Agakov, 2003, The IM algorithm: A variational approach to information maximization). Sites
    that ask for enumeration are summed out, all others are drawn; the standard error is that of the mean of
    up to 100 blocks of draws.

    Args:
        decoder: called as ``decoder(received, *args)``, as in :class:`TraceEnum_IM`.
        sender: called as ``sender(*args)``; returns what is received.
        *args: arguments of both programs, such as data.
        num_samples: how often the programs are run, at least 2; of no account where all is enumerated.
        uses: the number of channel uses in one run, by which the sum over its plates is divided: the length
            of the data, say.
        source_entropy: what is added for each use: the entropy of data that the decoder scores by ``obs=``,
            in nats. What the sender draws has its entropy in the bound already.
        vectorize: whether the draws of a block are made at once, in a plate outside of all others, which the
            programs have to broadcast over.
        seed: isolates the draws from torch's global state.
        progress: show a bar where this takes more than a few seconds.

    Returns:
        An estimate in nats per use, of bound "lower"; its standard error is 0 where all is enumerated.

    Raises:
        ValueError: for fewer than two samples or less than one use, and for programs that make no bound.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def sender():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(x, 1.0))
        >>> def decoder(y):
        ...     pyro.sample("x", dist.Normal(y / 2, 0.5**0.5))
        >>> estimate = transmitted_information(decoder, sender, seed=0)
        >>> abs(float(estimate) - 0.5 * math.log(2)) < 3 * float(estimate.standard_error)
        True
    """
    num_samples = whole_number("num_samples", num_samples, at_least=2)
    uses = whole_number("uses", uses, at_least=1)
    with seeded_draws(seed), torch.no_grad(), evaluation_mode(decoder, sender):
        run = _run(decoder, sender, args)
        particles, blocks = (1, 1) if _is_enumerated(run.sender) else _plan(num_samples)
        im = TraceEnum_IM(
            num_particles=particles,
            vectorize_particles=vectorize,
            max_plate_nesting=_nesting(run),
            strict_enumeration_warning=False,
        )
        steps = patiently(range(blocks), "transmitted information", progress=progress)
        bounds = torch.tensor([-im.loss(decoder, sender, *args) for _ in steps], dtype=torch.float64)
    return Estimate(
        value=bounds.mean() / uses + source_entropy,
        standard_error=_standard_error(bounds) / uses,
        population_standard_error=None,
        bound="lower",
        target="mutual information of what the decoder scores and what it receives"
        + (", less the entropy of the data" if _scores_data(run.decoder) and not source_entropy else ""),
    )


class _Run(NamedTuple):
    """The sites of both programs in a run without enumeration."""

    sender: list[Site]
    decoder: list[Site]


def _run(decoder: Program, sender: Program, args: Args) -> _Run:
    line = Line(decoder, sender, refuse_enumeration=None)
    with poutine.block(), plain_errors():
        sent = poutine.trace(line.send).get_trace(*args)
        decoded = poutine.trace(poutine.replay(line.receive, trace=sent)).get_trace(*args)
    return _Run(_sites(sent), _sites(decoded))


def _sites(trace: Trace) -> list[Site]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _nesting(run: _Run) -> int:
    return max((-frame.dim for sites in run for site in sites for frame in frames_of(site)), default=0)


def _scores_data(sites: list[Site]) -> bool:
    return any(site["is_observed"] and not is_deterministic(site) for site in sites)


def _is_enumerated(sites: list[Site]) -> bool:
    """Whether nothing is left to chance, subsamples included."""
    return all(
        _is_certain(site) or (site["infer"].get("enumerate") and not site["infer"].get("num_samples"))
        for site in sites
    )


def _is_certain(site: Site) -> bool:
    whole = site_is_subsample(site) and site["fn"].subsample_size in (None, site["fn"].size)
    return whole or is_deterministic(site)


def _plan(num_samples: int) -> tuple[int, int]:
    """The number of draws in a block, and of blocks."""
    blocks = min(_BLOCKS, num_samples)
    return math.ceil(num_samples / blocks), blocks


def _standard_error(bounds: Tensor) -> Tensor:
    if len(bounds) == 1:
        return torch.zeros((), dtype=torch.float64)
    return bounds.std() / math.sqrt(len(bounds))


# ---- Inputs that keep to a constraint by the way they are made.


@final
class PowerLimitedNormal(nn.Module):
    r"""A Normal input of independent dimensions, whose power never exceeds a limit.

    .. math:: x_j \sim \mathcal{N}(0, \sigma_j^2) , \qquad
        \sigma^2 = P \, \mathrm{softmax}(a)_{1 \dots d} , \quad a \in \mathbb{R}^{d+1} ,
        \qquad \text{hence} \quad \mathbb{E} \lVert x \rVert^2 = \sum_j \sigma_j^2 \le P .

    The last share of the softmax is power that stays unused. Trained through Gaussian noise of variances
    :math:`N_j`, the shares become those of water-filling, :math:`\sigma_j^2 = \max(0, \nu - N_j)` (Cover and
    Thomas, 2006, Elements of Information Theory, section 9.4).

    Args:
        dim: number of dimensions, d.
        power: the limit P on the expected squared length, in the squared unit of x.

    Raises:
        ValueError: if ``dim`` is below 1 or ``power`` is not positive and finite.

    Example:
        >>> source = PowerLimitedNormal(3, power=2.0)
        >>> source.variances.detach()
        tensor([0.5000, 0.5000, 0.5000])
        >>> x = source().sample((5,))
        >>> x.shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, *, power: float) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Expected dim >= 1 but got {dim}.")
        if not 0 < power < math.inf:
            raise ValueError(f"Expected a positive, finite power but got {power}.")
        self.power = float(power)
        self.share_logits = nn.Parameter(torch.zeros(dim + 1))  # the last one stays unused

    @property
    def variances(self) -> Tensor:
        """The power of each dimension, (dim,), positive; their sum keeps to the limit in rounding too."""
        shares = self.share_logits.softmax(-1)[:-1]
        rounding = torch.finfo(shares.dtype)
        return (self.power * (1 - 4 * rounding.eps) * shares).clamp(min=rounding.tiny)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of x, event shape (dim,)."""
        return dist.Normal(0.0, self.variances.sqrt()).to_event(1)
