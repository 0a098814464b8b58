import warnings

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO

from pyro_infomax.programs import ProgramState
from pyro_infomax.training import ScalarLogger, TrainingState, fit


class Recorder:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.scalars = []
        self.flushed = 0

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        self.flushed += 1


def run(callback, *, epochs=3, **options):
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    pyro.clear_param_store()
    svi = SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO())
    return fit(
        svi, torch.ones(4), epochs=epochs, batch_size=2, callbacks=[callback], progress=False, **options
    )


def test_writes_each_column_at_its_step():
    recorder = Recorder()
    history = run(ScalarLogger(recorder), validation=torch.zeros(2))
    columns = ("epoch", "loss", "seconds", "validation_loss")
    expected = [(name, row[name], row["step"]) for row in history for name in columns]
    assert recorder.scalars == expected
    assert [step for _, _, step in expected[:: len(columns)]] == [2, 4, 6]


def test_prefix():
    recorder = Recorder()
    run(ScalarLogger(recorder, prefix="beta=4/"), epochs=1)
    assert [tag for tag, _, _ in recorder.scalars] == ["beta=4/epoch", "beta=4/loss", "beta=4/seconds"]


@pytest.mark.parametrize(("epochs", "written"), [(4, [2, 4]), (5, [2, 4, 5]), (1, [1])])
def test_every_so_many_epochs_and_the_last(epochs, written):
    recorder = Recorder()
    run(ScalarLogger(recorder, every=2), epochs=epochs)
    assert [value for tag, value, _ in recorder.scalars if tag == "epoch"] == written


def test_flushes_at_the_end():
    recorder = Recorder()
    run(ScalarLogger(recorder))
    assert recorder.flushed == 1


def test_serves_one_training_after_another():
    recorder = Recorder()
    logger = ScalarLogger(recorder, every=3)
    run(logger, epochs=1)
    run(logger, epochs=1)
    assert [value for tag, value, _ in recorder.scalars if tag == "epoch"] == [1, 1]


def test_writer_that_cannot_flush():
    class Plain:
        def add_scalar(self, tag, value, step):
            self.last = tag, value, step

    writer = Plain()
    history = run(ScalarLogger(writer))
    assert writer.last == ("seconds", history.rows[-1]["seconds"], 6)


@pytest.mark.parametrize(("epoch", "written"), [(3, 0), (4, 3)])
def test_state_goes_on_without_writing_an_epoch_twice(epoch, written):
    first = ScalarLogger(Recorder())
    run(first, epochs=3)
    recorder = Recorder()
    second = ScalarLogger(recorder)
    second.load_state_dict(first.state_dict())
    state = TrainingState(None, epochs=epoch, programs=ProgramState())
    state.epoch = epoch
    state.history.append({"epoch": epoch, "step": 2 * epoch, "loss": 1.0, "seconds": 0.1})
    second.finish(state)
    assert len(recorder.scalars) == written


def test_tensorboard_reads_it_back(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensorboard = pytest.importorskip("torch.utils.tensorboard")
        reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        with tensorboard.SummaryWriter(tmp_path) as writer:
            history = run(ScalarLogger(writer, prefix="toy/"))
            events = reading.EventAccumulator(str(tmp_path)).Reload()  # before the writer is closed
        found = events.Scalars("toy/loss")
    assert [event.step for event in found] == [2, 4, 6]
    assert [event.value for event in found] == pytest.approx(history["loss"].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("runs/1",), {}, r"a writer with add_scalar\(tag, value, step\) but got str, which has none"),
        ((Recorder(),), {"every": 0}, "every to be an integer >= 1 but got 0"),
        ((Recorder(),), {"every": True}, "every to be an integer >= 1 but got True"),
    ],
)
def test_wrong_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ScalarLogger(*arguments, **options)
