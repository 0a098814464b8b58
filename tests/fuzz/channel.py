"""Random senders and decoders: the bound of the IM algorithm against enumeration.

A sender is a guide and its decoder a model over the input, so that a pair describes both. What the sender
alone has is the channel, which costs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from pyro_infomax import infer
from tests.fuzz.checks import Outcome, gradients, outcome, parameters_of
from tests.fuzz.emit import HEADER, site_source
from tests.fuzz.oracle import Costs, answers_of
from tests.fuzz.population import Population
from tests.fuzz.spec import Drawing, Pair, Site

ESTIMATORS = ("Trace_IM", "TraceGraph_IM", "TraceEnum_IM")


def draw_channel(seed: int) -> Pair:
    """Inputs, a channel of one or two stages, and a decoder that scores the inputs."""
    drawing = Drawing(seed)
    level = drawing.choice(["global", "row"])
    kind = drawing.choice(["bernoulli", "categorical", "normal"])
    sent: list[Site] = []
    for name in "ab"[: drawing.choice([1, 1, 2])]:
        sent.append(drawing.site(name, kind, level, sent, in_guide=True))
    channel: list[Site] = []
    for name in "wz"[drawing.choice([0, 1]) :]:
        last = channel[-1:] or sent
        stage = drawing.site(name, drawing.choice([kind, kind, "normal"]), level, last, in_guide=True)
        channel.append(replace(stage, by_data=False, slope=0.0))
    sent = [replace(site, by_data=False, slope=0.0) for site in sent]
    sent = [replace(site, table=site.table[0]) if _deep(site) else site for site in sent]
    channel = [replace(site, table=site.table[0]) if _deep(site) else site for site in channel]
    received = channel[-1]
    scored: list[Site] = []
    for site in sent:
        decoded = drawing.site(site.name, kind, level, [received, *scored], in_guide=False, like=site)
        scored.append(decoded)
    if drawing.chance(0.5):
        how = "sequential" if drawing.chance(0.15) else "parallel"
        sent, channel = (
            [replace(site, enumerated=how if site.discrete else None) for site in sites]
            for sites in (sent, channel)
        )
    return Pair(
        seed=seed,
        rows=2,
        model=tuple(scored),
        guide=(*sent, *channel),
        data={},
        plate="whole" if drawing.chance(0.3) and level == "row" else "length",
        total=10,
        program_scale=2.0 if drawing.chance(0.2) else 1.0,
    )


def _deep(site: Site) -> bool:
    """Whether the table still has the axis of the datum's class."""
    depth, table = 0, site.table
    while isinstance(table, tuple):
        depth, table = depth + 1, table[0]
    parents = len(site.parents) - len(site.weights)
    return depth > parents + site.discrete


def source_of(pair: Pair) -> str:
    received = pair.guide[-1].name
    lines = ["def sender():", '    phi = pyro.param("phi", lambda: torch.tensor(0.0))']
    lines += _body(pair, pair.guide, "guide")
    lines += [f"    return {received}", "", "", f"def decoder({received}):"]
    lines += ['    theta = pyro.param("theta", lambda: torch.tensor(0.0))']
    lines += _body(pair, pair.model, "model")
    return "\n".join(lines)


def _body(pair: Pair, sites: tuple[Site, ...], role: str) -> Iterator[str]:
    indent = "    "
    if pair.program_scale != 1.0:
        yield f"{indent}with pyro.poutine.scale(scale={pair.program_scale}):"
        indent += "    "
    if sites[0].level == "row":
        size = f"{pair.total}, subsample_size={pair.rows}" if pair.plate == "whole" else f"{pair.rows}"
        yield f'{indent}with pyro.plate("uses", {size}, dim=-1):'
        indent += "    "
    for site in sites:
        yield from (indent + line for line in site_source(pair, site, role))


def built(pair: Pair) -> SimpleNamespace:
    names: dict[str, Any] = {"pyro": pyro, "dist": dist, "torch": torch}
    exec(compile(source_of(pair), f"channel {pair.seed}", "exec"), names)
    return SimpleNamespace(model=names["decoder"], guide=names["sender"], data=())


@dataclass(frozen=True)
class ChannelCheck:
    """An IM estimator on the channel of a seed: bound, input entropy, equivocation and gradients."""

    seed: int
    cls: str
    validate: bool
    alone: bool = False

    def __call__(self) -> Outcome:
        return outcome(self.cls, lambda: self._compared(draw_channel(self.seed)))

    def script(self) -> str:
        return f"""{HEADER}
from pyro_infomax.infer import {self.cls}

torch.set_default_dtype(torch.float64)


{source_of(draw_channel(self.seed))}


im = {self.cls}(num_particles=10_000, vectorize_particles=True, max_plate_nesting=1)
print(im.loss_and_grads(decoder, sender), im.parts)
print({{name: value.grad for name, value in pyro.get_param_store().named_parameters()}})
"""

    def _compared(self, pair: Pair) -> dict[str, tuple[Any, float]]:
        answers = answers_of(pair)
        scored = {site.name for site in pair.model}

        def loss(costs: Costs) -> float:
            return sum(cost for name, cost in costs.latent.items() if name in scored)

        population = Population(pair, enumerated=self.cls == "TraceEnum_IM")
        sequential = any(site.enumerated == "sequential" for site in pair.guide)
        alone = population.size == 1 or (self.alone and not sequential)
        made = built(pair)
        for parameter in parameters_of(made):
            parameter.grad = None
        im = getattr(infer, self.cls)(
            num_particles=population.size, vectorize_particles=not alone, max_plate_nesting=1
        )
        sender = population(made.guide) if alone else made.guide
        with pyro.validation_enabled(self.validate), population:
            found = im.loss_and_grads(made.model, sender)
        entropy = -sum(answers.costs.drawn[name] for name in scored)
        grads = gradients(made)
        return {
            "loss": (found, loss(answers.costs)),
            "bound": (im.parts.bound, -loss(answers.costs)),
            "input_entropy": (im.parts.input_entropy, entropy),
            "equivocation": (im.parts.equivocation, entropy + loss(answers.costs)),
            "gradient of theta": (grads["theta"], answers.gradient("theta", loss)),
            "gradient of phi": (grads["phi"], answers.gradient("phi", loss)),
        }


def channel_checks(seed: int) -> Iterator[ChannelCheck]:
    """A check of every estimator."""
    for n, cls in enumerate(ESTIMATORS):
        yield ChannelCheck(seed, cls, validate=bool((seed + n) % 2), alone=(seed + n) % 5 == 0)
