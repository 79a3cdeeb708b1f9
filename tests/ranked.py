"""Runs trained by several processes for tests: forks of this one, which have all imported."""

import os
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from trained import make

from knobs.training import loop, parallel, ranks


def in_processes(count, function, *arguments):
    """Return what function(*arguments) returns in each of `count` processes of one run."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for number in range(count):
            if (pid := os.fork()) == 0:
                _child(number, count, Path(folder), function, arguments)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        told = "".join(path.read_text() for path in sorted(Path(folder).glob("told.*")))
        assert not any(codes), f"{codes}\n{told}"
        return [torch.load(Path(folder, f"{n}.pt"), weights_only=False) for n in range(count)]


def _child(number, count, folder, function, arguments):
    """Be one of the processes, and end."""
    code = 1
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = dist.FileStore(str(folder / "store"), count)
        with ranks._joined(number, count, store, torch.device("cpu"), lambda: None):
            torch.save(function(*arguments), folder / f"{number}.pt")
        code = 0
    except BaseException:
        (folder / f"told.{number}").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def steps(overrides, count=20, dtype=torch.float64, moved=0.0):
    """Train so many steps, as all of the processes or the one there is.

    Args:
        moved: by how much of itself each first weight is moved, at random: a rounding, 2e-16.
    """
    run = make(overrides, dtype)
    draw = torch.Generator().manual_seed(0)
    for weight in run.model.parameters() if moved else ():
        noise = torch.randn(weight.shape, generator=draw, dtype=dtype)
        weight.data.mul_(1 + moved * noise)
    if run.average:
        run.average.to(dtype)
    if parallel.size() > 1:
        ranks.prepare(run)
    losses, rows = [], []
    while len(losses) < count:
        run.model.train()
        loop.training_mode(run.optimizer, True)
        for batch in loop.epoch_batches(run):
            if len(losses) == count:
                break
            losses.append(loop.train_step(run, *batch).tolist())
            run.progress.batch += 1
        loop.training_mode(run.optimizer, False)
        values = loop.evaluate(run, run.data.val, "val")
        rows.append(loop.end_epoch(run, values | {"train/loss": 0.0}))
    state = run.evaluated.state_dict()
    return {"losses": losses, "rows": rows, "state": state, "outputs": run.outputs}


def differences(one, other):
    """Return name -> relative difference: of losses, metrics, outputs and each weight."""
    found = {}
    for name in ("losses", "outputs"):
        found[name] = _distance(*map(torch.as_tensor, (one[name], other[name])))
    for a, b in zip(one["rows"], other["rows"], strict=True):
        for key in a:
            found[key] = max(found.get(key, 0), _distance(*map(torch.tensor, (a[key], b[key]))))
    for name, weights in one["state"].items():
        found[name] = _distance(weights, other["state"][name])
    return found


def _distance(a, b):
    a, b = a.double(), b.double()
    return float((a - b).norm() / max(float(a.norm()), 1e-12))
