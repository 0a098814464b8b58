r"""The IM algorithm: an input and a decoder trained together, so that as much as possible passes a channel.

The sender p(x) p(y|x) and the decoder r(x|y) are two joints over the same sites, as a VAE's are. Only the
channel p(y|x) is given: nothing weighs it, and what is trained are the input and the decoder.

Barber and Agakov, 2003, The IM algorithm: A variational approach to information maximization.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.util import Dice
from pyro.ops.provenance import detach_provenance

from pyro_infomax.infer.im_line import Line
from pyro_infomax.poutine import frames_of, is_deterministic, plain_errors, sample_sites

__all__ = ["IMParts", "TraceEnum_IM", "TraceGraph_IM", "Trace_IM"]

Trace = Any
Site = Any
Program = Callable[..., Any]


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


class _IM(ELBO):
    """Lets a Pyro ELBO run a sender and a decoder for its guide and its model.

    The channel's sites are the guide's alone. They cost nothing, since the channel is on both sides of the
    ratio, but gradients go through them. An estimator says how it takes expectations (:meth:`_expectation`).
    """

    enumerates = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._entropy = 0.0
        self._parts: IMParts | None = None
        self._subsampled: dict[int, int] = {}

    @property
    def parts(self) -> IMParts | None:
        """The parts of the last evaluation, None before the first."""
        return self._parts

    def stands_for(self, rows: int) -> int:
        """The number of data that the last loss is for, where it was given ``rows`` of them.

        They are those of the whole plate where the decoder scores a subsample, since Pyro scales it up.
        """
        return self._subsampled.get(rows, rows)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, for the decoder and the sender."""
        return self._evaluate(super().loss, model, guide, args, kwargs)  # type: ignore[misc]

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, its gradients added to the parameters' of decoder and sender."""
        return self._evaluate(super().loss_and_grads, model, guide, args, kwargs)  # type: ignore[misc]

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Minus the bound as a tensor.

        Raises:
            NotImplementedError: where Pyro's estimator has none.
        """
        parent = getattr(super(), "differentiable_loss", None)
        if parent is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no differentiable loss: use loss_and_grads (or SVI), or Trace_IM"
            )
        return self._evaluate(parent, model, guide, args, kwargs)

    def _evaluate(self, parent: Program, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        self._parts, self._entropy = None, 0.0
        loss = parent(model, guide, *args, **kwargs)
        bound = -float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        entropy = self._entropy / self.num_particles
        self._parts = IMParts(bound, input_entropy=entropy, equivocation=entropy - bound)
        return loss

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[Any]:
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            raise NotImplementedError(
                f"{type(self).__name__} cannot take a sender that is itself a messenger: use a plain program"
            )
        line = Line(model, guide, refuse_enumeration=self._refuse_enumeration())
        with plain_errors():
            for model_trace, guide_trace in super()._get_traces(line.receive, line.send, args, kwargs):
                for name in line.channel:
                    _silence(guide_trace.nodes[name])
                self._record(line, model_trace, guide_trace)
                yield model_trace, guide_trace

    def _refuse_enumeration(self) -> str | None:
        if self.enumerates:
            return None
        return (
            f"{type(self).__name__} cannot enumerate but the site {{site!r}} asks for it; use TraceEnum_IM, "
            "or drop its infer['enumerate']"
        )

    def _record(self, line: Line, model_trace: Trace, guide_trace: Trace) -> None:
        scored = [site for site in sample_sites(model_trace) if not is_deterministic(site)]
        with torch.no_grad():
            self._entropy -= self._expectation(line.scored, guide_trace)
        self._subsampled = {
            frame.size: frame.full_size
            for site in scored
            for frame in frames_of(site)
            if frame.full_size and frame.full_size > frame.size
        }

    @abstractmethod
    def _expectation(self, names: list[str], guide_trace: Trace) -> float:
        """The expected sum of log-probabilities of sites of one trace of the sender."""


def _silence(site: Site) -> None:
    """Takes the cost of a site away; its score function stays."""
    nothing = torch.zeros_like(site["log_prob"])
    parts = site["score_parts"]._replace(log_prob=nothing, entropy_term=0.0)
    site.update(log_prob=nothing, log_prob_sum=nothing.sum(), score_parts=parts)
    if "packed" in site:
        dims = site["packed"]["log_prob"]._pyro_dims
        site["packed"]["log_prob"] = torch.zeros_like(site["packed"]["log_prob"])
        site["packed"]["log_prob"]._pyro_dims = dims


class _SampledIM(_IM):
    def _expectation(self, names: list[str], guide_trace: Trace) -> float:
        sums = [detach_provenance(guide_trace.nodes[name]["log_prob_sum"]) for name in names]
        return sum(float(each.detach()) for each in sums)


@final
class Trace_IM(_SampledIM, Trace_ELBO):
    """The IM algorithm by sampling, with reparameterised or score-function gradients.

    Programs, parts and errors are those of :class:`TraceEnum_IM`; further arguments those of
    :class:`pyro.infer.Trace_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceGraph_IM(_SampledIM, TraceGraph_ELBO):
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
        costs: dict[Any, list[Any]] = {}
        for name in names:
            costs.setdefault(ordering[name], []).append(guide_trace.nodes[name]["packed"]["log_prob"])
        return float(Dice(guide_trace, ordering).compute_expectation(costs))
