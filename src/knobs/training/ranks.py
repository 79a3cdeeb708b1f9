"""The processes that train one run: started, joined, tried, and what becomes of one that is lost.

Process 0 is that of the command: it alone has a record, a mirror and a screen, and sends the others
the state to begin from. They follow it, and write nothing. The arithmetic is in parallel.py.
"""

import contextlib
import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from knobs import build, record
from knobs.data import take
from knobs.data.dataset import Batch, each
from knobs.errors import ConfigError, DataError, ProcessLost, fault_of, first_line
from knobs.processes import end_with, of_torchrun, tell_apart
from knobs.signals import Received, stop_signals
from knobs.training import checkpoint, loop, parallel
from knobs.training.setup import assemble, machine
from knobs.training.state import Diverged, Interrupted, Progress, Run

WAIT = timedelta(days=1)  # for a process that is slow; one that has ended is noticed at once
ENDING = 15.0  # seconds that processes have to end, on a machine that is busy
POLL = 0.05
LOST = 12  # exit code of a process that ends because another one has
GRADIENT = "gradient of "
TOLERANCE = 1e-8  # of a trial step in float64, relative to the largest gradient


@dataclasses.dataclass
class Others:
    """The other processes of a run, as process 0 knows them.

    Args:
        started: those that this process has started; none where torchrun did.
        store: where all of them meet; None where torchrun has it.
        met: whether they have, so that they hear of the end of the run, and end by themselves.
    """

    count: int = 1
    started: Sequence[subprocess.Popen] = ()
    store: Any = None
    met: bool = False


@contextlib.contextmanager
def others(config: dict) -> Iterator[Others]:
    """Start processes 1, 2, ... of a run, where it has some and torchrun did not; end them."""
    count, training = config["training"].get("processes", 1), config["training"]
    if count == 1:
        yield Others()
        return
    _take_device(training, 0)
    if of_torchrun()[1] > 1:
        yield Others(count)
        return
    _share_cores(training)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=WAIT)
    started: list[subprocess.Popen] = []
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        for number in range(1, count):
            process = subprocess.Popen(
                [sys.executable, "-m", "knobs.training.ranks"], stdin=subprocess.PIPE, env=env,
                start_new_session=True,  # Ctrl-C is for process 0, which tells the others
            )  # fmt: skip
            started.append(process)
            job = {"config": config, "number": number, "port": store.port, "parent": os.getpid()}
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        yield (known := Others(count, started, store))
        latest = time.monotonic() + ENDING  # of all of them
        for process in started if known.met else ():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, latest - time.monotonic()))
    finally:
        for process in started:
            process.kill()  # it writes nothing
            process.wait()


def _share_cores(training: dict) -> None:
    """Give this process its share of the threads, unless the config says how many."""
    if not training["threads"]:
        torch.set_num_threads(max(1, torch.get_num_threads() // training["processes"]))


def _take_device(training: dict, local: int) -> torch.device:
    """Return the device of one of the processes: the CPU, or a GPU of its own.

    Args:
        local: number of the process on its machine.

    Raises:
        ConfigError: there is none for it.
    """
    device, count = build.device(training["device"]), training["processes"]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count)) if of_torchrun()[1] > 1 else count
    fault = f"training.processes={count}: "
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if device.index or here > gpus:
            needs = f"needs a GPU each, and {gpus} are here, training.device={training['device']}"
            raise ConfigError(f"{fault}{needs}; use training.device=cpu or fewer processes")
        torch.cuda.set_device(local)
    elif device.type != "cpu":
        raise ConfigError(f"{fault}runs on CPUs or GPUs of CUDA; use training.device=cpu")
    return device


@contextlib.contextmanager
def together(run: Run, with_others: Others, stop: Received) -> Iterator[None]:
    """Train inside as process 0 of all; nothing where there are no others.

    Raises:
        ProcessLost: naming the process that has ended. Interrupted: before the first step.
        ConfigError: a network or a loss that several processes would train otherwise.
    """
    count, started = with_others.count, with_others.started
    if count == 1:
        yield
        return

    def look() -> None:
        if stop:
            raise Interrupted
        if any(process.poll() is not None for process in started):
            raise ProcessLost("another process of this run has ended")

    try:
        with _joined(0, count, with_others.store, run.device, look):
            with_others.met = True
            about = {"data": run.data.about(), "rebuilt": run.rebuilt}
            _send(checkpoint.packed(checkpoint.snapshot(run) | about), run.device)
            prepare(run)
            yield
    except ProcessLost as error:
        raise ProcessLost(_who(started, count) or f"{error}; torchrun names it") from error


