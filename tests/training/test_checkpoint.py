"""What a user meets: files that are written, refused and resumed from, and processes that are killed."""

import copy
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter, OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import constraints
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_infomax.capture import FusedOptim
from pyro_infomax.training import BestWeights, Checkpoint, EarlyStopping, ScalarLogger, fit

HERE = Path(__file__).parent
SILENT = {"progress": False, "batch_size": 5}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.pt"


def parameters():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}


def is_same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def content(path):
    return torch.load(path, weights_only=True)


def rows(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_eight_kills_change_nothing(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", HERE / "kill_driver.py", tmp_path, "8"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    ending = json.loads(done.stdout)
    assert ending["killed"] == 8
    assert ending["killed while writing"] >= 2
    assert ending["ended"]
    assert ending["same"]
    assert ending["left in the folder"] == ["training.pt"]


# -- when there is a file, and when there is none --------------------------------------------------


def test_the_same_command_line_works_always(make_svi, data, path):
    fit(make_svi(), data, epochs=3, seed=0, **SILENT)
    expected = parameters()
    for _ in range(3):
        fit(make_svi(), data, epochs=3, seed=0, checkpoint=path, resume=True, **SILENT)
        assert is_same(parameters(), expected)


def test_a_file_is_not_overwritten(make_svi, data, path):
    path.write_text("a year of work")
    svi = make_svi()
    with pytest.raises(ValueError, match=r"no file .*training\.pt.* pass resume=True"):
        fit(svi, data, epochs=1, checkpoint=path, **SILENT)
    assert path.read_text() == "a year of work"
    assert parameters() == {}


def test_resume_needs_a_checkpoint(make_svi, data):
    with pytest.raises(ValueError, match="Expected a checkpoint to resume from"):
        fit(make_svi(), data, epochs=1, resume=True, **SILENT)


def test_folders_are_made(make_svi, data, tmp_path):
    path = tmp_path / "runs" / "today" / "training.pt"
    fit(make_svi(), data, epochs=1, checkpoint=str(path), **SILENT)
    assert path.is_file()


def test_leftovers_of_killed_trainings_are_removed(make_svi, data, path):
    others = [".other.pt.12.tmp", ".training.pt.1.123.tmp", ".training.pt.12.tmp.gz"]
    for name in [".training.pt.123.tmp", *others]:
        path.with_name(name).write_bytes(b"half")
    fit(make_svi(), data, epochs=1, checkpoint=path, **SILENT)
    assert sorted(file.name for file in path.parent.iterdir()) == [*others, path.name]


# -- how far ---------------------------------------------------------------------------------------


def test_a_finished_training_returns_at_once(make_svi, data, path, capsys):
    first = fit(make_svi(), data, epochs=3, checkpoint=path, **SILENT)
    ended, written = parameters(), path.stat().st_mtime_ns
    state = torch.get_rng_state()
    svi = make_svi()
    svi.step = None
    again = fit(svi, data, epochs=3, checkpoint=path, resume=True, **SILENT | {"progress": True})
    assert "3/3" in capsys.readouterr().err
    assert again.rows == first.rows
    assert is_same(parameters(), ended)
    assert torch.equal(torch.get_rng_state(), state)
    assert path.stat().st_mtime_ns == written


def test_more_epochs_go_on_as_if_asked_for_in_the_first_place(make_svi, data, path):
    callback = {"callbacks": [BestWeights("loss")]}
    expected = fit(make_svi(), data, epochs=6, **callback, **SILENT)
    ended = parameters()
    torch.manual_seed(0)
    fit(make_svi(), data, epochs=2, checkpoint=path, **callback, **SILENT)
    torch.rand(7)
    history = fit(make_svi(), data, epochs=6, checkpoint=path, resume=True, **callback, **SILENT)
    assert rows(history) == rows(expected)
    assert is_same(parameters(), ended)


def test_more_epochs_go_on_from_the_last_parameters_not_from_the_best(make_svi, data, path):
    def stopping():
        # Nothing is an improvement on the first epoch
        return {"callbacks": [EarlyStopping(9, monitor="loss", min_delta=1e9)]}

    expected = fit(make_svi(), data, epochs=5, **stopping(), **SILENT)
    torch.manual_seed(0)
    fit(make_svi(), data, epochs=2, checkpoint=path, **stopping(), **SILENT)
    torch.rand(7)
    history = fit(make_svi(), data, epochs=5, checkpoint=path, resume=True, **stopping(), **SILENT)
    assert rows(history) == rows(expected)


def test_early_stopping_is_not_undone_by_more_epochs(make_svi, data, path):
    def arguments():
        return {"callbacks": [EarlyStopping(1, monitor="loss", min_delta=1e9)], "checkpoint": path} | SILENT

    first = fit(make_svi(), data, epochs=5, **arguments())
    best = parameters()
    again = fit(make_svi(), data, epochs=9, resume=True, **arguments())
    assert (len(again), again.stopped) == (2, first.stopped)
    assert is_same(parameters(), best)


@pytest.mark.parametrize("epochs", [1, 2])
def test_fewer_epochs_return_what_is_there(make_svi, data, path, epochs):
    """Also if it is in the middle of an epoch."""
    svi = make_svi()
    step, left = svi.step, iter(range(5))

    def stopping(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(*args)

    svi.step = stopping
    with pytest.raises(KeyboardInterrupt):
        fit(svi, data, epochs=4, checkpoint=Checkpoint(path, every_steps=1), **SILENT)
    stood, written = parameters(), path.read_bytes()
    with pytest.warns(UserWarning, match=rf"got to epoch 3, further than the {epochs} epochs"):
        history = fit(make_svi(), data, epochs=epochs, checkpoint=path, resume=True, **SILENT)
    assert len(history) == 2
    assert is_same(parameters(), stood)
    assert path.read_bytes() == written


# -- what a file is refused for --------------------------------------------------------------------


@pytest.fixture
def kept(make_svi, data, path):
    """A path with a checkpoint."""
    fit(make_svi(), data, epochs=2, seed=1, checkpoint=path, **SILENT)
    return path


def refused(svi, data, path, message, **changes):
    """Whether fit refuses the file and leaves everything alone."""
    before, file = parameters(), path.read_bytes()
    moments = str(svi.optim.get_state())
    modules = [value.clone() for value in svi.guide.__self__.state_dict().values()]
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        fit(svi, data, **({"epochs": 2, "seed": 1, "checkpoint": path, "resume": True} | SILENT | changes))
    assert path.read_bytes() == file
    assert all(torch.equal(value, parameters()[name]) for name, value in before.items())
    now = svi.guide.__self__.state_dict().values()
    assert all(torch.equal(*pair) for pair in zip(modules, now, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert str(svi.optim.get_state()) == moments


class Code:
    def __reduce__(self):
        return os.system, ("echo ran code",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "its end is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "its end is missing"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_text("epoch,loss"), "it is no file that torch.save writes"),
        (lambda path: torch.save(Code(), path), "it holds other objects, which are not loaded"),
        (lambda path: torch.save(Code(), path, _use_new_zipfile_serialization=False), "it is no file that"),
        (lambda path: torch.save(torch.ones(3), path), "it holds a Tensor"),
        (
            lambda path: torch.save(torch.nn.Linear(1, 1).state_dict(), path),
            "it holds a OrderedDict with the keys 'weight', 'bias'",
        ),
        (
            lambda path: torch.save({"format": "pyro_infomax training", "version": 9}, path),
            "version 1 but it is of version 9",
        ),
    ],
)
def test_a_file_that_is_no_checkpoint(make_svi, data, kept, spoil, message, capfd):
    spoil(kept)
    refused(make_svi(), data, kept, f"training.pt to be a checkpoint .*{message}")
    assert "ran code" not in capfd.readouterr().out


def test_every_truncation_is_noticed(make_svi, data, kept):
    whole = kept.read_bytes()
    for length in range(0, len(whole), len(whole) // 30):
        kept.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"training\.pt to be a checkpoint of fit but it"):
            fit(make_svi(), data, epochs=2, seed=1, checkpoint=kept, resume=True, **SILENT)


def test_a_damaged_file(make_svi, data, kept):
    """A bit in the values of a tensor."""
    damaged = bytearray(kept.read_bytes())
    loaded = content(kept)["programs"]["parameters"]["encoder$$$weight"]
    damaged[damaged.index(loaded.numpy().tobytes())] ^= 1
    kept.write_bytes(bytes(damaged))
    refused(make_svi(), data, kept, "it is damaged in its record")


GONE = object()
NAN = torch.tensor(torch.nan)


def changed(path, value):
    """A forgery: the entry at a path, such as ``"history/rows/0"``, is replaced or taken away."""

    def forge(content):
        *way, last = (int(key) if key.isdecimal() else key for key in path.split("/"))
        for key in way:
            content = content[key]
        if value is GONE:
            del content[last]
        else:
            content[last] = value(content[last]) if callable(value) else value

    # alike in all processes of a test run, which the address of a function is not
    named = "gone" if value is GONE else "changed" if callable(value) else value
    return pytest.param(forge, id=f"{path}={named}"[:40])


WEIGHT = "programs/parameters/encoder$$$weight"
KEPT = "optimizer/encoder$$$weight"
PARTS = (
    "setting programs stated_at_first optimizer objective svi callbacks step history streams part last_good"
)
FORGERIES = [
    *(changed(part, GONE) for part in PARTS.split()),
    *(changed(part, 3.5) for part in PARTS.split()),
    changed("version", GONE),
    changed("setting/seed", GONE),
    changed("setting/optimizer", "PyroOptim of SGD"),
    changed(WEIGHT, GONE),
    changed(WEIGHT, "a word"),
    changed(WEIGHT, lambda tensor: tensor * NAN),
    changed(WEIGHT, lambda tensor: tensor / 0),
    changed(WEIGHT, lambda tensor: tensor.float()),
    changed(WEIGHT, lambda tensor: tensor[:1]),
    changed("programs/buffers", GONE),
    changed("programs/others", {}),
    changed("stated_at_first", ["encoder$$$weight", "another"]),
    changed("stated_at_first", [3]),
    changed(KEPT, GONE),
    changed(KEPT, {}),
    changed(f"{KEPT}/param_groups", []),
    changed(f"{KEPT}/param_groups/0/lr", "fast"),
    changed(f"{KEPT}/param_groups/0/lr", torch.nan),
    changed(f"{KEPT}/param_groups/0/lr", -0.1),
    changed(f"{KEPT}/param_groups/0/betas", GONE),
    changed(f"{KEPT}/state", 3),
    changed(f"{KEPT}/state/0/exp_avg", GONE),
    changed(f"{KEPT}/state/0/exp_avg", lambda tensor: tensor * NAN),
    changed(f"{KEPT}/state/0/exp_avg", lambda tensor: tensor[:1]),
    changed(f"{KEPT}/state/0/exp_avg_sq", "a word"),
    changed(f"{KEPT}/state/0/step", -3),
    changed("objective", {}),
    changed("objective/step", -1),
    changed("objective/step", "a word"),
    changed("objective", None),
    changed("svi", {"step": 3}),
    changed("callbacks", []),
    changed("callbacks/0", lambda pair: ("EarlyStopping", pair[1])),
    changed("callbacks/0", lambda pair: (pair[0], {})),
    changed("callbacks/0", lambda pair: (pair[0], pair[1] | {"best": {"parameters": 3, "buffers": {}}})),
    changed("callbacks/0", lambda pair: (pair[0], pair[1] | {"monitor": {"column": "loss", "cost": 0.0}})),
    changed("step", -1),
    changed("step", 10**6),
    changed("step", True),
    changed("history/rows", lambda rows: rows[::-1]),
    changed("history/rows", lambda rows: rows * 2),
    changed("history/rows/0/loss", "a word"),
    changed("history/rows/0", {}),
    changed("history/stopped", 3),
    changed("streams", []),
    changed("streams", lambda streams: streams * 2),
    changed("streams/0", {}),
    changed("streams/0/cpu", lambda state: state[:-1]),
    changed("streams/0/cpu", lambda state: state.float()),
    changed("streams/0/generators", lambda _: [torch.get_rng_state()]),
    changed("part", [{"taken": 1}]),
    changed("last_good", {"parameters": {}, "buffers": {}}),
]


HONEST = {}


@pytest.fixture
def honest(make_svi, data, tmp_path):
    """What a checkpoint holds."""
    if not HONEST:
        path = tmp_path / "honest.pt"
        fit(make_svi(), data, epochs=2, seed=1, checkpoint=path, callbacks=[BestWeights("loss")], **SILENT)
        HONEST.update(content(path))
    return HONEST


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_checkpoint_changes_nothing(make_svi, data, path, honest, forge):
    forged = copy.deepcopy(honest)
    forge(forged)
    torch.save(forged, path)
    svi, best = make_svi(), BestWeights("loss")
    before = {name: tensor.clone() for name, tensor in svi.guide.__self__.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"^Expected "):
        fit(svi, data, epochs=3, seed=1, checkpoint=path, resume=True, callbacks=[best], **SILENT)
    assert is_same(svi.guide.__self__.state_dict(), before)
    assert not parameters()
    assert svi.optim.get_state() == {}
    assert best.epoch == 0
    assert torch.equal(torch.get_rng_state(), state)
    # An honest one is taken up afterwards as if there had been no other
    torch.save(honest, path)
    history = fit(svi, data, epochs=2, seed=1, checkpoint=path, resume=True, callbacks=[best], **SILENT)
    assert history.rows == honest["history"]["rows"]


def test_a_link_stays_and_leads_to_the_new_file(make_svi, data, tmp_path):
    link, file = tmp_path / "latest.pt", tmp_path / "far" / "training.pt"
    link.symlink_to(file)
    fit(make_svi(), data, epochs=1, checkpoint=link, **SILENT)
    fit(make_svi(), data, epochs=2, checkpoint=link, resume=True, **SILENT)
    assert link.is_symlink()
    assert len(content(file)["history"]["rows"]) == 2


def test_a_link_to_itself_is_refused(tmp_path):
    link = tmp_path / "loop.pt"
    link.symlink_to(link)
    with pytest.raises(ValueError, match=r"loop\.pt is a link that leads to itself"):
        Checkpoint(link)


def test_a_folder(make_svi, data, tmp_path):
    with pytest.raises(ValueError, match=r"Expected the path of a file but .* is a folder"):
        fit(make_svi(), data, epochs=1, checkpoint=tmp_path, **SILENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "batch_size to be 5, as in the checkpoint .*, but got 4"),
        ({"batch_size": None}, "batch_size to be 5, .*, but got None"),
        ({"seed": 2}, "seed to be 1, .* but got 2"),
        ({"seed": None}, "seed to be 1, .* but got None"),
        ({"data": torch.zeros(9, 3)}, r"len\(data\) to be 10, .* but got 9"),
        ({"validation": torch.zeros(4, 3)}, r"len\(validation\) to be None, .* but got 4"),
        ({"callbacks": [BestWeights("loss")]}, r"callbacks whose states .* holds, \[\], but got \['BestW"),
    ],
)
def test_another_training(make_svi, data, kept, change, message):
    refused(make_svi(), change.pop("data", data), kept, message, **change)


@pytest.mark.parametrize(
    ("optim", "name"),
    [
        (pyro.optim.ClippedAdam({}), "PyroOptim of ClippedAdam"),
        (FusedOptim(torch.optim.Adam, {"lr": 0.1}), "FusedOptim of Adam"),
        (
            pyro.optim.StepLR({"optimizer": torch.optim.Adam, "optim_args": {}, "step_size": 2}),
            "PyroLRScheduler of Adam",
        ),
    ],
)
def test_another_optimizer(make_svi, data, kept, optim, name):
    svi = make_svi()
    svi.optim = optim
    refused(svi, data, kept, f"optimizer to be 'PyroOptim of Adam', .* but got '{name}'")


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize(
    ("load", "length", "batch_size"),
    [
        (lambda x: (x,), 10, 5),
        (TensorDataset, 10, 5),
        (lambda x: DataLoader(TensorDataset(x), batch_size=4), 10, 4),
        (Stream, None, 5),
        (lambda x: DataLoader(Stream(x), batch_size=4), None, 4),
    ],
)
def test_what_the_file_knows_of_the_data(make_svi, data, path, load, length, batch_size):
    fit(make_svi(), load(data), epochs=1, validation=load(data), checkpoint=path, **SILENT)
    setting = content(path)["setting"]
    assert (setting["len(data)"], setting["batch_size"]) == (length, batch_size)
    assert setting["len(validation)"] == length


def test_another_objective(make_svi, data, kept):
    refused(make_svi(Trace_ELBO()), data, kept, "objective to be 'TraceMeanField_InfoMaxELBO'")


def test_programs_with_a_parameter_more(make_svi, data, kept):
    svi = make_svi()
    model = svi.model
    svi.model = lambda x: (pyro.param("more", torch.zeros(())), model(x))
    refused(svi, data, kept, "it holds .* without 'more'")


def test_programs_with_a_parameter_less(make_svi, data, path):
    svi = make_svi()
    model = svi.model
    svi.model = lambda x: (pyro.param("more", torch.zeros(())), model(x))
    fit(svi, data, epochs=2, seed=1, checkpoint=path, **SILENT)
    refused(make_svi(), data, path, "Expected programs that state 'more', .* but they state 'encoder")


def test_programs_with_a_parameter_of_another_shape(make_svi, data, kept):
    svi = make_svi()
    svi.guide.__self__.decoder = torch.nn.Linear(2, 3, bias=False)
    svi.guide.__self__.decoder.register_parameter("bias", torch.nn.Parameter(torch.zeros(1)))
    refused(svi, data, kept, r"bias' to have shape \(1,\) .* but got \(3,\)")


def test_programs_in_another_dtype(make_svi, data, kept):
    svi = make_svi()
    svi.guide.__self__.float()
    data = data.float()
    torch.set_default_dtype(torch.float32)
    refused(svi, data, kept, "torch.float32, as the programs have it, but got .* torch.float64")


@pytest.mark.parametrize(
    "optim", [pyro.optim.Adam({"lr": 0.1}), FusedOptim(torch.optim.Adam, {"lr": 0.1})], ids=["Pyro", "fused"]
)
def test_a_refusal_leaves_parameters_and_moments_alone(make_svi, data, path, optim):
    def stepped(size):
        svi = make_svi()
        svi.optim, model = copy.deepcopy(optim), svi.model
        svi.model = lambda x: (pyro.param("more", torch.zeros(size)), model(x))
        svi.step(data)
        return svi

    fit(stepped(3), data, epochs=2, seed=1, checkpoint=path, **SILENT)
    refused(stepped(4), data, path, r"'more' to have shape \(4,\)")


def test_a_callback_that_refuses_its_state_leaves_all_as_it_was(make_svi, data, path):
    callbacks = [BestWeights("loss"), EarlyStopping(9, monitor="loss")]
    fit(make_svi(), data, epochs=2, seed=1, checkpoint=path, callbacks=callbacks, **SILENT)
    svi = make_svi()
    svi.step(data)
    best = BestWeights("loss")
    refused(svi, data, path, "watch the same column", callbacks=[best, EarlyStopping(9, monitor="rate")])
    assert best.epoch == 0


# -- what is in the file ---------------------------------------------------------------------------


class Keeps:
    """A callback with a state of its own."""

    def __init__(self, state=None):
        self.state = state

    def __call__(self, state):
        pass

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model": [torch.nn.Linear(1, 1)]}, "a Linear at 'callbacks.0.1.model.0'"),
        ({"x": np.zeros(2)}, "a ndarray at 'callbacks.0.1.x'"),
        ({"x": {len: 1}}, "a builtin_function_or_method at 'callbacks.0.1.x.<built-in function len>'"),
    ],
)
def test_what_cannot_be_kept_is_named(make_svi, data, path, state, message):
    with pytest.raises(ValueError, match=f"of the training .* plain values, .* but got {message}"):
        fit(make_svi(), data, epochs=1, checkpoint=path, callbacks=[Keeps(state)], **SILENT)
    assert not path.exists()


