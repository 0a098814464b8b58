import pickle

import torch

from pyro_infomax.training import History, NonFiniteLossError


def test_survives_the_way_between_processes():
    history = History()
    history.append({"epoch": 1, "step": 3, "loss": 4.0, "seconds": 0.5})
    error = NonFiniteLossError("The loss is nan.", step=4, epoch=2, batch=(torch.ones(2),), history=history)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.step, copy.epoch) == ("The loss is nan.", 4, 2)
    assert torch.equal(copy.batch[0], torch.ones(2))
    assert copy.history.rows == history.rows
