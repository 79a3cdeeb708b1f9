"""`knobs status SWEEP` and `knobs cancel SWEEP`: groups of a sweep that workers have."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from knobs import ledger
from knobs.errors import ConfigError
from knobs.storage import untied, write
from knobs.words import count
from knobs.workers import groups, wire
from knobs.workers.slurm import Submitit

SAVES = 60.0  # seconds that workers have to save, before the command leaves them to it


def status(arguments: Sequence[str]) -> int:
    """Print how far the groups of a sweep are, and where they run."""
    folder = _sweep(arguments, "status", "how far a sweep on workers is")
    alive, total = _alive(folder), Counter[str]()
    print(f"{'group':>5}  {'runs':>9}  {'state':9}  where")
    for name in groups.names(folder):
        numbers = groups.numbers_of(folder, name)
        runs = Counter(_status(folder, n) for n in numbers)
        engine, job, over = groups.where_sent(folder, name)
        told = _told(folder, name)
        state = "ended" if over or not job or told.left is not None else "lost"
        if groups.cancelled(folder, name).exists():
            state = "cancelled"
        if name in alive:
            state = "runs" if told.begun and told.left is None else "waits"
        done = sum(many for how, many in runs.items() if ledger.settled(how, False))
        if done == len(numbers):
            state = "done"
        where = f"{engine} job {job}" if job else "not sent"
        where += f" on {told.host}" * (state == "runs")
        print(f"{int(name):5}  {done:>4}/{len(numbers):<4}  {state:9}  {where}")
        total += runs
    ways = ", ".join(f"{how or 'to come'} {many}" for how, many in sorted(total.items()))
    print(f"{count(total.total(), 'run')}: {ways}")
    driver = folder / groups.WORKERS / groups.DRIVER
    if driver.exists() and not untied(driver):
        print("a driver follows them")
    elif any(not ledger.settled(how, False) for how in total):
        print("no driver follows them; the command that began the sweep does, and reports")
    return 0


def cancel(arguments: Sequence[str]) -> int:
    """End the workers of a sweep: they save, and the command that began it can go on later."""
    folder = _sweep(arguments, "cancel", "end the workers of a sweep")
    alive = _alive(folder)
    for name in groups.names(folder):
        numbers = groups.numbers_of(folder, name)
        if name in alive or not all(ledger.settled(_status(folder, n), False) for n in numbers):
            write(groups.cancelled(folder, name), b"")
    for kind in {kind for kind, _ in alive.values()}:
        if engine := _engine(folder, kind):  # another ends its jobs as its driver sees the marks
            engine.stop([job for other, job in alive.values() if other == kind])
    until = time.monotonic() + SAVES
    while (left := _alive(folder)) and time.monotonic() < until:
        time.sleep(0.5)
    print(f"{count(len(alive) - len(left), 'group')} ended" if alive else "no group is under way")
    if left:
        print(f"{count(len(left), 'group')} still saving; see: python -m knobs status {folder}")
    print("the command that began the sweep goes on with it")
    return 0


def _sweep(arguments: Sequence[str], command: str, about: str) -> Path:
    """Return the folder that is named, or the folder of a sweep's name.

    Raises:
        ConfigError: there is none, or none whose groups went to workers.
    """
    parser = argparse.ArgumentParser(f"knobs {command}", description=about)
    parser.add_argument("sweep", help="a sweep's folder, or its name below outputs/sweeps")
    text = parser.parse_args(list(arguments)).sweep
    found = [p for p in (Path(text), Path("outputs", "sweeps", text)) if p.is_dir()]
    if not found:
        raise ConfigError(f"{text}: no such folder, and no sweep of that name in outputs/sweeps")
    if not groups.names(found[0]):
        raise ConfigError(f"{found[0]}: no groups of a sweep on workers lie there")
    return found[0].absolute()


def _alive(folder: Path) -> dict[str, tuple[str, str]]:
    """Return groups that wait or run, with their engine and its job."""
    sent = {name: groups.where_sent(folder, name) for name in groups.names(folder)}
    going = {name: (engine, job) for name, (engine, job, over) in sent.items() if job and not over}
    alive: dict[str, tuple[str, str]] = {}
    for kind in {engine for engine, _ in going.values()}:
        mine = {name: job for name, (engine, job) in going.items() if engine == kind}
        if engine := _engine(folder, kind):
            known = engine.alive(mine.values())
        else:  # ends with its driver, which alone knows its jobs
            held = (folder / groups.WORKERS / groups.DRIVER).exists()
            known = {*mine.values()} if held else set()
        alive |= {name: (kind, job) for name, job in mine.items() if job in known}
    return alive


def _engine(folder: Path, name: str) -> Submitit | None:
    """Return the engine that a group was sent by; None for one that only its driver can ask."""
    kind, _, cluster = name.partition(" (")
    return Submitit(folder, cluster.rstrip(")")) if kind == "slurm" else None


def _status(folder: Path, number: int) -> str:
    return ledger.status(folder / str(number))


def _told(folder: Path, name: str) -> wire.Told:
    told = wire.Told()
    for _ in told.read(groups.told_path(folder, name)):
        pass
    return told
