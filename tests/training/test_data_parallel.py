"""Training through a Fabric of one device; tests/test_two_processes.py has two processes."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.training import fit

Fabric = pytest.importorskip("lightning_fabric").Fabric
# Fabric's plugins for another precision ask torch for what it announces to drop
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def one_device(**kwargs):
    return Fabric(accelerator="cpu", devices=1, **kwargs)


def parameters() -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def captured(svi: SVI) -> SVI:
    return CapturedSVI(svi.model, svi.guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), svi.loss.__self__)


@pytest.mark.parametrize("kind", [lambda svi: svi, captured], ids=["svi", "captured"])
def test_one_device_trains_as_no_fabric_does_to_the_bit(make_svi, data, kind):
    found = []
    for fabric in (None, one_device()):
        history = fit(
            kind(make_svi()),
            data,
            epochs=4,
            batch_size=4,
            validation=data,
            progress=False,
            fabric=fabric,
            seed=0,
        )
        found.append((parameters(), history.to_frame().drop(columns="seconds")))
    assert found[0][0].keys() == found[1][0].keys()
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())
    assert found[0][1].equals(found[1][1])


def test_batches_go_to_the_device(make_svi, data):
    moved = []
    fabric = one_device()
    place = fabric.to_device
    fabric.to_device = lambda tensor: moved.append(len(tensor)) or place(tensor)
    fit(make_svi(), data, epochs=1, batch_size=4, progress=False, fabric=fabric)
    assert moved == [4, 4, 2]


def test_mixed_precision_reaches_the_programs():
    seen = set()
    network = torch.nn.Linear(3, 3).float()

    def model(x: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            mean = network(x)
            seen.add(mean.dtype)
            pyro.sample("x", dist.Normal(mean.float(), 1.0).to_event(1), obs=x)

    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    x = torch.randn(8, 3, dtype=torch.float32)
    fit(svi, x, epochs=1, validation=x, progress=False, fabric=one_device(precision="bf16-mixed"))
    assert seen == {torch.bfloat16}
    assert network.weight.dtype == torch.float32


def test_a_precision_that_converts_modules_is_refused(make_svi, data):
    with pytest.raises(NotImplementedError, match="A Fabric of precision 'bf16-true'"):
        fit(make_svi(), data, epochs=1, progress=False, fabric=one_device(precision="bf16-true"))


def test_what_is_no_fabric_is_refused(make_svi, data):
    with pytest.raises(ValueError, match="Expected fabric to be a Fabric of Lightning's but got str"):
        fit(make_svi(), data, epochs=1, progress=False, fabric="ddp")


def test_two_processes_that_were_not_launched_are_refused(make_svi, data):
    with pytest.raises(ValueError, match=r"call fabric\.launch"):
        fit(make_svi(), data, epochs=1, progress=False, fabric=Fabric(accelerator="cpu", devices=2))
