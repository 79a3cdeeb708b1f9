"""One run in several processes: the numbers of one, one record, one end for all."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import processes
import pytest
import torch
from conftest import TRAIN
from injected import assert_no_orphans
from PIL import Image
from ranked import differences, in_processes, steps
from torch import nn
from trained import ENV, interrupt_at, make

from knobs import record
from knobs.config import command
from knobs.config.conflicts import conflicts
from knobs.errors import ConfigError, ProcessLost
from knobs.training import loop, parallel, ranks
from knobs.training.run import execute

WINE = ["data=wine", "tracking=local"]
TEXT = ["data=python_docs", "data.max_length=12", "data.topics=4"]
TOLERANCE = 1e-9
# Each with shares that are uneven in every step; every fourth has batches smaller than processes.
CASES = [
    [*WINE, "training.batch_size=33", "regularization.dropout=0.3", "optimizer=momentum"],
    [*WINE, "training.batch_size=34", "regularization.norm=batch", "regularization.mixup=0.3",
     "regularization.l1=1e-3", "training.clip_norm=0.5", "training.gradient_accumulation_steps=3"],
    [*WINE, "loss=cross_entropy", "loss.weight=balanced", "regularization.label_smoothing=0.1",
     "training.batch_size=2", "training.ema=0.9", "training.sampler=balanced"],
    [*WINE, "training.members=2", "training.batch_size=8", "regularization.mixup=0.3",
     "regularization.dropout=0.3", "regularization.norm=batch"],
    [*TEXT, "model=text_transformer", "regularization.dropout=0.2", "training.batch_size=9"],
    ["data=diabetes", "model=tabular", "training.batch_size=2", "loss=huber", "optimizer=muon"],
]  # fmt: skip


def assert_equal(whole, parts, overrides, tolerance=TOLERANCE, rounded=None):
    """All processes have the numbers of one.

    A bias in front of a batch norm, or of a softmax's keys, has no gradient but rounding, which
    some optimizers make steps of; no loss depends on it, but a running mean follows it late.

    Args:
        rounded: one process again, from weights moved by a rounding, where steps amplify that: as
            far apart from the first one, up to a factor of 10, several processes may be.
    """
    own = differences(whole, rounded) if rounded else {}
    idle = "norm=batch" in str(overrides) or {"model=cnn", "model=resnet18"} & {*overrides}
    late = ("bias", "running_mean", "outputs") if idle else ("in_proj_bias",)
    for part in parts:
        for name, value in differences(whole, part).items():
            if not name.endswith(late) and not (idle and name.startswith("val/")):
                most = max(tolerance, 10 * own.get(name, 0.0))
                assert value < most, f"{name} {value:.1e}: {overrides}"
        for name, weights in parts[0]["state"].items():
            assert torch.equal(weights, part["state"][name]), name


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_have_the_numbers_of_one(count):
    cases = CASES[count - 2 :: 2]
    together = in_processes(count, lambda: [steps(case) for case in cases])
    for i, case in enumerate(cases):
        assert_equal(steps(case), [each[i] for each in together], case)


CHANGES = {
    "shifts": ["data.augment.crop=2", "data.augment.flip=true"],
    "names": ["data.augment.transforms=[random_resized_crop,{name: rand_augment, magnitude: 9},"
              "{name: random_erasing, p: 1}]"],
}  # fmt: skip


def test_augmented_pictures_are_those_of_one_process(tmp_path):
    """Shares are uneven, and each picture is changed by draws that its place in the batch gives.

    What has a name makes float32 of 8-bit pixels.
    """
    draw = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    base = ["data=image_folder", f"data.root={tmp_path / 'pictures'}", "data.size=16",
            "model=mlp", "model.width=8", "training.batch_size=7"]  # fmt: skip
    plain = steps([*base, "data.augment.crop=0", "data.augment.flip=false"], 8)
    about = [([*base, *CHANGES["shifts"]], 8), ([*base, *CHANGES["names"]], 8, torch.float32)]
    together = in_processes(2, lambda: [steps(*case) for case in about])
    for i, (case, tolerance) in enumerate(zip(about, (TOLERANCE, 1e-5), strict=True)):
        whole = steps(*case)
        assert_equal(whole, [each[i] for each in together], case[0], tolerance)
        assert differences(whole, plain)["losses"] > 1e-3


FACTORS = {
    "model": [
        *([*WINE, f"model={name}"] for name in ("mlp", "linear")),
        *(["data=digits", f"model={name}"] for name in ("cnn", "resnet18")),
        ["data=diabetes", "model=tabular"],
        *([*TEXT, f"model={name}"] for name in ("text_bag", "text_cnn", "text_transformer")),
        [*TEXT, "model=text_lstm", "model.depth=1"],
    ],
    "dropout": [[], ["regularization.dropout=0.3"]],
    "norm": [[], ["regularization.norm=batch"], ["regularization.norm=layer"]],
    "mixup": [[], ["regularization.mixup=0.4"]],
    "l1": [[], ["regularization.l1=1e-3"]],
    "clip": [[], ["training.clip_norm=0.3"], ["training.clip_value=0.01"]],
    "accumulate": [[], ["training.gradient_accumulation_steps=3"]],
    "ema": [[], ["training.ema=0.9"]],
    "batch": [["training.batch_size=7"], ["training.batch_size=3"], ["training.batch_size=32"]],
    "members": [[], ["training.members=2"]],
    "processes": [2, 3],
}
# Beside these: each stands in one case or two, as 17 x 9 pairs with models would be many.
OPTIMIZERS = sorted(p.stem for p in (command.CONF / "optimizer").glob("*.yaml"))
OPTIMIZERS.remove("lbfgs")
MOST_CASES = 40


def fits(case):
    """Whether values go together: those that knobs refuses, or that nothing tells apart."""
    model = case["model"][-1] if "depth" not in case["model"][-1] else case["model"][-2]
    text, batch = "text" in model, "batch" in str(case["norm"]) or "resnet" in model
    small = case["batch"] != ["training.batch_size=32"]
    return not (
        (text and case["mixup"])
        or ("transformer" in model and "batch" in str(case["norm"]))
        or (batch and small and case["accumulate"])
        or (case["members"] and ("resnet" in model or "transformer" in model))
        or (case["batch"] == ["training.batch_size=3"] and batch)
    )


def pairwise():
    """Cases in which every two values of two factors meet, where they go together."""
    draw, names = random.Random(0), list(FACTORS)

    def pairs(case):
        return {
            (a, FACTORS[a].index(case[a]), b, FACTORS[b].index(case[b]))
            for a, b in itertools.combinations(names, 2)
        }

    def drawn():
        return {name: draw.choice(values) for name, values in FACTORS.items()}

    possible = set().union(*(pairs(c) for c in (drawn() for _ in range(30_000)) if fits(c)))
    cases = []
    while possible:
        tries = [c for c in (drawn() for _ in range(400)) if fits(c)]
        cases.append(max(tries, key=lambda c: len(pairs(c) & possible)))
        possible -= pairs(cases[-1])
    return cases


def test_the_design_covers_all_pairs_in_few_cases():
    cases = pairwise()
    assert len(OPTIMIZERS) <= len(cases) <= MOST_CASES
    assert all(fits(case) for case in cases)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOST_CASES))
def test_pairwise(number):
    cases = pairwise()
    if number >= len(cases):
        pytest.skip("the design has fewer cases")
    case, optimizer = cases[number], OPTIMIZERS[number % len(OPTIMIZERS)]
    lines = [line for part in case.values() if isinstance(part, list) for line in part]
    lines.append(f"optimizer={optimizer}")
    count = 3 if "model=resnet18" in lines else 20
    together = in_processes(case["processes"], lambda: steps(lines, count))
    rounded = steps(lines, count, moved=2e-16) if optimizer == "adafactor" else None
    assert_equal(steps(lines, count), together, lines, rounded=rounded)


def test_lbfgs_has_the_first_step_of_one_process():
    """Rounding grows by 1e4 a step in it, with one process as with several."""
    case = [*WINE, "optimizer=lbfgs", "training.batch_size=33"]
    whole, parts = steps(case, 1), in_processes(2, lambda: steps(case, 1))
    assert differences(whole, parts[0])["losses"] < TOLERANCE
    assert differences(whole, parts[0])["head.weight"] < 1e-8
    assert torch.equal(parts[0]["state"]["head.weight"], parts[1]["state"]["head.weight"])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_rows_are_contiguous_even_and_all(count):
    for whole in range(30):
        shares = []
        for number in range(count):
            with parallel.as_one_of(number, count):
                shares.append(parallel.rows(whole))
        assert [i for s in shares for i in range(s.start, s.stop)] == list(range(whole))
        sizes = [s.stop - s.start for s in shares]
        assert max(sizes) - min(sizes) <= 1


def test_metrics_over_shares_are_those_of_one_process_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(loop, "EVAL_BATCH", 10)

    def judged():
        run = make(
            ["data=wine", "metrics.extra=[auroc]", "regularization.norm=batch"], torch.float32
        )
        return loop.evaluate(run, run.data.val, "val"), run.outputs

    (values, outputs), parts = judged(), in_processes(3, judged)
    for other, own in parts:
        assert other == values
        assert torch.equal(own, outputs)


# ------------------------------------------------------------------ what is refused
class Centred(nn.Module):
    """Looks at the batch, and says nothing of it."""

    def forward(self, x):
        return x - x.mean(0)


class Drawing(nn.Module):
    def forward(self, x):
        return x * torch.rand(x.shape)


def ranked(outputs, targets):
    """A loss whose value for an example depends on the others."""
    return outputs.square().mean(-1) * (targets - targets.double().mean())


def refusal(change, overrides=()):
    """What two processes say of a run that is changed before it trains; nothing if they train."""

    def tried():
        run = make([*WINE, *overrides], torch.float32)
        change(run)
        try:
            ranks.prepare(run)
        except ConfigError as error:
            return str(error)
        return ""

    return in_processes(2, tried)


@pytest.mark.parametrize("kind", [Centred, Drawing, lambda: nn.AlphaDropout(0.2)])
def test_a_module_that_sees_or_draws_for_the_batch_is_refused(kind):
    found = refusal(lambda run: run.model.hidden.append(kind()))
    assert found[0] == found[1]
    assert found[0].startswith("training.processes=2: a trial step of 19 examples has another ")
    assert "use training.processes=1" in found[0]


def test_a_loss_that_looks_at_several_examples_is_refused():
    def change(run):
        run.loss = loop_loss(ranked)

    loop_loss = type(make(WINE, torch.float32).loss)
    assert all("or the loss, looks at several" in text for text in refusal(change))


def test_a_penalty_that_is_no_mean_is_refused(monkeypatch):
    from knobs import regularization

    def spread(outputs, weights):
        return outputs.std(-2).sum()

    monkeypatch.setitem(regularization.PENALTIES, "l1", spread)
    assert all("looks at several" in t for t in refusal(lambda run: None, ["regularization.l1=1"]))


def test_dropout_between_the_layers_of_an_lstm_is_refused():
    lines = [*TEXT, "model=text_lstm", "model.depth=2", "regularization.dropout=0.2"]
    found = refusal(lambda run: None, lines)
    assert all("LSTM draws dropout between its layers" in text for text in found)
    assert all("use model.depth=1, regularization.dropout=0 or" in text for text in found)


def test_compile_and_sweeps_and_gpus_are_refused():
    with pytest.raises(ConfigError, match="processes=2: cannot be compiled"):
        command.checked(["training.processes=2", "training.compile=true"])
    plain = command.checked(["training.processes=2"])
    assert [*conflicts(plain)] == []
    many = plain["training"] | {"device": "cpu", "processes": 65}
    with pytest.raises(ConfigError, match="training.processes=65: must be"):
        command.checked([f"training.processes={many['processes']}"])


def test_a_sweep_of_several_processes_is_refused(sweep):
    code, told = sweep(*WINE, "seed=0,1", "training.processes=2")
    assert code == 2
    assert "training.processes=2: a run of a sweep has one process" in told


def test_other_weights_in_one_process_are_noticed():
    def moved():
        run = make(WINE, torch.float32)
        with torch.no_grad():
            run.model.head.bias[0] += 1e-7 * parallel.rank()
        try:
            parallel.compare(run)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    found = in_processes(2, moved)
    assert found[0] == found[1]
    assert "process 1 has other weights than process 0" in found[0]


# ------------------------------------------------------------------ the end of a run
JOINING = """
import pytest, torch, torch.distributed as dist
from knobs.errors import ProcessLost
from knobs.training import parallel, ranks