@contextlib.contextmanager
def _joined(
    number: int, count: int, store: Any, device: torch.device, look: Callable[[], None]
) -> Iterator[None]:
    """Be one of the processes inside.

    Args:
        look: called while process 0 waits for the others, which may have ended.
    """
    store = store or next(dist.rendezvous("env://", number, count))[0]
    if number:
        store.set(f"here/{number}", "1")
    while not (number or store.check([f"here/{i}" for i in range(1, count)])):
        look()
        time.sleep(POLL)
    group = {"store": store, "rank": number, "world_size": count, "timeout": WAIT}
    try:
        _join("nccl" if device.type == "cuda" else "gloo", group, look)
        with parallel.as_one_of(number, count):
            yield
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # of one that has ended
                dist.destroy_process_group()  # else some ended in SIGABRT


def _join(backend: str, group: dict[str, Any], look: Callable[[], None]) -> None:
    """Make the group of all processes, in a thread: code of C that waits hears no signal.

    Raises:
        ProcessLost: it cannot be made. Whatever `look` raises, while others are waited for.
    """
    failed: list[Exception] = []

    def make() -> None:
        try:
            dist.init_process_group(backend, **group)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    while thread.is_alive():
        look()
        thread.join(POLL)
    if failed:
        why = f"the processes of this run do not reach each other ({first_line(failed[0])})"
        raise ProcessLost(why) from failed[0]


def _who(started: Sequence[subprocess.Popen], count: int) -> str:
    """Return which process has ended, and how; empty where torchrun knows."""
    end = time.monotonic() + ENDING
    while time.monotonic() < end and all(p.poll() in (None, LOST) for p in started):
        time.sleep(POLL)
    codes = {i: p.poll() for i, p in enumerate(started, 1) if p.poll() not in (None, LOST)}
    if not codes:
        return "another process of this run has ended" if started else ""
    number = min(codes, key=lambda i: codes[i] >= 0)  # by a signal first
    code = codes[number]
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"process {number} of {count} {how}"


def _send(data: bytes, device: torch.device) -> None:
    dist.broadcast(torch.tensor([len(data)], device=device), 0)
    dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device), 0)


def _receive(device: torch.device) -> bytes:
    """Return what process 0 sends.

    Raises:
        ProcessLost: it has ended.
    """
    length = torch.zeros(1, dtype=torch.int64, device=device)
    try:
        dist.broadcast(length, 0)
        data = torch.empty(int(length), dtype=torch.uint8, device=device)
        dist.broadcast(data, 0)
    except RuntimeError as error:
        raise ProcessLost("process 0 has ended") from error
    return data.cpu().numpy().tobytes()


# ------------------------------------------------------------------ the other processes
def follow(config: dict, number: int, store: Any = None) -> int:
    """Train as process `number` of a run; return the exit code. Process 0 tells its faults too.

    Args:
        config: checked and resolved, the same as that of process 0.
        store: where they meet; None under torchrun.
    """
    count = config["training"]["processes"]
    # Until process 0 has its record a signal ends this one, whatever waits in code of C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        local = int(os.environ.get("LOCAL_RANK", number)) if store is None else number
        with machine(config["training"]):
            device = _take_device(config["training"], local)
            if store is not None:
                _share_cores(config["training"])
            with _joined(number, count, store, device, lambda: None):
                _train(config, device, checkpoint.unpacked(_receive(device)))
    except (Diverged, Interrupted):
        return 0
    except ProcessLost:
        return LOST
    except Exception as error:
        return tell_apart(fault_of(error), number, count)
    return 0


def _train(config: dict, device: torch.device, state: dict) -> None:
    """Train from a state of process 0 on, to the same end.

    Raises:
        DataError: other data than those of process 0. Others: as of loop.fit.
    """
    with stop_signals() as stop:
        data = build.data(config)
        if config.get("refit"):
            data = data.joined()
        if data.about() != state["data"]:
            first, own = state["data"]["hash"], data.hash
            raise DataError(
                f"data={data.name}: other data than those of process 0 (hash {first}, here {own}); "
                "give all processes the same files"
            )
        run = assemble(config, data, device)
        run.refit = config.get("refit") and record.best_epoch(Path(config["refit"]))
        checkpoint.restore(run, state)
        run.rebuilt = state["rebuilt"]
        prepare(run)

        def watch(run: Run) -> None:
            run.stop_requested = bool(stop)

        for _ in loop.fit(run, watch):
            pass


