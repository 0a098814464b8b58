"""The base of guides that compute the posterior of each datum's latents from the datum."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_infomax.guides.prototype import DataPlate, LatentSite, find_data_plate, find_latent_sites
from pyro_infomax.nn import (
    InstanceName,
    check_features,
    drop_weak_references,
    prototype_features,
    register,
)
from pyro_infomax.random_state import isolated_random_state

Plates = pyro.plate | Iterable[pyro.plate]


def _is_no_prototype(msg: Any) -> bool:
    # Observed sites are kept, unlike in Pyro's autoguides: they tell which plate holds the data
    return msg["type"] != "sample" or site_is_subsample(msg)


class AmortizedGuide(AutoGuide):
    r"""An encoder with one head for each local latent site of a model.

    .. math:: q_\psi(z \mid x) = \prod_s q_s\bigl(z_s \mid \mathrm{head}_s(\mathrm{encoder}(x))\bigr)

    The first call runs the model once, without gradient and on a copy of the random state, to find the
    data plate and the latent sites; later calls run the encoder alone. A family is a subclass that
    implements :meth:`make_head`.

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h).
        create_plates: from the arguments to the plates of the guide, for data that are a part of a larger
            plate. By default the guide makes the model's data plate anew at each call, with the size of
            the data and the model's subsample size.

    Raises:
        ValueError: at the first call, if the model has no data plate, several, or no latent site; at any
            call, if the number of features' rows is not the number of data.
        NotImplementedError: at the first call, for global latents, latents in further plates, and
            supports that the family does not cover.
    """

    heads: nn.ModuleList
    _prototype_hide_fn = staticmethod(_is_no_prototype)

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor],
        *,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        super().__init__(model, create_plates=create_plates)
        self._name = InstanceName(type(self).__name__)
        self._pyro_name = self._name
        self.encoder = encoder
        self._data_plate: DataPlate | None = None
        self._sites: list[LatentSite] = []

    @abstractmethod
    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        """A module from features to the distribution of one site; the one hook of a family.

        Args:
            site: a latent site inside the data plate.
            in_features: number of features.

        Returns:
            A module that maps features (..., in_features) to a Pyro distribution with batch shape (...)
            and the event shape of the site.

        Raises:
            NotImplementedError: if the family does not cover the support of the site.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement make_head(site, in_features).")

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The guide as a Pyro program, with the arguments of the model.

        Args:
            *args: the data, which the encoder gets too.
            **kwargs: further arguments of the model, which the guide passes over.

        Returns:
            The latents by site name, each (..., batch, \\*event).
        """
        self._ensure_prototype(*args, **kwargs)
        assert self._data_plate is not None
        plate = self._create_plates(*args, **kwargs)[self._data_plate.name]
        self._register()
        with plate:
            posteriors = self._posteriors(*self._subsample(plate, args))
            return {name: pyro.sample(name, posterior) for name, posterior in posteriors.items()}

    def posteriors(self, *args: Any, **kwargs: Any) -> dict[str, dist.TorchDistribution]:
        """The distribution of each site, for all data and outside of inference.

        Args:
            *args: the data.
            **kwargs: further arguments of the model, for its first run.

        Returns:
            Distributions by site name, each with batch shape (batch,), or (batch, 1, ...) where the model
            has its data plate further to the left.
        """
        # In a run of its own, so that no handler around sees the parameters
        with pyro.poutine.block(), self._pyro_context:
            self._ensure_prototype(*args, **kwargs)
            self._register()
            return self._posteriors(*args)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the model, which need not be picklable, and which the first call has read."""
        drop_weak_references(self)
        return self.__dict__ | {"_model": (None,), "master": None, "plates": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A guide of the same model with parameters of its own."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin._model = self._model
        return twin

    def _ensure_prototype(self, *args: Any, **kwargs: Any) -> None:
        if self._data_plate is None:
            self._setup_prototype(*args, **kwargs)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        size = _data_size(args)
        if self.model is None:
            raise ValueError("Expected a guide that has run but this one was pickled before: build it anew.")
        with torch.no_grad(), isolated_random_state():
            super()._setup_prototype(*args, **kwargs)
            trace = self.prototype_trace
            assert trace is not None
            plate = find_data_plate(trace, size, own_plates=self._has_own_plates())
            self._sites = find_latent_sites(trace, plate)
            self._make_heads(*_first_rows(args, plate))
        _forget_values(trace)
        # Plates that the user does not make are made anew at each call, not from the prototype's sizes
        self._prototype_frames = {}
        self._data_plate = plate

    def _make_heads(self, *data: Any) -> None:
        features = prototype_features(self._module("encoder"), *data)
        heads = [self.make_head(site, features.shape[-1]) for site in self._sites]
        self.heads = nn.ModuleList(heads).to(features.device, features.dtype)

    def _has_own_plates(self) -> bool:
        guide = self if self.master is None else self.master()
        return guide.create_plates is not None

    def _create_plates(self, *args: Any, **kwargs: Any) -> dict[str, pyro.plate]:
        plates: dict[str, pyro.plate] = super()._create_plates(*args, **kwargs)
        assert self._data_plate is not None
        if self._data_plate.name not in plates:
            plates[self._data_plate.name] = self._data_plate.create(_data_size(args))
        return plates

    def _subsample(self, plate: pyro.plate, args: tuple[Any, ...]) -> Iterator[Any]:
        size = _data_size(args)
        if size not in (plate.size, plate.subsample_size):
            raise ValueError(
                f"Expected len(data) = {plate.size} or {plate.subsample_size}, the sizes of plate "
                f"{plate.name!r}, but got {size}: pass create_plates=lambda x: pyro.plate({plate.name!r}, "
                "len(x), dim=-1), in an AutoGuideList to the list."
            )
        if plate.subsample_size == size:
            return iter(args)
        return (_rows(arg, size, plate.indices) for arg in args)

    def _posteriors(self, *data: Any) -> dict[str, dist.TorchDistribution]:
        assert self._data_plate is not None
        features = check_features(self._module("encoder")(*data), len(data[0]))
        # (batch, 1 for each axis to the right of the data plate, features)
        features = features.reshape(len(features), *[1] * (-self._data_plate.dim - 1), features.shape[-1])
        heads = self._module("heads")
        return {site.name: head(features) for site, head in zip(self._sites, heads, strict=True)}

    def _register(self) -> None:
        register(f"{self._name}.encoder", self._module("encoder"))
        for site, head in zip(self._sites, self._module("heads"), strict=True):
            register(f"{self._name}.{site.name}", head)

    def _module(self, name: str) -> Any:
        # Plain attribute access of a PyroModule would register the module once more, under another name
        return self._modules[name] if name in self._modules else getattr(self, name)


def _data_size(args: tuple[Any, ...]) -> int:
    if not args or not isinstance(args[0], Tensor) or args[0].dim() == 0:
        got = type(args[0]).__name__ if args else "no positional argument"
        raise ValueError(
            f"Expected the data as first positional argument, a tensor with a row a datum, but got {got}."
        )
    return len(args[0])


def _rows(arg: Any, size: int, indices: Any) -> Any:
    """The rows of what is data; other arguments stay whole."""
    is_data = isinstance(arg, Tensor) and arg.shape[:1] == (size,)
    return arg[indices] if is_data else arg


def _first_rows(args: tuple[Any, ...], plate: DataPlate) -> Iterator[Any]:
    # An encoder that sees subsamples only need not fit the whole data into memory
    rows = slice(plate.subsample_size)
    return (_rows(arg, _data_size(args), rows) for arg in args)


def _forget_values(trace: Trace) -> None:
    # The guide would carry the data into pickles
    latent = set(trace.stochastic_nodes)
    for name in [name for name in trace.nodes if name not in latent]:
        trace.remove_node(name)
