"""Damaged checkpoints, and states that cannot be: the one before, or the run begins again."""

import json
import random
import shutil

import pytest
import torch
from conftest import REPO
from injected import faults
from safetensors.torch import load_file, save_file

import knobs
from knobs import record
from knobs.codec import decode, encode
from knobs.errors import CheckpointError
from knobs.training import checkpoint, session, stored

OLD = REPO / "tests" / "old" / "681e2c3" / "killed"
SMALL = ["model.width=4", "training.batch_size=512"]


@pytest.fixture
def half(train, tmp_path, monkeypatch):
    """The folder of a run interrupted in its third of five epochs, with two checkpoints of each."""
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    step = session.Screen.step

    def stop(screen, run):
        step(screen, run)
        if run.progress.step == 8:
            session.signal.raise_signal(session.signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(session.Screen, "step", stop)
        assert train(*SMALL, "training.epochs=5").exit_code == 143
    return tmp_path / "run"


def flipped(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def same(a, b):
    """Two states hold the same tensors."""
    flat = {}, {}
    texts = [json.dumps(encode(one, tensors)) for one, tensors in zip((a, b), flat, strict=True)]
    return texts[0] == texts[1] and all(t.equal(flat[1][name]) for name, t in flat[0].items())


def refused_or_same(place, name, before):
    """A file is refused by its name, or what is read of it is as before."""
    try:
        if name != checkpoint.BEST:
            return same(checkpoint.load_last(place), before)
        state = knobs.load(place.parent).state_dict()
    except CheckpointError as error:
        return name in str(error)
    return all(w.equal(state[key]) for key, w in before.items())


@faults(
    "a flipped bit of a checkpoint", "the one before takes its place, or it is refused", 128, 4096
)
def test_no_flipped_bit_is_believed(cases, half, tried):
    draw, place = random.Random(cases), half / "checkpoints"
    whole = {name: (place / name).read_bytes() for name in (checkpoint.LAST, checkpoint.BEST)}
    for name, data in whole.items():
        for other in place.glob("*.safetensors"):
            other.unlink()
        for _ in range(cases // 4):
            (place / name).write_bytes(flipped(data, draw))
            read = checkpoint.load_last if name == checkpoint.LAST else knobs.load
            with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
                read(place if name == checkpoint.LAST else half)
            tried()
    old = half.parent / "old"
    shutil.copytree(OLD, old)
    place = old / "checkpoints"
    before, weights = checkpoint.load_last(place), knobs.load(old).state_dict()
    for name in (checkpoint.LAST_OF_SCHEMA_1, checkpoint.BEST):  # which have no digest
        data = (place / name).read_bytes()
        for _ in range(cases // 4):
            (place / name).write_bytes(flipped(data, draw))
            assert refused_or_same(place, name, weights if name == checkpoint.BEST else before)
            tried()
        (place / name).write_bytes(data)


def edit(state, path, value):
    part, _, rest = path.partition(".")
    tensors = part in ("model", "best_weights") and rest  # whose names have dots
    *parents, last = [part, rest] if tensors else path.split(".")
    for key in parents:
        state = state[int(key) if key.isdecimal() else key]
    if value is None:
        del state[last]
    else:
        state[last] = value


EDITS = {
    "progress.epoch": [-5, 1.5, True, "3", 10**9],
    "progress.best_epoch": [99, -1, 0],
    "progress.step": [3, -1, float("nan")],
    "progress.batch": [10**6],
    "progress.loss_sum": [float("nan"), "x"],
    "progress.best": [float("inf"), "0.9"],
    "progress.pending": [[[1.0]], [[float("nan"), 3]], 3],
    "progress.nothing": [1],
    "optimizer.state.0.step": [torch.tensor(float("nan")), torch.tensor(-1.0)],
    "optimizer.state.0.exp_avg": [torch.zeros(3), torch.full((4, 64), float("nan")), None],
    "optimizer.state.0.momentum_buffer": [torch.zeros(4, 64)],
    "optimizer.param_groups.0.lr": [float("nan"), -1.0, "1"],
    "optimizer.param_groups.0.eps": [1.0, None],
    "optimizer.param_groups.0.momentum": [0.9],
    "optimizer.param_groups": [[], 3],
    "scheduler.last_epoch": [-3, 99],
    "scheduler.T_max": [10],
    "model.hidden.0.weight": [torch.zeros(3), torch.zeros(4, 64).double(), 3, None],
    "best_weights.hidden.0.weight": [torch.full((4, 64), float("inf")), None],
    "best_weights": [{}, []],
    "average": [{}],
}
IMPOSSIBLE = [(path, value) for path, values in EDITS.items() for value in values]


@faults("a state that cannot be", "refused with file and field; exit code 4", len(IMPOSSIBLE))
def test_a_whole_file_with_an_impossible_state_is_refused(cases, half, make_run, tried):
    place, run = half / "checkpoints", make_run(*SMALL, "training.epochs=5")
    whole = checkpoint.load_last(place)
    stored.fits(run, whole)
    for path in (*place.glob("last*"), place / checkpoint.MANIFEST):
        path.unlink()
    for path, value in IMPOSSIBLE[:cases]:
        tensors = {}
        node = encode(whole, tensors)
        state = decode(json.loads(json.dumps(node)), {k: t.clone() for k, t in tensors.items()})
        edit(state, path, value)
        broken = {}
        about = {"state": encode(state, broken), "epoch": 2}
        checkpoint._write(place, checkpoint.LAST, broken, about, sync=False)
        with pytest.raises(CheckpointError) as error:
            checkpoint.resume(run, place)
        field = path.rpartition(".")[0] if value is None else path
        assert f"{checkpoint.LAST}: " in str(error.value)
        assert field.split(".")[0] in str(error.value), error.value
        assert field.split(".")[-1] in str(error.value), error.value
        assert not isinstance(error.value, checkpoint.NoCheckpoint)
        tried()


def test_the_state_of_every_other_optimizer_is_refused(make_run):
    """Each optimizer takes its own state after three steps, and that of no other."""
    names = ["adam", "radam", "adamw", "muon", "sgd", "adagrad", "lbfgs", "adafactor"]
    runs = {}
    for name in names:
        run = runs[name] = make_run(*SMALL, f"optimizer={name}")
        for batch in list(session.loop.epoch_batches(run))[:3]:
            session.loop.train_step(run, *batch)
        run.progress.batch = 3
    states = {name: checkpoint.snapshot(run) for name, run in runs.items()}
    for name in names:
        run = make_run(*SMALL, f"optimizer={name}")
        stored.fits(run, states[name])
        for other in set(names) - {name}:
            with pytest.raises(CheckpointError, match="optimizer"):
                stored.fits(run, states[name] | {"optimizer": states[other]["optimizer"]})


def hostile(place, name):
    """Contents that nothing of knobs wrote, of any file of the folder."""
    data = (place / name).read_bytes()
    size = int.from_bytes(data[:8], "little")
    yield from (b"", b"{}", b"null", b"[]", b"\xff" * 64, b"[" * 100_000, data[: len(data) // 2])
    yield (2**62).to_bytes(8, "little") + data[8:]
    if name != checkpoint.MANIFEST:
        header = json.loads(data[8 : 8 + size])
        for about in ("3", "null", "[]", '{"digest": 3}', '{"digest": ""}', "[" * 100_000, "{}"):
            said = json.dumps(header | {"__metadata__": {"knobs": about}}).encode()
            yield len(said).to_bytes(8, "little") + said + data[8 + size :]
        for said in (b"3", b'{"__metadata__": 3}', b"[]"):
            yield len(said).to_bytes(8, "little") + said
    else:
        yield from (b'{"files": 3}', b'{"files": {"a": 3}}', b'{"files": {"a": {"sha256": []}}}')


@faults("a hostile file in checkpoints/", "no traceback; exit code 4, or others serve", 3)
def test_hostile_files_are_refused_by_name(cases, half, tried):
    place = half / "checkpoints"
    for name in (checkpoint.BEST, checkpoint.LAST, checkpoint.MANIFEST)[:cases]:
        whole = {path: path.read_bytes() for path in place.iterdir()}
        for data in hostile(place, name):
            if name != checkpoint.MANIFEST:  # beside which files tell by themselves
                for path in place.glob("*.safetensors"):
                    path.unlink()
            (place / name).write_bytes(data)
            if name == checkpoint.MANIFEST:
                assert checkpoint.load_last(place)["progress"]["epoch"] == 2
                assert knobs.load(half)
            else:
                for read in (knobs.load, lambda run: checkpoint.load_last(run / "checkpoints")):
                    with pytest.raises(CheckpointError) as error:
                        read(half)
                    assert error.value.exit_code == 4
            tried()
            for path, content in whole.items():
                path.write_bytes(content)


@pytest.mark.parametrize("change", [
    {"shape": {"input": [1, 8, 8], "outputs": -1}}, {"shape": 3}, {"members": 10**9},
    {"members": "2"}, {"config": 3}, {"config": {"model": {"_target_": "os.system"}}},
])  # fmt: skip
def test_a_signed_file_that_describes_no_network_is_refused(change, half):
    place = half / "checkpoints"
    weights = load_file(place / checkpoint.BEST)
    raw = (place / checkpoint.BEST).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    about = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["knobs"])
    del about["digest"]
    for path in place.iterdir():
        path.unlink()
    checkpoint.save_best(place, weights, about)
    assert knobs.load(half)
    checkpoint.save_best(place, weights, about | change)
    (place / "best.previous.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        knobs.load(half)
    save_file(weights, place / checkpoint.BEST)
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        knobs.load(half)


def test_with_both_generations_damaged_a_run_begins_again(half, train, capsys):
    rows = record.read_metrics(half)
    for path in (half / "checkpoints").glob("last*"):
        path.write_bytes(path.read_bytes()[:-7])
    ended = train(*SMALL, "training.epochs=5", f"resume={half}")
    told = capsys.readouterr().err
    assert "last.safetensors: " in told
    assert "last.previous.safetensors: " in told
    assert told.endswith("; the run begins again at its first step\n")
    assert ended.status == "finished"
    again = record.read_metrics(half)
    assert [row["epoch"] for row in again] == [1, 2, 3, 4, 5]
    assert again[:2] == rows
    assert record.read_summary(half)["epochs"] == 5


def test_without_a_checkpoint_an_interrupted_run_begins_again(half, train, capsys):
    shutil.rmtree(half / "checkpoints")
    assert train(*SMALL, "training.epochs=5", f"resume={half}").status == "finished"
    assert "the run kept no checkpoint to resume from" in capsys.readouterr().err
    shutil.rmtree(half / "checkpoints")
    with pytest.raises(CheckpointError, match="kept no checkpoint"):  # it has ended: it stays
        train(*SMALL, "training.epochs=5", f"resume={half}")
    assert record.read_summary(half)["status"] == "finished"


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_sweep_begins_a_run_again_whose_checkpoints_are_damaged(
    launcher, sweep, at_epoch, tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    number = session.signal.SIGTERM
    at_epoch(2, lambda: session.signal.raise_signal(number))
    words = ["sweep=s", "seed=0,1", "training.epochs=3", *SMALL, f"hydra/launcher={launcher}"]
    assert sweep(*words)[0] == 143
    run = tmp_path / "outputs" / "sweeps" / "s" / "0"
    assert record.ended(run).status == "interrupted"
    for path in (run / "checkpoints").glob("last*"):
        path.write_bytes(b"\0" * 999)
    code, told = sweep(*words)
    assert code == 0, told
    assert "begins again at its first step" in told
    for path in run.parent.glob("[01]"):
        assert record.ended(path).status == "finished"
        assert [row["epoch"] for row in record.read_metrics(path)] == [1, 2, 3]
