import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.guides import InnerPlate
from pyro_infomax.guides._prototype import DataPlate, find_data_plate, find_latent_sites


def trace_of(model, size=6):
    return pyro.poutine.trace(model).get_trace(torch.zeros(size, 4))


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
        (plain, 6, DataPlate("data", -1, None)),
        (crossed, 6, DataPlate("data", -2, None)),
        (crossed, 4, DataPlate("data", -2, None)),
        (subsampling, 6, DataPlate("points", -1, 2)),
    ],
)
def test_the_plate_has_the_size_of_the_data(model, size, expected):
    assert find_data_plate(trace_of(model, size), size) == expected


def test_a_part_of_a_larger_plate_needs_plates_of_the_user():
    trace = trace_of(part_of_more)
    with pytest.raises(ValueError, match=r"= 6 around .* but got 'data' of size 100: .*create_plates="):
        find_data_plate(trace, 6)
    assert find_data_plate(trace, 6, own_plates={"data"}) == DataPlate("data", -1, 6)


def test_latent_sites_stand_in_for_hidden_observed_ones():
    trace = trace_of(pyro.poutine.block(crossed, hide=["x"]))
    assert find_data_plate(trace, 6).name == "data"


def test_no_plate_is_refused():
    def model(x):
        pyro.sample(
            "x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0).expand([4]).to_event(1), obs=x[0]
        )

    with pytest.raises(ValueError, match=r"but the model has none: wrap the observed site .*pyro\.plate"):
        find_data_plate(trace_of(model), 6)


def test_two_plates_of_that_size_are_refused():
    def model(x):
        with pyro.plate("a", len(x), dim=-2), pyro.plate("b", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x @ x.T)

    with pytest.raises(ValueError, match=r"Expected one plate .* but got 'a' of size 6, 'b' of size 6"):
        find_data_plate(trace_of(model), 6)


def test_the_latent_sites_come_in_the_order_of_the_model():
    sites = find_latent_sites(trace_of(plain), DataPlate("data", -1, None))
    assert [(site.name, site.event_shape) for site in sites] == [("z", (2,)), ("s", ())]
    assert sites[0].support.event_dim == 1


def test_global_latents_are_refused():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), 4]).to_event(1), obs=x)

    message = r"'loc' is global .*pyro\.poutine\.condition.*hide=\['loc'\].*AutoGuideList"
    with pytest.raises(NotImplementedError, match=message):
        find_latent_sites(trace_of(model), DataPlate("data", -1, None))


def inner(x, subsample_size=None):
    cells = pyro.plate("cells", 4, subsample_size=subsample_size, dim=-1)
    with pyro.plate("data", len(x), dim=-2), cells, pyro.plate("layers", 3, dim=-3):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(len(x), subsample_size or 4))


def test_further_plates_stand_from_left_to_right():
    (site,) = find_latent_sites(trace_of(inner), DataPlate("data", -2, None))
    assert site.plates == (InnerPlate("layers", -3, 3), InnerPlate("cells", -1, 4))


def test_a_further_plate_that_subsamples_is_refused():
    def program(x):
        inner(x, subsample_size=2)

    with pytest.raises(NotImplementedError, match="'z' is inside plate 'cells', which subsamples"):
        find_latent_sites(trace_of(program), DataPlate("data", -2, None))


def test_a_sequential_plate_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            for i in pyro.plate("layers", 2):
                pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))

    with pytest.raises(NotImplementedError, match=r"'z0' is inside the sequential plate 'layers': .*range"):
        find_latent_sites(trace_of(model), DataPlate("data", -1, None))


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

    (site,) = find_latent_sites(trace_of(model), DataPlate("data", -1, None))
    assert site.masked is masked


def test_plates_of_the_user_decide_between_plates_of_one_size():
    trace = trace_of(inner, 4)
    with pytest.raises(ValueError, match="Expected one plate of full size"):
        find_data_plate(trace, 4)
    assert find_data_plate(trace, 4, own_plates={"data"}).name == "data"


def test_a_model_without_latents_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x), 4]).to_event(1), obs=x)

    with pytest.raises(ValueError, match="Expected a latent site inside plate 'data' but the model has none"):
        find_latent_sites(trace_of(model), DataPlate("data", -1, None))


def test_a_plate_is_made_for_any_size():
    whole, part = DataPlate("a", -2, None).create(7), DataPlate("b", -1, 5).create(3)
    assert (whole.size, whole.subsample_size, whole.dim) == (7, 7, -2)
    assert (part.size, part.subsample_size) == (3, 3)
    assert DataPlate("c", -1, 5).create(9).subsample_size == 5
