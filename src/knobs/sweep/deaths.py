"""Deaths of a sweep's process without a word: who trained then, and who trains apart from now on.

Before runs are planned or trained, their numbers are written to a file of this process, which goes
when that has ended, however it has. One that is left names those who were under way when the
process died: of a kill, a power cut, the system short of memory, or of code that a run brings. The
first death of some runs changes nothing: they go on as they were. After another one without any
later checkpoint they train in two halves, each of them last and by itself, and so on down to one
run; one that has died alone twice has failed. A worker elsewhere notes it in a folder of its own,
so that no two write one file. Imports no torch.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from knobs import ledger, storage
from knobs.identity import identity
from knobs.record import (
    BROKEN,
    CHECKPOINTS,
    CONFIG,
    Record,
    as_json,
    read_json,
    read_metrics,
    sealed,
    write,
)
from knobs.secrets import public, public_lines
from knobs.sweep.jobs import Job

UNDER_WAY, SUSPECTS = "under-way-{}.json", "suspects.json"
ALONE = "the process ended without a word while it trained alone, twice"
MOST_NAMED = 8  # runs, in a line


class UnderWay(contextlib.AbstractContextManager):
    """The file that says which runs of a sweep this process is at; with `with`, or `close` it.

    Args:
        folder: the sweep's.
        notes: where this and the suspects are noted; None: there.
    """

    def __init__(self, folder: Path, notes: Path | None = None):
        self.folder, self._runs = folder, []
        self.path = (notes or folder) / UNDER_WAY.format(secrets.token_hex(4))
        self._lock = storage.Lock(_lock(self.path))

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        self._lock.release()

    @contextlib.contextmanager
    def at(self, numbers: Sequence[int]) -> Iterator[None]:
        """Note that these runs are under way inside, and no others."""
        before = self._runs
        self._now(sorted(numbers))
        try:
            yield
        finally:
            self._now(before)

    def join(self, numbers: Sequence[int]) -> None:
        """Note that further runs train with those that are under way."""
        self._now(sorted({*self._runs, *numbers}))

    def _now(self, numbers: list[int]) -> None:
        if numbers == self._runs:
            return
        self._runs = numbers
        if not numbers:
            return self.path.unlink(missing_ok=True)
        marks = {n: mark for n in numbers if (mark := mark_of(self.folder / str(n)))}
        return write(self.path, as_json({"runs": numbers, "marks": marks}, None))


@contextlib.contextmanager
def noted(folder: Path, numbers: Sequence[int]) -> Iterator[None]:
    """Note that these runs of a sweep are under way inside."""
    with UnderWay(folder) as under_way, under_way.at(numbers):
        yield


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def mark_of(run: Path) -> str:
    """Return the digests of a run's two newest checkpoints; empty where it has none."""
    try:
        files = read_json(run / CHECKPOINTS / "manifest.json")["files"]
        newest = (files.get(name) for name in ("last.safetensors", "last.previous.safetensors"))
        return " ".join(str(entry["sha256"]) for entry in newest if entry)
    except (*BROKEN, KeyError, TypeError):
        return ""


def notice(folder: Path, notes: Path | None = None) -> list[str]:
    """Look for processes that died over runs of a sweep; return what a person is to know.

    Raises:
        OSError: the folder cannot be written to.
    """
    said: list[str] = []
    names, place = UNDER_WAY.format("*"), notes or folder
    for lock in place.glob(_lock(Path(names)).name):
        if not storage.held(lock):  # else a process at work: several may share a search
            lock.with_name(f"{lock.stem}.json.partial").unlink(missing_ok=True)
    for path in sorted(place.glob(names)):
        if _lock(path).exists():
            continue
        try:
            noted = read_json(path)
            runs = [int(number) for number in noted["runs"]]
            marks = {int(number): str(mark) for number, mark in noted["marks"].items()}
        except (*BROKEN, KeyError, TypeError, AttributeError):
            runs, marks = [], {}
        left = [number for number in runs if not _settled(folder, number)]
        if left:
            further = len(left) < len(runs) or any(
                mark_of(folder / str(number)) != marks.get(number, "") for number in left
            )
            units, line = _blamed(left, further, _suspects(folder, place))
            _keep(place, units)
            said.append(line)
        path.unlink(missing_ok=True)
    return said


