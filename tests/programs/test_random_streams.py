import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Subset, TensorDataset

from pyro_infomax.programs import RandomStreams


class Noisy(Dataset):
    def __init__(self, generator):
        self.generator = generator

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.rand((), generator=self.generator) + index


DATA = TensorDataset(torch.arange(5.0))
SOURCES = {
    "loader": lambda g: DataLoader(DATA, shuffle=True, generator=g),
    "sampler": lambda g: DataLoader(DATA, sampler=RandomSampler(DATA, generator=g)),
    "batch sampler": lambda g: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=g), 2, False)
    ),
    "dataset": Noisy,
    "dataset of a loader": lambda g: DataLoader(Noisy(g)),
    "subset": lambda g: Subset(Noisy(g), range(3)),
    "part of a tuple": lambda g: (torch.ones(3), Noisy(g)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_generators_of_the_data_are_found(source):
    generator = torch.Generator().manual_seed(3)
    streams = RandomStreams(None, SOURCES[source](generator))
    stood = streams.state_dict()
    assert len(stood["generators"]) == 1
    first = torch.rand(4, generator=generator)
    streams.load_state_dict(stood)
    assert torch.equal(torch.rand(4, generator=generator), first)


def test_a_generator_that_two_share_is_one():
    generator = torch.Generator()
    streams = RandomStreams(Noisy(generator), DataLoader(DATA, shuffle=True, generator=generator))
    assert len(streams.state_dict()["generators"]) == 1


def test_the_global_stream():
    streams = RandomStreams(torch.ones(3))
    stood = streams.state_dict()
    first = torch.rand(4)
    streams.load_state_dict(stood)
    assert torch.equal(torch.rand(4), first)


def test_other_loaders_are_refused_and_nothing_moves():
    stood = RandomStreams(Noisy(torch.Generator())).state_dict()
    torch.rand(1)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="1 generators of their own but got 0"):
        RandomStreams().load_state_dict(stood)
    assert torch.equal(torch.get_rng_state(), state)
