"""A grid in a folder of its own: what is done is left, what is not goes on, the rest begins."""

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from knobs import cli, config, ledger
from knobs.errors import SWEEP_FAILED, ConfigError, StorageError, UserError, for_a_person
from knobs.identity import FILES, identity, key_of, under
from knobs.ledger import Entry, Ledger
from knobs.record import CONFIG, STUDY

SECTIONS = {"data", "model", "activation", "init", "optimizer", "scheduler", "regularization"}
SUBDIR = "${hydra.job.num}"
SIGNALS = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}


@dataclass
class Task:
    """A job that is to run.

    Args:
        overrides: all of the job's but hydra's own.
        plain: what it trains, resolved; None where it is no training run of knobs.
        label: what sets it apart from others, for a person; empty: its overrides say it.
    """

    overrides: list[str]
    plain: dict[str, Any] | None
    label: str = ""

    @classmethod
    def of(cls, overrides: list[str], context: HydraContext, master: DictConfig) -> "Task":
        """A task, from what was checked before, or by composing its config."""
        plain = config.resolved(overrides) if config.was_checked(master) else None
        if plain is None:
            plain = plain_config(compose(overrides, context, master))
        return cls(overrides, plain if plain and plain["task"] == "train" else None)


class Source:
    """Where further jobs come from while others run: a search. This one has none."""

    coming = 0  # jobs that there will be beside those handed out, as far as is known

    def more(self, count: int | None = None) -> dict[int, Task]:
        """Number -> job, at most `count`; none when the search is over."""
        return {}

    def ended(self, number: int, returned: JobReturn) -> None:
        """A job has ended; its record is complete."""


def sweep(
    arguments: list[str], launcher: Launcher, context: HydraContext, master: DictConfig
) -> list[Sequence[JobReturn]]:
    """Run a grid; the exit code follows from how its runs ended.

    Args:
        arguments: the command line's overrides, hydra's own left out.
        launcher, context, master: as Hydra hands them to a sweeper.
    """
    out = Console(highlight=False, soft_wrap=True)
    try:
        folder = prepared(master)
        if (folder / STUDY).exists():  # whose trials would take the grid's runs for theirs
            raise ConfigError(f"{folder}: holds a search or a study; name another sweep")
        with ledger.held(folder):
            return _sweep(arguments, launcher, context, master, folder, out)
    except UserError as error:
        sys.exit(cli.report(error))


def prepared(master: DictConfig) -> Path:
    """The sweep's folder, there and with its multirun.yaml.

    Raises:
        StorageError: it cannot be made. ConfigError: its runs could not be found again.
    """
    folder = Path(str(master.hydra.sweep.dir))
    subdir = OmegaConf.to_container(master.hydra.sweep)["subdir"]
    if subdir != SUBDIR:
        raise ConfigError(f"hydra.sweep.subdir={subdir}: a sweep finds its runs by {SUBDIR}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror})") from None
    OmegaConf.save(master, folder / "multirun.yaml")
    return folder


def _sweep(
    arguments: list[str],
    launcher: Launcher,
    context: HydraContext,
    master: DictConfig,
    folder: Path,
    out: Console,
) -> list[Sequence[JobReturn]]:
    jobs = config.jobs(arguments)
    if not jobs:
        raise ConfigError("the grid is empty: one of its overrides has no values")
    todo = outstanding(jobs, folder, context, master, out)
    returns, stopped = run_all(todo, launcher) if todo else ([], 0)
    conclude(folder, returns, stopped, out)
    return [returns]


def run_all(
    tasks: dict[int, Task], launcher: Launcher, source: Source | None = None
) -> tuple[list[JobReturn], int]:
    """What became of the jobs, and the exit code of a signal that ended them early, or 0."""
    try:
        returns = launch(tasks, launcher, source)
    except (SystemExit, KeyboardInterrupt) as error:  # Hydra's basic launcher lets them through
        stopped = error.code if isinstance(error, SystemExit) else 128 + signal.SIGINT
        if stopped not in SIGNALS:
            raise
        return [], stopped
    return returns, next((c for c in map(_exit_code, returns) if c in SIGNALS), 0)


def conclude(
    folder: Path,
    returns: list[JobReturn],
    stopped: int,
    out: Console,
    answer: bool = False,
    others: bool = False,
) -> None:
    """The leaderboard, what failed, how to go on; and the exit code that follows.

    Args:
        answer: whether something was asked: then the report takes the leaderboard's place.
        others: another process still works on it, and will say how it ended.
    """
    from knobs.report import leaderboard, read, terminal

    runs = read.read_runs(folder)
    if others and not stopped:
        out.print("done here; another process goes on with the last runs, and reports")
    elif runs:
        if answer and not stopped:
            from knobs.report import analysis, write  # late: scipy, plotly

            report = analysis.make([folder])
            terminal.show(out, report, write.write(report, folder))
        else:
            entries = leaderboard.leaderboard(runs)
            leaderboard.write_csv(folder / leaderboard.CSV, entries)
            terminal.leaderboard(out, entries, path=folder / leaderboard.CSV)
            out.print(escape(f"what it says: python -m knobs.report {_near(folder)}"))
    failed = [r for r in returns if r.status is JobStatus.FAILED and _exit_code(r) not in SIGNALS]
    show_failures(out, failed)
    if stopped:
        words, where = sys.argv[1:], f"hydra.sweep.dir={folder}"
        named = any(word.startswith(("sweep=", "hydra.sweep.dir=")) for word in words)
        line = shlex.join(words if named else [*words, where])
        out.print(escape(f"interrupted; go on with: python train.py {line}"))
        cli.end_with(stopped)
    elif failed or any(run.status == "failed" for run in runs):
        cli.end_with(SWEEP_FAILED)