def _blamed(runs: list[int], further: bool, units: list[dict]) -> tuple[list[dict], str]:
    """Return the suspects after a death of some runs, and a line about it.

    Args:
        runs: under way when the process died, and not ended.
        further: whether any of them has got further before it.
        units: the suspects before it.
    """
    before = next((unit for unit in units if {*runs} <= {*unit["runs"]}), None)
    others = [unit for unit in units if not {*runs} & {*unit["runs"]}]
    deaths = 1 + (before["deaths"] if before and not further else 0)
    apart = bool(before and before["apart"])
    who = _named(runs)
    if deaths == 1:
        unit = {"runs": runs, "deaths": 1, "apart": apart}
        how = f"the process ended without a word while {who} trained"
        return [*others, unit], f"{how}; going on as before"
    if len(runs) == 1:
        return [*others, {"runs": runs, "deaths": deaths, "apart": True}], f"{who}: {ALONE}; failed"
    halves = [runs[: (len(runs) + 1) // 2], runs[(len(runs) + 1) // 2 :]]
    new = [{"runs": half, "deaths": int(len(half) > 1), "apart": True} for half in halves]
    how = f"the process ended without a word again while {who} trained, no further than before"
    return [*others, *new], f"{how}; they go on last, in two halves"


def _named(runs: Sequence[int]) -> str:
    some = ", ".join(map(str, runs[:MOST_NAMED])) + ", ..." * (len(runs) > MOST_NAMED)
    return f"run {runs[0]}" if len(runs) == 1 else f"{len(runs)} runs ({some})"


def _settled(folder: Path, number: int) -> bool:
    return ledger.settled(ledger.status(folder / str(number)), retry_failed=False)


def _suspects(folder: Path, place: Path) -> list[dict[str, Any]]:
    """Return those of before that have not ended: their numbers, deaths, and whether apart."""
    try:
        units = [
            {
                "runs": [n for n in map(int, unit["runs"]) if not _settled(folder, n)],
                "deaths": int(unit["deaths"]),
                "apart": bool(unit["apart"]),
            }
            for unit in read_json(place / SUSPECTS)["units"]
        ]
    except (*BROKEN, KeyError, TypeError):
        return []
    return [unit for unit in units if unit["runs"]]


def forget(folder: Path, notes: Path | None = None) -> None:
    """Strike those that have ended since from the suspects."""
    place = notes or folder
    if (place / SUSPECTS).exists():
        _keep(place, _suspects(folder, place))


def _keep(place: Path, units: list[dict]) -> None:
    if units:
        write(place / SUSPECTS, sealed({"units": units}), sync=True)
    else:
        (place / SUSPECTS).unlink(missing_ok=True)


def apart(folder: Path, jobs: dict[int, Job], notes: Path | None = None) -> list[dict[int, Job]]:
    """Return jobs in the parts that are planned and trained one after the other, suspects last."""
    suspects = _suspects(folder, notes or folder)
    parts = [{*unit["runs"]} & jobs.keys() for unit in suspects if unit["apart"]]
    rest = jobs.keys() - {number for part in parts for number in part}
    split = [{n: job for n, job in jobs.items() if n in part} for part in (rest, *parts)]
    return [part for part in split if part]


def condemned(folder: Path, jobs: dict[int, Job], notes: Path | None = None) -> list[int]:
    """Write down as failed those jobs whose runs have died alone twice; return their numbers."""
    units = _suspects(folder, notes or folder)
    lost = [u["runs"][0] for u in units if len(u["runs"]) == 1 and u["deaths"] > 1]
    lost = [number for number in lost if number in jobs]
    for number in lost:
        _fail(folder / str(number), jobs[number])
    if lost:
        forget(folder, notes)
    return lost


def _fail(folder: Path, job: Job) -> None:
    """Leave the record of a run that has failed, whatever there is of it already."""
    record, config = Record(folder), job.config
    try:
        if not (folder / CONFIG).exists():
            lines = public_lines(job.overrides)
            about = {"overrides": lines, "choices": {}, "run": {"number": job.number}}
            data = {"hash": None, "rows": [0, 0, 0], "notes": []}
            known = {"identity": identity(config), "config": public(config), "data": data}
            record.begin(about | known)
        rows = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
        last = rows[-1] if rows else {"epoch": 0, "step": 0}
    except BaseException:
        record.release()
        raise
    record.finish(
        {
            "status": "failed",
            "reason": ALONE,
            "objective": config["objective"] | {"value": None},
            "best_epoch": 0,
            "epochs": last["epoch"],
            "steps": last["step"],
            "seconds": 0.0,
            "metrics": {},
            "test": None,
            "config_hash": identity(config),
            "versions": {},
        }
    )