# ------------------------------------------------------------------ a trial step
def prepare(run: Run) -> None:
    """Let a network see whole batches; try a step in all processes against one in this one.

    The trial is of the network and the loss as they are, in float64, with weights moved a little:
    it finds what looks at several rows, or draws by itself, in code that knobs has never seen.

    Raises:
        ConfigError: the steps differ.
    """
    count = parallel.size()
    for module in run.model.modules():
        if isinstance(module, nn.RNNBase) and module.dropout and module.num_layers > 1:
            draws = f"{type(module).__name__} draws dropout between its layers in code of its own"
            mend = "use model.depth=1, regularization.dropout=0 or training.processes=1"
            raise ConfigError(f"training.processes={count}: {draws}; {mend}")
    parallel.spread(run.model)
    for size in _trial_sizes(run):
        try:
            batch = _trial_batch(run, size)
            with parallel.as_one_of(0, 1):
                whole = _gradients(run, batch)
            shared = _gradients(run, batch)
        except ProcessLost:
            raise
        except Exception as error:
            why = f"a trial step in float64 failed ({first_line(error)})"
            raise ConfigError(
                f"training.processes={count}: {why}; use training.processes=1"
            ) from error
        if (name := _other(whole, shared)) is not None:
            raise ConfigError(
                f"training.processes={count}: a trial step of {size} examples has another "
                f"{name} than in one process: some module, or the loss, looks at several "
                "examples of a batch or draws by itself; use training.processes=1"
            )


def _other(whole: dict[str, Tensor], shared: dict[str, Tensor]) -> str | None:
    """Return the first number of a step that differs by more than rounding; None if all agree.

    A gradient is held against the largest one, for that of a bias may be nothing but rounding.
    """
    grads = [float(g.abs().max()) for name, g in whole.items() if name.startswith(GRADIENT)]
    for name in {**whole, **shared}:
        one, other = whole.get(name), shared.get(name)
        if one is None or other is None:
            return name
        largest = max(grads) if name.startswith(GRADIENT) else float(one.abs().max())
        atol = TOLERANCE * max(largest, sys.float_info.min)
        if not torch.allclose(other, one, rtol=TOLERANCE, atol=atol, equal_nan=True):
            return name
    return None


def _trial_sizes(run: Run) -> list[int]:
    """Return sizes of batches: one with uneven shares, and the least that leaves a process none."""
    size, examples = run.training["batch_size"], len(run.data.train)
    last = 0 if run.training["drop_last"] else examples % size
    parts = []
    for batch in {min(size, examples), last} - {0}:
        part = -(-batch // run.training["gradient_accumulation_steps"])
        parts += [part, batch % part or part]
    usual = min(size, examples, 8 * parallel.size() + 3)
    return [usual, *({min(parts)} - {usual} if min(parts) < parallel.size() else ())]


def _trial_batch(run: Run, size: int) -> Batch:
    """Return so many training examples in float64, from all over; of several members for each."""
    train = run.data.train
    places = torch.linspace(0, len(train) - 1, size, dtype=torch.float64).long()
    batch = take(train, places.to(train.y.device))

    def wide(values: Tensor) -> Tensor:
        values = values.double() if values.is_floating_point() else values
        return values.expand(len(run.networks), *values.shape) if run.batch_dim else values

    weight = None if batch.weight is None else wide(batch.weight)
    return Batch(each(batch.x, wide), wide(batch.y), weight)


def _gradients(run: Run, batch: Batch) -> dict[str, Tensor]:
    """Return the loss, the gradients and the buffers after one backward pass of a copy."""
    model = copy.deepcopy(run.model).double()
    draws = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=draws, dtype=p.dtype).to(p.device)
    training = run.training | {"precision": "fp32", "gradient_accumulation_steps": 1}
    trial = dataclasses.replace(
        run, model=model.train(), forward=None, average=None, training=training,
        progress=Progress(), loss=run.loss.to(next(model.parameters())),
    )  # fmt: skip
    if trial.uses_rng:
        loop.seed_noise(trial)
    found = {"loss": loop.backward(trial, *batch)}
    for name, p in model.named_parameters():
        if p.grad is not None:
            found[GRADIENT + name] = p.grad
    return found | {n: b for n, b in model.named_buffers() if b.is_floating_point()}


def main() -> int:
    """Train as a process that another one has started, told on stdin what."""
    job = json.loads(sys.stdin.buffer.read())
    end_with(job["parent"], signal.SIGKILL)
    from knobs import late_compiler

    late_compiler.install()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        sys.stderr = nowhere  # process 0 says it
        store = dist.TCPStore("127.0.0.1", job["port"], is_master=False, timeout=WAIT)
        return follow(job["config"], job["number"], store)


if __name__ == "__main__":
    sys.exit(main())