def outstanding(
    jobs: list[list[str]],
    folder: Path,
    context: HydraContext,
    master: DictConfig,
    out: Console,
    first: int = 0,
) -> dict[int, Task]:
    """The jobs that are to run, under their numbers, each composed; all are in sweep.json then.

    Args:
        first: the least number of a new job.
    """
    retry = bool(master.get("retry_failed"))
    sources = master.hydra.runtime.config_sources
    digest = ledger.digest([Path(s.path) for s in sources if s.schema == "file"])
    known = ledger.done(folder, digest, retry)
    book = ledger.read(folder) or Ledger(digest)
    book.conf = digest
    numbers = {entry.identity: number for number, entry in book.jobs.items() if entry.identity}
    runs = (path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    last = max([first - 1, *book.jobs, *map(int, filter(str.isdecimal, runs))])
    todo: dict[int, Task] = {}
    skipped, failed, resumed, twice = 0, 0, 0, 0
    for lines in jobs:
        job = ledger.job_of(lines)
        if job in known:
            skipped += 1
            continue
        task = Task.of(lines, context, master)
        own = own_identity(task.plain, job) if task.plain else ""
        number = numbers.get(own, last + 1)
        last = max(last, number)
        if number in todo:
            twice += 1
            continue
        run = folder / str(number)
        if own in numbers and ledger.settled(status := ledger.status(run), retry):
            skipped += 1
            failed += status == "failed"
        elif own in numbers and (run / "checkpoints" / "last.pt").is_file() and status != "failed":
            plain = task.plain | {"resume": str(run)}
            todo[number] = Task([*lines, f"resume='{run}'"], plain)
            resumed += 1
        else:
            todo[number] = task
        book.jobs[number] = Entry(job, own)
        if own:
            numbers[own] = number
    book.write(folder)
    for count, what in (
        (skipped, "ended before and left alone"),
        (failed, "of them failed; retry_failed=true runs those again"),
        (resumed, "resumed from checkpoints"),
        (twice, "stated twice, run once"),
    ):
        if count:
            out.print(f"{count:,} run{'s' * (count > 1)} {what}")
    return todo


def own_identity(plain: dict[str, Any], job: Sequence[str]) -> str:
    """A run's identity within a sweep, where files that the command line names are told apart."""
    files = [line for line in job if under(key_of(line), FILES)]
    return " ".join([identity(plain), *files])


def launch(
    tasks: dict[int, Task], launcher: Launcher, source: Source | None = None
) -> list[JobReturn]:
    """Hand jobs to a launcher: all at once to ours, else in batches of neighbouring numbers."""
    if hasattr(launcher, "launch_numbered"):
        return list(launcher.launch_numbered(tasks, source))
    returns: list[JobReturn] = []
    batch: list[list[str]] = []
    for number, task in sorted(tasks.items()):
        batch.append(task.overrides)
        if number + 1 not in tasks:
            first = number + 1 - len(batch)
            for i, returned in enumerate(launcher.launch(batch, initial_job_idx=first)):
                returns.append(returned)
                if source:
                    source.ended(first + i, returned)
            batch = []
    return returns


def compose(overrides: Sequence[str], context: HydraContext, master: DictConfig) -> DictConfig:
    """A job's config: from what was checked before, or as Hydra's own launchers get it."""
    hydra = OmegaConf.to_container(master.hydra.overrides.hydra)
    made = config.composed([*hydra, *overrides]) if config.was_checked(master) else None
    if made is None:
        return context.config_loader.load_sweep_config(master, list(overrides))
    OmegaConf.copy_cache(master, made)  # the time stamps of the sweep's folder
    return made


def plain_config(made: DictConfig) -> dict[str, Any] | None:
    """What a job will train, resolved; None where it is no training run of knobs."""
    if not {*SECTIONS, "training", "task"} <= set(made):
        return None
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = made
    try:
        kept = OmegaConf.masked_copy(made, [key for key in made if key != "hydra"])
        return OmegaConf.to_container(kept, resolve=True)
    finally:
        HydraConfig.instance().cfg = before


def show_failures(out: Console, failed: list[JobReturn]) -> None:
    """One line for each job that failed, and where its traceback is."""
    if not failed:
        return
    table = Table(box=None, title=f"{len(failed)} failed", title_justify="left", title_style="red")
    for column in ("job", "error", "log"):
        table.add_column(column, overflow="fold")
    for returned in failed:
        job = returned.hydra_cfg.hydra if returned.hydra_cfg else None
        number = str(job.job.num) if job else "?"
        error = returned._return_value
        first = str(for_a_person(error)).strip().partition("\n")[0]
        log = Path(str(job.runtime.get("output_dir"))) / f"{job.job.name}.log" if job else Path()
        where = _near(log) if log.is_file() else ""
        table.add_row(number, escape(f"{type(error).__name__}: {first}"), escape(where))
    out.print(table)


def _near(path: Path) -> str:
    """A path as seen from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _exit_code(returned: JobReturn) -> Any:
    error = returned._return_value
    return error.code if isinstance(error, SystemExit) else 0
