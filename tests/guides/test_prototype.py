"""What a guide finds out about its model: the data plate and the latent sites, as a family is shown them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_infomax.guides import AmortizedGuide, InnerPlate


class Standard(nn.Module):
    """A head that learns nothing."""

    def __init__(self, event_shape):
        super().__init__()
        self.event_shape = event_shape

    def forward(self, features):
        shape = features.shape[:-1] + self.event_shape
        return dist.Normal(torch.zeros(shape), 1.0).to_event(len(self.event_shape))


class Seen(AmortizedGuide):
    """Keeps the sites that it is shown."""

    def __init__(self, model, **options):
        super().__init__(model, lambda x, *_: x.flatten(1), **options)
        self.sites = []

    def make_head(self, site, in_features):
        self.sites.append(site)
        return Standard(site.event_shape)


def frame_of(model, size=6, **options):
    """Of the data plate, as the guide makes it."""
    trace = pyro.poutine.trace(Seen(model, **options)).get_trace(torch.zeros(size, 4))
    (frame,) = trace.nodes["z"]["cond_indep_stack"]
    return frame


def sites_of(model, size=6):
    guide = Seen(model)
    guide(torch.zeros(size, 4))
    return guide.sites


def plain(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        s = pyro.sample("s", dist.Normal(z.sum(-1), 1.0))
        pyro.sample("x", dist.Normal(s[..., None], 1.0).expand([len(x), 4]).to_event(1), obs=x)


def crossed(x):
    pixels = pyro.plate("pixels", x.shape[1], dim=-1)
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pixels:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def subsampling(x):
    with pyro.plate("points", len(x), subsample_size=2) as rows:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x[rows])


def part_of_more(x):
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (plain, 6, ("data", -1, 6)),
        (crossed, 6, ("data", -2, 6)),
        (crossed, 4, ("data", -2, 4)),  # as many pixels, outside of which z is
        (subsampling, 6, ("points", -1, 2)),
    ],
)
def test_the_plate_has_the_size_of_the_data(model, size, expected):
    frame = frame_of(model, size)
    assert (frame.name, frame.dim, frame.size) == expected


def test_a_part_of_a_larger_plate_needs_plates_of_the_user():
    with pytest.raises(ValueError, match=r"= 6 around .* but got 'data' of size 100: .*create_plates="):
        frame_of(part_of_more)
    own = {"create_plates": lambda x: pyro.plate("data", 100, subsample_size=len(x), dim=-1)}
    frame = frame_of(part_of_more, **own)
    assert (frame.name, frame.size, frame.full_size) == ("data", 6, 100)


def test_latent_sites_stand_in_for_hidden_observed_ones():
    assert frame_of(pyro.poutine.block(crossed, hide=["x"])).name == "data"


def test_no_plate_is_refused():
    def model(x):
        pyro.sample(
            "x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0).expand([4]).to_event(1), obs=x[0]
        )

    with pytest.raises(ValueError, match=r"but the model has none: wrap the observed site .*pyro\.plate"):
        sites_of(model)


def test_two_plates_of_that_size_are_refused():
    def model(x):
        with pyro.plate("a", len(x), dim=-2), pyro.plate("b", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x @ x.T)

    with pytest.raises(ValueError, match=r"Expected one plate .* but got 'a' of size 6, 'b' of size 6"):
        sites_of(model)


def test_the_latent_sites_come_in_the_order_of_the_model():
    sites = sites_of(plain)
    assert [(site.name, site.event_shape) for site in sites] == [("z", (2,)), ("s", ())]
    assert sites[0].support.event_dim == 1


def test_global_latents_are_refused():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), 4]).to_event(1), obs=x)

    message = r"'loc' is global .*pyro\.poutine\.condition.*hide=\['loc'\].*AutoGuideList"
    with pytest.raises(NotImplementedError, match=message):
        sites_of(model)


def inner(x, subsample_size=None):
    cells = pyro.plate("cells", 4, subsample_size=subsample_size, dim=-1)
    with pyro.plate("data", len(x), dim=-2), cells, pyro.plate("layers", 3, dim=-3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(len(x), subsample_size or 4))


def test_further_plates_stand_from_left_to_right():
    (site,) = sites_of(inner)
    assert site.plates == (InnerPlate("layers", -3, 3), InnerPlate("cells", -1, 4))


def test_a_further_plate_that_subsamples_is_refused():
    def program(x):
        inner(x, subsample_size=2)

    with pytest.raises(NotImplementedError, match="'z' is inside plate 'cells', which subsamples"):
        sites_of(program)


def test_a_sequential_plate_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            for i in pyro.plate("layers", 2):
                pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))

    with pytest.raises(NotImplementedError, match=r"'z0' is inside the sequential plate 'layers': .*range"):
        sites_of(model)


@pytest.mark.parametrize(
    ("handler", "fn", "masked"),
    [
        (pyro.poutine.mask(mask=True), dist.Normal(0.0, 1.0), False),
        (pyro.poutine.scale(scale=1.0), dist.Normal(0.0, 1.0), False),
        (pyro.poutine.mask(mask=torch.tensor(True)), dist.Normal(0.0, 1.0), True),
        (pyro.poutine.mask(mask=False), dist.Normal(0.0, 1.0), True),
        (pyro.poutine.scale(scale=1.0), dist.Normal(0.0, 1.0).mask(torch.tensor(True)), True),
    ],
)
def test_what_the_model_masks_is_known(handler, fn, masked):
    def model(x):
        with pyro.plate("data", len(x)), handler:
            pyro.sample("z", fn)

    guide = Seen(model)
    trace = pyro.poutine.trace(guide).get_trace(torch.zeros(6, 4))
    assert [site.masked for site in guide.sites] == [masked]
    assert (trace.nodes["z"]["mask"] is not None) is masked


def test_a_model_without_latents_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x), 4]).to_event(1), obs=x)

    with pytest.raises(ValueError, match="Expected a latent site inside plate 'data' but the model has none"):
        sites_of(model)