store = dist.HashStore()
store.set("here/1", "1")
looks = iter([None, None, ProcessLost("process 1 has ended")])

def look():
    if fault := next(looks):
        raise fault

with pytest.raises(ProcessLost, match="process 1 has ended"):
    ranks._joined(0, 2, store, torch.device("cpu"), look).__enter__()
assert not dist.is_initialized()
assert parallel.size() == 1
print("noticed", flush=True)
import os
os._exit(0)  # a thread still waits for the other one
"""


def test_a_process_that_ends_while_all_join_is_noticed():
    """In a process of its own: torch counts the groups that it begins, and others count alike."""
    done = subprocess.run([sys.executable, "-c", JOINING], capture_output=True, text=True, env=ENV)
    assert done.stdout == "noticed\n", done.stderr
    assert done.returncode == 0


def test_all_stop_at_one_step_whoever_is_asked():
    def stopped():
        run = make([*WINE, "training.epochs=20"], torch.float32)
        ranks.prepare(run)
        watch = interrupt_at(7) if parallel.rank() == 1 else lambda run: None
        with pytest.raises(loop.Interrupted):
            list(loop.fit(run, watch))
        return run.progress.step

    assert in_processes(3, stopped) == [8, 8, 8]


@pytest.fixture
def helpers(monkeypatch):
    """The processes that runs start, as they start them."""
    found = []

    class Started(subprocess.Popen):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            if "knobs.training.ranks" in arguments[0]:
                found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Started)
    yield found
    assert all(process.returncode is not None for process in found)


def checked(count, *overrides):
    lines = [*WINE, "training.epochs=6", "regularization=dropout", f"training.processes={count}"]
    return command.checked([*lines, *overrides])


def assert_same_run(folder, whole):
    """The metrics of two runs are equal but for the rounding of fp32."""
    rows = [record.read_metrics(path) for path in (folder, whole)]
    assert len(rows[0]) == len(rows[1]) == 6
    for one, other in zip(*rows, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_run_of_two_killed_goes_on_in_one_and_ends_in_three(tmp_path, helpers, at_epoch):
    """One helper is killed; then the command is asked to stop; nothing of the result changes."""
    execute(checked(1), tmp_path / "whole")
    at_epoch(2, lambda: os.kill(helpers[0].pid, signal.SIGKILL))
    at_epoch_saves = checked(2)
    with pytest.raises(ProcessLost, match="process 1 of 2 ended by SIGKILL; resume="):
        execute(at_epoch_saves, tmp_path / "run")
    summary = record.read_summary(tmp_path / "run")
    assert summary["status"] == "interrupted"
    assert list(tmp_path.rglob("*.partial")) == []
    at_epoch(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = execute(checked(1) | {"resume": "yes"}, tmp_path / "run")
    assert (outcome.status, outcome.exit_code) == ("interrupted", 143)
    outcome = execute(checked(3) | {"resume": "yes"}, tmp_path / "run")
    assert outcome.status == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_processes_that_have_not_met_are_not_waited_for(helpers, monkeypatch):
    """A signal that comes while they start ends all at once: nobody would tell them later."""
    waited, wait = [], subprocess.Popen.wait

    def noted(self, timeout=None):
        waited.append(timeout)
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", noted)
    with ranks.others(checked(3)) as known:
        assert not known.met
    assert [process.returncode for process in helpers] == [-signal.SIGKILL] * 2
    assert waited == [None, None]  # of processes that were killed


def test_sigterm_ends_a_run_of_two_with_143_and_it_goes_on(tmp_path, helpers, at_epoch):
    execute(checked(1), tmp_path / "whole")
    at_epoch(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = execute(checked(2), tmp_path / "run")
    assert (outcome.status, outcome.exit_code) == ("interrupted", 143)
    assert helpers[0].returncode == 0
    # Asked after the first step of an epoch; the second one tells the other process.
    assert record.read_summary(tmp_path / "run")["steps"] == 2 * 4 + 2
    outcome = execute(checked(2) | {"resume": "yes"}, tmp_path / "run")
    assert outcome.status == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "whole")


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", TRAIN]


def test_torchrun_makes_one_run(tmp_path):
    """One folder, one record, one voice; the numbers of one process."""
    words = [*WINE, "training.epochs=6", "regularization=dropout"]
    done = processes.run([*TORCHRUN, *words, "hydra.run.dir=run"], tmp_path, ENV)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert told.count("finished: best val/accuracy") == told.count("folder     run") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    execute(checked(1), tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert record.read_config(tmp_path / "run")["config"]["training"]["processes"] == 2
    assert_no_orphans(done.pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "seed=0,1"], "-m under torchrun: is for one run; leave torchrun out"),
        (["training.processes=3"], "training.processes=3: torchrun has started 2 processes"),
        (["data=wyne"], "data=wyne: no such option; did you mean wine?"),
        (
            ["data=csv", "data.path=no.csv", "data.target=y", "data.task=regression"],
            "no.csv: no such file",
        ),
    ],
)
def test_torchrun_tells_a_fault_once(words, message, tmp_path):
    done = processes.run([*TORCHRUN, "tracking=local", *words], tmp_path, ENV)
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count("knobs: ") == 1
    assert message in done.stderr
    assert_no_orphans(done.pid)


def started(folder, *words):
    """Start train.py."""
    words = [*WINE, "training.epochs=100000", "hydra.run.dir=run", *words]
    with (folder / "told.txt").open("w") as out:
        command = [sys.executable, TRAIN, *words]
        return subprocess.Popen(command, cwd=folder, env=ENV, stdout=out, stderr=out)


def wait_for(folder, name):
    """Wait until a run has a file."""
    end = time.monotonic() + 120
    while not (folder / "run" / name).exists():
        assert time.monotonic() < end, (folder / "told.txt").read_text()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(10))
def test_sigterm_at_any_moment_ends_all_with_143(case, tmp_path):
    """While they start, while they meet, while they train."""
    process, draw = started(tmp_path, "training.processes=3"), random.Random(case)
    wait_for(tmp_path, ["run.lock", "metrics.jsonl"][case % 2])
    time.sleep(draw.uniform(0, 6))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    told = (tmp_path / "told.txt").read_text()
    assert "Traceback" not in told
    if (tmp_path / "run" / record.CONFIG).exists():
        assert record.read_summary(tmp_path / "run")["status"] == "interrupted"
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", range(10))
def test_a_process_that_is_killed_ends_all_and_is_named(case, tmp_path, helpers, monkeypatch):
    """At a random step, whichever it is; one process, two or three go on to the same end."""
    draw = random.Random(case)
    execute(checked(1), tmp_path / "whole")
    at, train_step = draw.randrange(1, 23), loop.train_step

    def killing(run, *batch):
        if run.progress.step == at and len(helpers) == 2:
            helpers[draw.randrange(2)].kill()
        return train_step(run, *batch)

    monkeypatch.setattr(loop, "train_step", killing)
    with pytest.raises(ProcessLost, match="process [12] of 3 ended by SIGKILL"):
        execute(checked(3), tmp_path / "run")
    assert record.read_summary(tmp_path / "run")["status"] == "interrupted"
    count = draw.choice([1, 2, 3])
    outcome = execute(checked(count) | {"resume": "yes"}, tmp_path / "run")
    assert outcome.status == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "whole")