Pair = namedtuple("Pair", "a b")


class Mine(dict):
    pass


def test_what_is_kept_comes_back_as_plain_values(make_svi, data, path):
    kept = {
        "plain": {"a": [1, 2.5, "x", None, True], 0: (b"y",)},
        "numpy": {"best": np.float64(0.1), np.int64(3): {np.str_("x"): 1}, (1, np.float64(0.5)): 2},
        "kinds": [OrderedDict(b=1, a=2), Counter([3, 3, 5]), {1, 2}, torch.float32, float("inf")],
        "bases": [Mine(a=1), Pair(1, 2), torch.Size([2, 3])],
    }
    expected = {
        "plain": kept["plain"],
        "numpy": {"best": 0.1, 3: {"x": 1}, (1, 0.5): 2},
        "kinds": kept["kinds"],
        "bases": [{"a": 1}, (1, 2), (2, 3)],
    }
    fit(make_svi(), data, epochs=1, checkpoint=path, callbacks=[Keeps(kept)], **SILENT)
    found = Keeps()
    fit(make_svi(), data, epochs=1, checkpoint=path, resume=True, callbacks=[found], **SILENT)
    assert found.state == expected
    # equal numbers and equal mappings may be of other types
    assert repr(found.state) == repr(expected)


def test_tensors_are_kept_without_graph_and_without_the_rest_of_their_storage(make_svi, data, path):
    whole = torch.randn(100_000, requires_grad=True)
    kept = Keeps({"product": whole[:2] * 1.0, "slice": whole[3:5]})
    fit(make_svi(), data, epochs=1, checkpoint=path, callbacks=[kept], **SILENT)
    assert path.stat().st_size < 100_000
    found = Keeps()
    fit(make_svi(), data, epochs=1, checkpoint=path, resume=True, callbacks=[found], **SILENT)
    assert not any(tensor.requires_grad for tensor in found.state.values())
    assert torch.equal(found.state["slice"], whole[3:5])


