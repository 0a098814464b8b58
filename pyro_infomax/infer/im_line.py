"""One run of a sender and a decoder: what is sent, what is scored, and what is only noise on the way."""

from collections.abc import Callable
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor, site_is_subsample

from pyro_infomax.infer.site_families import family_name, is_discrete
from pyro_infomax.poutine import is_deterministic, is_point_mass

__all__ = ["Line"]

Program = Callable[..., Any]
Site = Any


@final
class Line:
    """Runs a sender, hands what it returns to a decoder, and sees that the two make a bound.

    Args:
        decoder: called as ``decoder(received, *args)``.
        sender: called as ``sender(*args)``; it returns what is received.
        refuse_enumeration: the sentence to raise where a site asks for enumeration, None where the estimator
            enumerates.
    """

    def __init__(self, decoder: Program, sender: Program, *, refuse_enumeration: str | None) -> None:
        self._decoder, self._sender = decoder, sender
        self._refuse_enumeration = refuse_enumeration
        self._sent = _Sites(self._check_enumeration)
        self._decoded = _Sites(self._check_decoded)
        self._received: Any = None

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

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """The sender, as a guide."""
        with self._sent:
            self._received = self._sender(*args, **kwargs)
        self._check_sender()
        return self._received

    def receive(self, *args: Any, **kwargs: Any) -> Any:
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
                raise ValueError(
                    f"Expected the sender to draw every site but {name!r} is {_given(site)}: it runs the "
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
            if not site["is_observed"] and name not in self._sent.found and not _is_summed_out(site):
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


def _is_summed_out(site: Site) -> bool:
    return bool(site["infer"].get("enumerate"))


def _given(site: Site) -> str:
    return "a factor" if site_is_factor(site) else "observed"


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
        if not _alike(sent[key], decoded[key]):
            raise ValueError(
                f"Expected {name!r} to count alike in both programs but its {key} is {_shown(sent[key])} in "
                f"the sender and {_shown(decoded[key])} in the decoder: use the same plates and contexts"
            )


def _alike(sent: Any, decoded: Any) -> bool:
    sent, decoded = (True if count is None else count for count in (sent, decoded))
    if not isinstance(sent, torch.Tensor) and not isinstance(decoded, torch.Tensor):
        return bool(sent == decoded)
    return bool((torch.as_tensor(sent) == torch.as_tensor(decoded)).all())


def _shown(count: Any) -> str:
    return f"a tensor of shape {tuple(count.shape)}" if isinstance(count, torch.Tensor) else str(count)


@final
class _Sites(Messenger):
    """Keeps the sites of a program, those of subsampling left out, in their order."""

    def __init__(self, check: Callable[[Site], None]) -> None:
        super().__init__()
        self._check = check
        self.found: dict[str, Site] = {}

    def __enter__(self) -> "_Sites":
        self.found = {}
        return super().__enter__()  # type: ignore[no-any-return]

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg):
            self._check(msg)

    def _pyro_post_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg):
            self.found[msg["name"]] = msg
