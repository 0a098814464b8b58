import os
import pickle
from threading import Thread

import pytest
import torch

from pyro_infomax.training._checkpoint import read_checkpoint, remove_leftovers, write_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.pt"


def test_what_is_read_is_what_was_written(path):
    write_checkpoint(path, {"step": 3, "weights": torch.arange(3)})
    content = read_checkpoint(path)
    assert content["step"] == 3
    assert torch.equal(content["weights"], torch.arange(3))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [{"step": lambda: 3}, {"step": os}])
def test_an_error_leaves_the_last_good_file_and_nothing_else(path, content):
    write_checkpoint(path, {"step": 3})
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        write_checkpoint(path, content)
    assert read_checkpoint(path)["step"] == 3
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_at_each_moment_there_is_a_whole_file(path):
    """A reader meets the content of one writing or of the next, and each as a whole."""

    def content(number):
        return {"first": number, "weights": torch.full((20_000,), number), "last": number}

    write_checkpoint(path, content(0))
    writer = Thread(target=lambda: [write_checkpoint(path, content(number)) for number in range(1, 30)])
    writer.start()
    seen = []
    while writer.is_alive() or not seen:
        read = read_checkpoint(path)
        seen.append(read["first"])
        assert read["first"] == read["last"]
        assert bool((read["weights"] == read["first"]).all())
    writer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


def test_every_truncation_is_noticed(path):
    write_checkpoint(path, {"weights": torch.arange(5)})
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"training\.pt to be a checkpoint of fit but it"):
            read_checkpoint(path)


def test_leftovers_are_those_of_this_file(path):
    names = [".training.pt.12.tmp", ".training.pt.12.tmp.gz", ".other.pt.12.tmp", "training.pt"]
    for name in names:
        path.with_name(name).touch()
    remove_leftovers(path)
    assert {file.name for file in path.parent.iterdir()} == set(names[1:])
