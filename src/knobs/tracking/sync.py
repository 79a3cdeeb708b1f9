"""Runs that W&B does not have yet, uploaded, and what arrived held against the record.

The client's word is no proof: where a server refuses or loses rows it ends with 0 all the same and
marks the run as synced. So the server is asked for each run, and a run has arrived when its rows,
its objective and its state are those of the record.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knobs import record, storage
from knobs.errors import ConfigError, UserError, ended, first_line
from knobs.processes import ends_with_us
from knobs.secrets import public
from knobs.signals import Stopped
from knobs.tracking import replay, tracker
from knobs.tracking.account import no_account, no_server
from knobs.tracking.tracker import BOUNDED, NAME, QUIET
from knobs.words import count, printable

ARRIVED = "arrived.json"  # in a run's wandb folder: what the server had when it was last asked
LOCK = "sync.lock"  # beside it: one sync at a time uploads a run
TRACKER = f"{tracker.Tracker.__module__}.{tracker.Tracker.__qualname__}"
FILES = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-([\w-]{1,64})")  # W&B's folder of a run
BATCH = 16  # runs a call of the client, which uploads five at a time
BATCH_SECONDS = 600.0  # for one such call
KNOCK = 5.0  # seconds to wait for the server at first
PATIENCE = (1.0, 3.0)  # seconds before each further look: a server may count late
TWICE = "resumed online, so sent again its epochs would double: delete it in W&B, then sync"
ABSENT = "the server has no such run"
UPLOADED, THERE, VERIFIED, FAILED = "uploaded", "already there", "verified before", "failed"


@dataclass(frozen=True)
class Mirrored:
    """A run that W&B is to have, as its record tells it.

    Args:
        folder: the run's own.
        parts: W&B's folders of it, in the order to upload. An offline one holds all rows up to its
            end; an online one that was resumed holds the rows since the one before it. None of a
            run that the client never saw: it is written from the record.
        entity: None for the account's own.
        rows: epochs in the record.
        status: one of record.STATUSES; empty without a summary.
        objective: its best value; None where there is none.
        fault: why it cannot be uploaded; empty if it can.
    """

    folder: Path
    parts: tuple[Path, ...]
    run_id: str
    project: str = ""
    entity: str | None = None
    rows: int = 0
    status: str = ""
    objective: float | None = None
    fault: str = ""

    def facts(self, server: str) -> dict[str, Any]:
        """Return what has to hold for an earlier look to be as good as a new one."""
        newest = self.parts[-1].name if self.parts else ""
        about = {"server": server, "files": newest, "rows": self.rows}
        return about | {"status": self.status, "objective": self.objective}


def find(root: Path) -> Iterator[Mirrored]:
    """Yield the runs at and below a folder that W&B's client wrote down, or that wait for it.

    Links are passed over.

    A folder that cannot be read may hold some: it is yielded as one, with its fault.
    """
    closed: list[OSError] = []
    for here, names, files in os.walk(root, onerror=closed.append):
        names.sort()
        if record.CONFIG in files:
            if run := _mirrored(Path(here)):
                yield run
            names.clear()  # a run holds no runs
    for error in closed:
        yield Mirrored(Path(error.filename), (), "", fault=f"cannot be read ({error.strerror})")


def _mirrored(folder: Path) -> Mirrored | None:
    """Return one run with those of W&B's folders that hold its rows, if it has any."""
    wandb, named = folder / "wandb", []
    if wandb.is_symlink():
        return None
    try:
        paths = [path for path in wandb.iterdir() if not path.is_symlink()]
        named = [(match, path) for path in paths if (match := FILES.fullmatch(path.name))]
    except FileNotFoundError:
        pass
    except OSError as error:
        return Mirrored(folder, (), "", fault=f"{wandb}: cannot be read ({error.strerror})")
    theirs = sorted(
        (match[1], path, match[2])
        for match, path in named
        if (path / f"run-{match[2]}.wandb").is_file()
    )
    if not (theirs or _kept(folder)):
        offline = [match for match, _ in named if match[0].startswith("offline-")]
        if not offline or (wandb / ARRIVED).exists():
            return None
        lost = max(offline, key=lambda match: match[1])
        reason = f"{lost[0]} has lost its run-{lost[2]}.wandb, which holds what was to be uploaded"
        return Mirrored(folder, (), lost[2], fault=reason)
    run_id = theirs[-1][2] if theirs else tracker.run_id(folder)
    parts = [path for _, path, name in theirs if name == run_id]
    whole = [i for i, path in enumerate(parts) if path.name.startswith("offline-")]
    parts = tuple(parts[whole[-1] :] if whole else parts)
    try:
        return Mirrored(folder, parts, run_id, **_recorded(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"its record cannot be read: {type(error).__name__}: {first_line(error)}"
        return Mirrored(folder, parts, run_id, fault=reason)


def _kept(folder: Path) -> bool:
    """Return whether a run's record alone is to be mirrored: no client was there for it."""
    try:
        tracking = record.read_config(folder)["config"]["tracking"]
        mirrored = tracking["_target_"] == TRACKER and tracking["mode"] != "disabled"
        return mirrored and tracking["project"] is not None  # older ones, by a variable
    except (*record.BROKEN, LookupError, TypeError):
        return False


def _recorded(folder: Path) -> dict[str, Any]:
    """Return the part of a Mirrored that the run's record has."""
    tracking = record.read_config(folder)["config"]["tracking"]
    fields = {"project": tracking["project"], "entity": tracking["entity"]}
    for key, name in fields.items():
        if not (name is None and key == "entity") and not NAME.fullmatch(name):
            raise ValueError(f"tracking.{key}: no name that W&B takes")
    fields["rows"] = len(record.read_metrics(folder))
    if (folder / record.SUMMARY).is_file():
        summary = record.read_summary(folder)
        status, objective = summary["status"], (summary["objective"] or {"value": None})["value"]
        if status not in record.STATUSES or not isinstance(objective, int | float | None):
            raise ValueError(f"{record.SUMMARY}: no summary of a run")
        fields |= {"status": status, "objective": objective}
    elif record.held(folder):
        fields["fault"] = "under way; call again when it has ended"
    return fields


def missing(run: Mirrored, there: Any) -> str:
    """Say what of a run has not arrived; empty if all of it has.

    Args:
        there: the run as wandb.Api gives it; None if the server has none.
    """
    if there is None:
        return ABSENT
    rows, objective = there.historyLineCount or 0, there.summary.get("objective")
    if rows != run.rows:
        return f"{rows} of {run.rows} epochs arrived"
    if not run.status:  # killed: it never had an end to tell
        return ""
    if objective != run.objective:
        return f"objective {objective} instead of {run.objective}"
    ends = ("finished",) if run.status in record.FINISHED else ("failed", "crashed", "killed")
    return "" if there.state in ends else f"{there.state} instead of {ends[0]}"


class Server:
    """Asks the server, by W&B's public API.

    Raises:
        UserError: no account, or no server that takes it.
    """

    def __init__(self) -> None:
        import wandb

        if why := no_account() or no_server(KNOCK):
            raise UserError(why)
        try:
            self._api = wandb.Api(timeout=int(os.environ["WANDB_HTTP_TIMEOUT"]))
            self.entity = self._api.settings["entity"] or self._api.default_entity
        except Exception as error:  # as many kinds as there are layers below
            raise UserError(first_line(error)) from None

    def missing(self, run: Mirrored) -> str:
        """Say what of a run has not arrived, or why that is not known; empty if all has."""
        self._api.flush()
        try:
            there = self._api.run(f"{run.entity or self.entity}/{run.project}/{run.run_id}")
        except Exception as error:
            if type(getattr(error, "exc", None)).__name__ != "RunNotFoundError":
                return f"not known to have arrived: {first_line(error)}"
            there = None
        return missing(run, there)

    def missing_after(
        self, runs: list[Mirrored], complaints: Container[Mirrored]
    ) -> dict[Mirrored, str]:
        """Say what has not arrived of runs just uploaded; empty of a run of which all has.

        Args:
            complaints: runs that the client complained of, which no waiting will bring.
        """
        reasons = {run: self.missing(run) for run in runs}
        for seconds in PATIENCE:
            late = [run for run in runs if reasons[run] and run not in complaints]
            time.sleep(seconds if late else 0)
            reasons |= {run: self.missing(run) for run in late}
        return reasons


def upload(runs: list[Mirrored], entity: str, scratch: Path) -> dict[Mirrored, str]:
    """Let W&B's client upload runs of one project; what it complained of, where it did.

    The parts of a run go one after the other: the client would send them side by side.

    Args:
        scratch: an empty folder.
    """
    complaints: dict[Mirrored, str] = {}
    parts = {run: run.parts for run in runs}
    for n, run in enumerate(run for run in runs if not run.parts):
        try:
            parts[run] = (replay.write(run.folder, scratch / str(n)),)
        except UserError as error:
            complaints[run] = str(error)
    for part in range(max(map(len, parts.values()))):
        paths = {run: parts[run][part] for run in runs if part < len(parts[run])}
        complaints = _upload(paths, entity) | complaints  # the first one tells most
    return complaints


def _upload(paths: dict[Mirrored, Path], entity: str) -> dict[Mirrored, str]:
    """Call the client once."""
    runs = list(paths)
    words = ["sync", "--no-skip-online", "--no-skip-synced", f"--entity={entity}"]
    words += [f"--project={runs[0].project}", "--", *map(str, paths.values())]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *words], capture_output=True, text=True,
            errors="replace", env=os.environ | {"WANDB_SILENT": "false"},
            stdin=subprocess.DEVNULL, timeout=BATCH_SECONDS, preexec_fn=ends_with_us(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return dict.fromkeys(runs, f"the client did not end within {BATCH_SECONDS:.0f} s")
    lines = (done.stderr + done.stdout).splitlines()
    errors = [m[1] for line in lines if (m := re.match(r"(?:wandb: )?ERROR (.*)", line))]
    complaints = {}
    for run in runs:
        others = {other.run_id for other in runs} - {run.run_id}
        if mine := [line for line in errors if not any(name in line for name in others)]:
            first = re.sub(r"^\[\S+\] ", "", mine[0])
            complaints[run] = first.partition(". ")[0]  # the rest is advice
    return complaints


def batches(runs: list[Mirrored]) -> Iterator[list[Mirrored]]:
    """Yield runs that one call of the client can take: of one project."""
    projects: dict[tuple[str | None, str], list[Mirrored]] = {}
    for run in runs:
        projects.setdefault((run.entity, run.project), []).append(run)
    for same in projects.values():
        yield from (same[i : i + BATCH] for i in range(0, len(same), BATCH))


def sync(root: Path, out: Console) -> int:
    """Upload what the server misses of the runs below a folder; 0 if all of them are there.

    A run that was verified once is not asked for again unless its record has changed. Nothing is
    deleted.

    Raises:
        ConfigError: there is no such folder.
        UserError: no account, or no server that takes it.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no folder; give one that holds runs, such as outputs")
    import wandb

    url = str(wandb.setup().settings.base_url)
    results = {run: _result_so_far(run, url) for run in find(root)}
    waiting = [run for run, result in results.items() if not result]
    try:
        if waiting:
            _sync(waiting, results, url, out)
    except UserError as error:
        raise UserError(f"{error}; {count(len(waiting), 'run')} still to upload") from None
    finally:
        _show(out, root, results)
    ways = (UPLOADED, THERE, VERIFIED, FAILED)
    counts = {how: sum(r.startswith(how) for r in results.values()) for how in ways}
    summary = ", ".join(f"{n} {how}" for how, n in counts.items() if n)
    line = f"{count(len(results), 'run')} mirrored below {root}"
    out.print(f"{line}: {summary}" if summary else line)
    return 1 if counts[FAILED] else 0


def _result_so_far(run: Mirrored, url: str) -> str:
    """Return the result where a run needs no upload, or cannot have one; else nothing.

    A run is verified if the server had all of it before, and its record is unchanged since.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        noted = record.read_json(run.folder / "wandb" / ARRIVED)
        if noted | ({} if run.parts else {"files": ""}) == run.facts(url):  # they may be gone
            return VERIFIED
    return f"{FAILED}: {run.fault}" if run.fault else ""


def _sync(waiting: list[Mirrored], results: dict[Mirrored, str], url: str, out: Console) -> None:
    """Upload runs, filling in how that went as it goes."""
    server = Server()
    with out.status("asking the server"):
        for run in waiting:
            results[run] = _asked(run, url, server)
    absent = [run for run in waiting if not results[run]]
    first = 1
    for batch in batches(absent):
        last = first + len(batch) - 1
        with out.status(f"uploading {first} to {last} of {len(absent)}"), ExitStack() as locks:
            results |= {run: _held(run, url, server, locks) for run in batch}
            ours = [run for run in batch if not results[run]]
            scratch = Path(locks.enter_context(tempfile.TemporaryDirectory()))
            entity = batch[0].entity or server.entity
            complaints = upload(ours, entity, scratch) if ours else {}
            for run, why in server.missing_after(ours, complaints).items():
                reason = public("; ".join(filter(None, [why, complaints.get(run)])))
                results[run] = f"{FAILED}: {reason}" if why else _noted(run, url, UPLOADED)
        first = last + 1


def _asked(run: Mirrored, url: str, server: Server) -> str:
    """Return the result where a run needs no upload, or cannot have one; else nothing."""
    why = server.missing(run)
    if not why:
        return _noted(run, url, THERE)
    return f"{FAILED}: {public(why)}; {TWICE}" if len(run.parts) > 1 and why != ABSENT else ""


def _held(run: Mirrored, url: str, server: Server, locks: ExitStack) -> str:
    """Hold a run for its upload; return the result where another sync has it, or had; else nothing.

    One whose folder cannot be written to is not held: it is uploaded from there all the same.
    """
    refusal = "{who} uploads it; call again once that has ended"
    try:
        (run.folder / "wandb").mkdir(exist_ok=True)
        locks.enter_context(storage.Lock(run.folder / "wandb" / LOCK, refusal))
    except UserError as error:
        return f"{FAILED}: {error}"
    except OSError:
        pass
    return _result_so_far(run, url) or _asked(run, url, server)


def _noted(run: Mirrored, url: str, result: str) -> str:
    """Write down that a run is there, so that it need not be asked for again; return the result."""
    try:
        record.write(run.folder / "wandb" / ARRIVED, record.as_json(run.facts(url), None))
    except OSError as error:
        return f"{result} (not noted: the folder cannot be written to, {error.strerror})"
    return result


def _show(out: Console, root: Path, results: dict[Mirrored, str]) -> None:
    """Print a line for each run that was not verified before."""
    rows = [(run, result) for run, result in results.items() if result not in ("", VERIFIED)]
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, side in (("run", "left"), ("epochs", "right"), ("W&B", "left")):
        table.add_column(head, justify=side, overflow="fold")
    for run, result in rows:
        cells = (os.path.relpath(run.folder, root), str(run.rows), result)
        style = "red" if result.startswith(FAILED) else ""
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    out.print(table)


def main() -> int:
    """Run `python -m knobs.tracking.sync [FOLDER]`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m knobs.tracking.sync",
        description="upload offline W&B runs and verify what arrived",
    )
    parser.add_argument(
        "folder", nargs="?", default="outputs", type=Path, help="holds runs (default: outputs)"
    )
    asked = parser.parse_args()
    # Before the import of wandb, which reads them. Whoever asks to upload is not offline.
    os.environ.update(BOUNDED | QUIET | dict(os.environ), WANDB_MODE="online")
    return ended(lambda: _with_scratch(asked.folder))


def _with_scratch(folder: Path) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WANDB_DIR"] = scratch  # the API makes a folder for each run that it looks at
        try:
            return sync(folder, Console(highlight=False, soft_wrap=True))
        except Stopped as error:
            print("stopped; the same command goes on", file=sys.stderr)
            return error.code


if __name__ == "__main__":
    sys.exit(main())
