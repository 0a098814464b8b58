"""Which sites count once a datum, and which once a batch, however many processes share it."""

import pyro
import pytest
import torch
from pyro import distributions as dist, poutine
from torch import Tensor

from pyro_infomax.training._distributed import DataPlates, DataShareMessenger

ROWS = 6


def model(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", torch.tensor(-1.0))
    with pyro.plate("topics", 3):
        pyro.sample("topic", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)), poutine.scale(scale=2.0):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)
    with pyro.plate("sub", 60, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(w, 1.0), obs=x)
    for n in pyro.plate("rows", len(x)):
        pyro.sample(f"r_{n}", dist.Normal(w, 1.0), obs=x[n])
    pyro.deterministic("twice", 2 * w)


def guide(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("topics", 3):
        pyro.sample("topic", dist.Normal(0.0, 1.0))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS)


def test_plates_of_the_data_are_found_by_their_size(x):
    plates = DataPlates(model, guide, (x,))
    assert plates.whole == {"data", "rows"}
    assert set(plates.outside) == {"w", "penalty", "topic"}


def test_one_row_is_enough_to_find_them(x):
    assert DataPlates(model, guide, (x[:1],)).whole == {"data", "rows"}


def test_a_plate_of_fixed_size_is_none_though_it_has_as_many_rows(x):
    assert "topics" not in DataPlates(model, guide, (x[:3],)).whole


@pytest.mark.parametrize(
    ("site", "scale"), [("w", 0.25), ("penalty", 0.25), ("topic", 0.25), ("x", 2.0), ("y", 2.5), ("r_0", 1.0)]
)
def test_scales(x, site, scale):
    with DataShareMessenger(DataPlates(model, guide, (x,)).whole, share=0.25):
        trace = poutine.trace(model).get_trace(x)
    assert trace.nodes[site]["scale"] == pytest.approx(scale)


def test_shares_of_parts_make_up_the_whole(x):
    """The log-density of a batch is the sum over its parts, each weighed by its share."""

    def log_prob(part: Tensor, values: dict[str, Tensor]) -> Tensor:
        with DataShareMessenger({"data", "rows"}, share=len(part) / ROWS):
            return poutine.trace(poutine.condition(model, values)).get_trace(part).log_prob_sum()

    values = {"w": torch.tensor(0.3), "topic": torch.randn(3)}
    whole = log_prob(x, values)
    parts = sum(log_prob(part, values) for part in x.split([1, 3, 2]))
    assert float(parts) == pytest.approx(float(whole), abs=1e-12)


def test_the_share_of_all_changes_nothing(x):
    with DataShareMessenger({"data"}, share=1.0):
        trace = poutine.trace(model).get_trace(x)
    assert trace.nodes["w"]["scale"] == 1.0


def test_a_recording_knows_the_share():
    one, other = (DataShareMessenger({"data"}, share=share).capture_key for share in (0.5, 0.4))
    assert one != other
    assert hash(one) == hash(DataShareMessenger({"data"}, share=0.5).capture_key)


def without_plate(x: Tensor) -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), obs=x)


def factor_of_data(x: Tensor) -> None:
    pyro.factor("likelihood", -(x**2).sum())


@pytest.mark.parametrize(("program", "site"), [(without_plate, "x"), (factor_of_data, "likelihood")])
def test_data_outside_of_a_plate_are_refused(x, program, site):
    with pytest.raises(NotImplementedError, match=f"The site '{site}' is in no plate of the data's size"):
        DataPlates(program, lambda x: None, (x,))


def test_a_weight_that_scales_each_batch_up_to_all_data_is_refused(x):
    def scaled(x: Tensor) -> None:
        with poutine.scale(scale=60 / len(x)), pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"The site 'x' .* subsample_size"):
        DataPlates(scaled, lambda x: None, (x,))


def test_a_guide_that_infers_what_all_data_share_from_a_batch_is_refused(x):
    def amortised(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(x.mean(), 1.0))
        with pyro.plate("topics", 3):
            pyro.sample("topic", dist.Normal(0.0, 1.0))

    with pytest.raises(NotImplementedError, match="The site 'w'"):
        DataPlates(model, amortised, (x,))


def test_looking_leaves_parameters_without_gradients(x):
    def stated(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    DataPlates(stated, lambda x: None, (x,))
    assert pyro.param("loc").unconstrained().grad is None