def test_an_error_while_writing_leaves_the_last_good_file(make_svi, data, path):
    class Grows(Keeps):
        def __call__(self, state):
            self.state = torch.zeros(1000**state.epoch)

    fit(make_svi(), data, epochs=1, checkpoint=path, callbacks=[Grows()], **SILENT)
    good = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # as on a disk that is full
    try:
        with pytest.raises((OSError, RuntimeError)):
            fit(make_svi(), data, epochs=2, checkpoint=path, resume=True, callbacks=[Grows()], **SILENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == good
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_callback_without_a_state_may_come_and_go(make_svi, data, path):
    fit(make_svi(), data, epochs=1, checkpoint=path, callbacks=[print], **SILENT)
    fit(make_svi(), data, epochs=2, checkpoint=path, resume=True, **SILENT)


def test_seconds_add_up(make_svi, data, path):
    def slow(svi, step_seconds, steps):
        step, left = svi.step, iter(range(steps))

        def stopping(*args):
            if next(left, None) is None:
                raise KeyboardInterrupt
            time.sleep(step_seconds)
            return step(*args)

        svi.step = stopping
        return svi

    kept = Checkpoint(path, every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        fit(slow(make_svi(), 0.15, 1), data, epochs=1, checkpoint=kept, **SILENT)
    history = fit(slow(make_svi(), 0.05, 9), data, epochs=1, checkpoint=kept, resume=True, **SILENT)
    assert history["seconds"][0] > 0.2


# -- how often -------------------------------------------------------------------------------------


def small_svi():
    def model(x):
        loc = pyro.param("loc", torch.zeros(3), constraint=constraints.real)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    pyro.clear_param_store()
    return SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def writings(path, checkpoint, data, *, epochs=4, before_step=lambda: None):
    """The steps after which there is another file; seen one step later."""
    seen, svi = {}, small_svi()
    step, count = svi.step, iter(range(1000))

    def watching(*args):
        before_step()
        number = next(count)
        if path.exists():
            seen.setdefault(path.stat().st_mtime_ns, number)
        return step(*args)

    svi.step = watching
    fit(svi, data, epochs=epochs, checkpoint=checkpoint, **SILENT)
    return list(seen.values())


def test_every_so_many_steps(data, path):
    assert writings(path, Checkpoint(path, every_steps=3), data) == [3, 6]
    assert content(path)["step"] == 8


def test_every_so_many_seconds(data, path):
    assert writings(path, Checkpoint(path, every_seconds=0), data) == [1, 2, 3, 4, 5, 6, 7]
    path.unlink()
    assert writings(path, Checkpoint(path, every_seconds=1e6), data) == []
    assert content(path)["step"] == 8


def test_a_path_is_written_at_the_ends_of_epochs(data, path, clock):
    def pause():
        clock.now += 100

    # Epochs that are longer than twenty writings
    assert writings(path, path, data, epochs=3, before_step=pause) == [2, 4]


def test_writing_costs_little_of_short_epochs(data, path, clock):
    number = len(writings(path, path, data, epochs=150))
    assert 2 <= number < 75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_steps": 0}, "every_steps to be an integer >= 1 but got 0"),
        ({"every_steps": True}, "every_steps .* got True"),
        ({"every_steps": 1.0}, "every_steps .* got 1.0"),
        ({"every_seconds": -1}, "every_seconds to be a number >= 0, or None, but got -1"),
        ({"every_seconds": float("nan")}, "every_seconds .* got nan"),
        ({"every_seconds": "60"}, "every_seconds .* got '60'"),
        ({"path": 3}, "Expected the path of a checkpoint but got 3"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        Checkpoint(**({"path": "x.pt"} | arguments))


def test_logs_go_on(make_svi, data, path):
    class Writer:
        def __init__(self):
            self.steps = []

        def add_scalar(self, name, value, step):
            self.steps.append(step)

    first, second = Writer(), Writer()
    fit(make_svi(), data, epochs=2, checkpoint=path, callbacks=[ScalarLogger(first)], **SILENT)
    fit(make_svi(), data, epochs=3, checkpoint=path, resume=True, callbacks=[ScalarLogger(second)], **SILENT)
    assert max(first.steps) < min(second.steps)
