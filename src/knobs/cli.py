"""Prepare a command line for Hydra: help, the check, resume, and exit codes."""

import contextlib
import gc
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from knobs import again, errors, ledger, record, secrets, storage
from knobs.config import command, files, rules
from knobs.config.command import CONF
from knobs.config.conflicts import ONE_PROCESS, missing_files
from knobs.config.meant import meant
from knobs.config.resolvers import FREE
from knobs.errors import (
    BUG,
    FULL_ERROR,
    INTERRUPTED,
    Bug,
    ConfigError,
    DataError,
    UserError,
    close_output,
    closest,
    fault_of,
    quiet_logging,
    reason,
)
from knobs.help import answer
from knobs.identity import job_of, key_of
from knobs.processes import of_torchrun, tell_apart
from knobs.record import defaults_since, renamed
from knobs.shell import literal, quoted
from knobs.signals import Stopped, stop_signals
from knobs.words import printable

# Words of a command line that are knobs' own, with or without a +.
OWN = ("sweep", "retry_failed", "keep_going", "resume", "rerun", "refit", "trust", "study")
FOLDERS = ("sweep", "resume", "rerun", "refit")  # of these, what names a folder: as it is typed
OF_SWEEPS = ("sweep", "retry_failed", "keep_going")
INDEXES = (record.LEDGER, record.STUDY, record.ENSEMBLE)  # of a folder of runs
OUR_SWEEPERS = "hydra_plugins.knobs_sweeper."
DRY_RUN = "--dry-run"
LONGEST = 1000  # characters of one fault
MAX_NAME = 255  # bytes, of a file system


def main(train: Callable[[], None]) -> None:
    """Check the command line, then hand over to `train`, the @hydra.main function.

    A fault a user can mend is printed without a traceback and ends in its exit code; a bug of
    knobs is one line and exit code 1, its traceback in the run's log or, with HYDRA_FULL_ERROR=1,
    on the screen.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises then what it would print in its own way
    number, count = of_torchrun()
    if number:  # the first one speaks for all
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        tell = partial(tell_apart, number=number, count=count)
    else:
        tell = errors.tell
    quiet_logging()
    try:
        if answer(sys.argv[1:]):
            return
        with stop_signals(at_once=True):
            line = prepare(sys.argv[1:])
            if line is not None:
                sys.argv[1:] = line
                with _mode_known(line):
                    train()
        sys.stdout.flush()  # here, where a full disk is told
    except UserError as error:
        sys.exit(tell(error))
    except command.NOT_COMPOSED as error:
        sys.exit(tell(ConfigError(reason(error))))
    except (Stopped, KeyboardInterrupt) as error:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(getattr(error, "code", INTERRUPTED))
    except BrokenPipeError:  # `| head` has seen enough
        close_output()
        sys.exit(BUG)
    except Exception as error:
        fault = fault_of(error)
        if FULL_ERROR and isinstance(fault, Bug):
            raise
        close_output()
        sys.exit(tell(fault))
    finally:
        record.give_up()  # a run that did not begin: its lock, and a folder with nothing in it


@contextlib.contextmanager
def _mode_known(words: list[str]) -> Iterator[None]:
    """Answer for Hydra that nothing sets hydra.mode, where the check has seen that nothing does.

    Hydra composes a config to ask it, a tenth of a second before each run.

    Args:
        words: for Hydra, checked.
    """
    from hydra._internal.hydra import Hydra  # late: --help does without

    args, whole = _parsed(words), Hydra.get_mode
    typed = any(key_of(line) == "hydra.mode" for line in args.overrides)
    jobs = command.LAST.jobs.values()
    unset = bool(jobs) and all(config["hydra"]["mode"] is None for config in jobs)
    if not typed and (args.multirun or unset):
        Hydra.get_mode = lambda *_, **__: None
    try:
        yield
    finally:
        Hydra.get_mode = whole


def prepare(argv: list[str]) -> list[str] | None:
    """Compose and check every config that is asked for; return the command line for Hydra.

    Questions that Hydra answers about a config (`--cfg`, completion, ...) go through unchecked.

    Returns:
        The words for Hydra; None where all is done: `--dry-run` has shown what would run.

    Raises:
        ConfigError: naming all faults at once; nothing has run and no folder was made.
        CheckpointError: `resume=` or `rerun=` names no run. DataError: a file is missing.
    """
    dry = DRY_RUN in argv
    argv = [word for word in argv if word != DRY_RUN]
    args = _parsed(argv)
    if leaks := list(secrets.in_lines(args.overrides)):
        raise ConfigError("\n  ".join(leaks))
    files.refuse_bombs(args)
    if args.cfg or args.info or args.hydra_help or args.shell_completion:
        return argv  # questions about a config: Hydra answers them, and nothing runs
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun: reads a pickle, which can run code; use rerun=")
    folders = _folders(args)
    given, lines = args.overrides, _with_names_of_today([*map(_own_word, args.overrides)])
    args.overrides = lines
    processes = _of_torchrun(lines, args.multirun or command.MULTIRUN in lines)
    resumed = _last(lines, "resume")
    lines, recorded = _from_record(lines, args, folders)
    if began := again.path_of(recorded) if recorded else _sweep_folder(lines):
        stated = set(map(key_of, lines))
        older = [line for line in defaults_since(began, lines) if key_of(line) not in stated]
        lines = [*older, *lines]
    grid = args.multirun or command.MULTIRUN in lines
    lines = [*lines, *processes]
    _check_words(lines, grid)
    if command.is_search(lines) and not any(o.startswith("hydra/sweeper=") for o in lines):
        lines = [*lines, "hydra/sweeper=search"]
    configs = _checked(lines, folders, args.config_name or "config", grid)
    if dry and not configs:
        print("nothing to run: every job of this sweep has ended")
        return None
    if resumed:
        again.same_run(configs[0], resumed)
    if dry:
        return _show_only(configs[0], lines, grid)
    if of_torchrun()[0]:
        _follow(configs[0])
    if not grid:
        lines = _placed(configs[0], lines, bool(resumed))
    elif configs:
        lines = _swept(configs[0], lines)
    return [*(arg for arg in argv if arg not in given), *lines]


def _of_torchrun(lines: list[str], grid: bool) -> list[str]:
    """Return the override that says how many processes torchrun has started; none without it.

    Raises:
        ConfigError: a sweep, or another number than was typed.
    """
    _, count = of_torchrun()
    if count == 1:
        return []
    if grid:
        mend = "a sweep trains its runs side by side, or in processes with hydra/launcher=joblib"
        raise ConfigError(f"-m under torchrun: is for one run; leave torchrun out, {mend}")
    line = f"training.processes={count}"
    if typed := [o for o in lines if key_of(o) == "training.processes" and o != line]:
        raise ConfigError(f"{typed[-1]}: torchrun has started {count} processes; leave it out")
    return [line]


def _follow(config: dict) -> NoReturn:
    """Train as one of torchrun's processes that keep no record, without Hydra; end this one."""
    from knobs.training.ranks import follow  # late: it imports torch

    sys.exit(follow(config, of_torchrun()[0]) if config["task"] == "train" else 0)


def _placed(config: dict, lines: list[str], resumed: bool) -> list[str]:
    """Return a run's overrides with its folder, which is now there and held by this process.

    Raises:
        ConfigError: a new run was typed into the folder of another, or a name is too long.
        LockedError: another process is writing there.
    """
    path = Path(str(config["hydra"]["run"]["dir"]))
    if long := [part for part in path.parts if len(os.fsencode(part)) > MAX_NAME]:
        raise ConfigError(f"{printable(long[0], 60)}: {MAX_NAME} bytes at most, as a folder's name")
    if not any(key_of(line) == "hydra.run.dir" for line in lines):
        path = storage.claim(path)  # two runs of one second have folders of their own
    place = _named("hydra.run.dir", path)  # as it came out: ${free_dir:...} once
    lines = [*(line for line in lines if key_of(line) != "hydra.run.dir"), place]
    if config["task"] == "train":
        if not resumed:
            _refuse_another_run(path)
        storage.make_folder(path)
        storage.keep(lock := record.hold(path))  # the run takes the lock over
        if not resumed and ledger.holds_a_run(path):  # it began, and ended, meanwhile
            lock.release()
            _refuse_another_run(path)
    return lines


def _swept(config: dict, lines: list[str]) -> list[str]:
    """Return a sweep's overrides with its folder, which is new where nobody has named one.

    A sweeper of Hydra's own would write over what is there: its folder is held by this process.

    Raises:
        ConfigError: such a folder holds a run or a sweep. LockedError: another process is writing
            there.
    """
    hydra = config["hydra"]
    path = Path(str(hydra["sweep"]["dir"]))
    if str(path) in FREE and not _sweep_folder(lines):
        path = storage.claim(path)  # two sweeps of one second have folders of their own
        lines = [*lines, _named("hydra.sweep.dir", path)]
    if not str(hydra["sweeper"]["_target_"]).startswith(OUR_SWEEPERS):
        storage.make_folder(path)
        storage.closed(path)
        storage.keep(ledger.held(path))
        kept = [name for name in INDEXES if os.path.exists(path / name)]
        kept += sorted(inside.name for inside in path.iterdir() if ledger.holds_a_run(inside))
        if kept or ledger.holds_a_run(path):
            mend = "leave hydra/sweeper= out, which goes on with a sweep, or name another folder"
            what = kept[0] if kept else "a run"
            raise ConfigError(f"hydra.sweep.dir={path}: holds {what} already; {mend}")
    return lines


def _named(key: str, path: Path) -> str:
    """Return the override that names a folder."""
    return f"{key}={quoted(literal(str(path)))}"


def _refuse_another_run(path: Path) -> None:
    """Refuse to begin a run in a folder that holds one already, or a sweep.

    Raises:
        ConfigError: naming what goes on with it.
    """
    if os.path.exists(path / record.CONFIG):
        resume, rerun = (shlex.quote(f"{word}={path}") for word in ("resume", "rerun"))
        more = f"{resume} goes on with it, {rerun} trains it anew, or name another folder"
        raise ConfigError(f"hydra.run.dir={path}: holds a run already; {more}")
    if ledger.holds_a_run(path):
        lost = f"holds a run whose {record.CONFIG} is lost"
        raise ConfigError(f"hydra.run.dir={path}: {lost}; move it away, or name another folder")
    if kept := [name for name in INDEXES if os.path.exists(path / name)]:
        raise ConfigError(f"hydra.run.dir={path}: holds {kept[0]} already; name another folder")


def _parsed(argv: list[str]) -> Namespace:
    """Return Hydra's flags and the overrides, flags behind overrides too.

    Raises:
        ConfigError: a flag that Hydra does not know.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        flags = {flag for action in parser._actions for flag in action.option_strings} | {DRY_RUN}
        unknown = (w for w in argv if w.startswith("-") and w.partition("=")[0] not in flags)
        word = next((w for w in unknown if not re.fullmatch(r"-\w", w)), "")
        if not word:
            raise ConfigError(f"{message}; --help shows how to go on")
        name, _, value = word.lstrip("-").partition("=")
        if flag := closest(f"--{name}", flags, cutoff=0.8):
            raise ConfigError(f"{word}: no such flag; did you mean {flag}?")
        if name in rules.paths() or rules.options(name, [CONF]):
            key = name
        else:
            near = meant(name, value, [CONF])
            key = near.removeprefix("; did you mean ").rstrip("?")
        if not key:
            raise ConfigError(f"{word}: no such flag; --help shows what there is")
        line = key if "=" in key else f"{key}={value or 'VALUE'}"
        raise ConfigError(f"{word}: no such flag; a hyperparameter has no dashes: {line}")

    parser.error = refuse
    return parser.parse_intermixed_args(argv)


def _folders(args: Namespace) -> list[Path]:
    """Return where configs lie: conf/, then that of one's own.

    Raises:
        ConfigError: a folder that is not there, or one whose files would be ignored.
    """
    # Hydra looks for a relative one beside train.py, and for --config-dir in the working directory.
    first = (CONF.parent / args.config_path).resolve() if args.config_path else CONF
    if not os.path.isdir(first):
        looked = printable(str(first), 100)
        name = printable(args.config_path, 100)
        raise ConfigError(f"--config-path {name}: no such folder; {looked} is looked for")
    if args.config_dir and not os.path.isdir(args.config_dir):
        raise ConfigError(f"--config-dir {printable(args.config_dir, 100)}: no such folder")
    name, places = args.config_name or "config", [first, Path(args.config_dir or first)]
    if not any(os.path.isfile(folder / f"{name}.yaml") for folder in places):
        raise ConfigError(f"--config-name {name}: no {name}.yaml in {first.name}/ or --config-dir")
    if not args.config_dir:
        return [first]
    own = Path(args.config_dir)
    names = (path.relative_to(own) for path in sorted(own.rglob("*.yaml")))
    for name in (name for name in names if os.path.isfile(first / name)):
        flag = f"--config-dir {own}: its {name}"
        if str(own.absolute()).endswith("/.hydra"):
            run = own.parent
            raise ConfigError(
                f"{flag} is not read, conf/ has one; train that run anew: rerun={run}"
            )
        raise ConfigError(f"{flag} would not be read, conf/ has one of that name; rename it")
    return [first, own]


def _own_word(line: str) -> str:
    """Return a word of knobs' own as it is meant: without a +, its folder as it is typed."""
    key, mark, value = line.partition("=")
    name = key.lstrip("+")
    if not mark or name not in OWN:
        return line
    if name in FOLDERS and value not in ("", "null") and "," not in value:
        path = again.path_of(value)
        return f"{name}={quoted(str(path)) if name == 'sweep' else path}"
    return f"+study={value}" if name == "study" else f"{name}={value}"


def _from_record(lines: list[str], args: Namespace, folders: list[Path]) -> tuple[list[str], str]:
    """Return the lines, with those of the run that they go on with or train anew; and its folder.

    Raises:
        ConfigError, CheckpointError: as of `again`.
    """
    resumed, anew, refitted = (_last(lines, key) for key in ("resume", "rerun", "refit"))
    if resumed:
        return again.resume(resumed, args), resumed
    if refitted:
        if anew or args.multirun:
            other = "rerun=" if anew else "-m"
            raise ConfigError(f"refit={refitted}: one run; leave {other} out")
        return again.refit(refitted, lines, folders), refitted
    if anew:
        return again.rerun(anew, lines, folders), anew
    return [*lines, *files.words(lines, folders, args.config_name or "config")], ""


def _last(lines: list[str], key: str) -> str:
    """Return what the last of an own word names; empty where there is none, or null."""
    named = [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]
    return named[-1] if named and named[-1] != "null" else ""


def _with_names_of_today(lines: list[str]) -> list[str]:
    """Return overrides under the names of today, and say which had others."""
    current = [renamed(line) for line in lines]
    for old, new in zip(lines, current, strict=True):
        if old != new:
            print(f"knobs: {old} is {new} now, and is taken as that", file=sys.stderr)
    if "model=transformers" in current:  # whose name is that of its folder
        current = [
            line.replace("name", "folder", 1) if key_of(line) == "model.name" else line
            for line in current
        ]
    return current


def _check_words(lines: list[str], grid: bool) -> None:
    """Refuse words of a sweep where they do not belong, or with several values."""
    named = [line for line in lines if key_of(line) in OF_SWEEPS and not line.endswith("=null")]
    if several := [line for line in named if "," in line]:
        raise ConfigError(f"{several[0]}: has one value in a sweep")
    if not grid and (study := [line for line in lines if line.startswith("+study=")]):
        raise ConfigError(f"{study[0]}: a study is many runs; put -m first")
    if not grid and named:
        raise ConfigError(f"{named[0]}: belongs to a grid; put -m first")


def _checked(lines: list[str], folders: list[Path], name: str, grid: bool) -> list[dict]:
    """Return the configs that overrides ask for, one a job that is to run.

    Raises:
        ConfigError: naming all faults. DataError: files that no job of a grid would find.
    """
    settled: set[tuple[str, ...]] = set()
    if grid:
        # A grid's configs live to its end: looking among them for garbage takes a tenth of a start.
        gc.set_threshold(100_000, 50, 50)
        if not command.is_search(lines):
            settled = _settled(lines, folders)
    from knobs import late_compiler  # late: it imports torch, as the check does

    late_compiler.install()
    configs, faults = command.check_overrides(
        lines, folders, name, grid, skip=lambda job: job_of(job) in settled
    )
    if faults:
        count = f": {len(faults)} faults" if len(faults) > 1 else ""
        told = "\n  ".join(printable(fault, LONGEST) for fault in faults)
        raise ConfigError(f"invalid config{count}, nothing was run\n  {told}")
    for count in {config["training"].get("processes", 1) for config in configs if grid} - {1}:
        raise ConfigError(ONE_PROCESS.format(count))
    if grid and (missing := [*dict.fromkeys(f for c in configs for f in missing_files(c["data"]))]):
        raise DataError("\n  ".join(["nothing was run, data are missing", *missing]))
    return configs


def _show_only(config: dict, lines: list[str], grid: bool) -> None:
    """Show what would run. A search has its runs, and those that confirm the best of each arm."""
    from knobs.sweep import dry_run  # late: it measures, with torch

    runs = None
    if command.is_search(lines):
        plan = command.plan(lines)
        given = any(key_of(line) == "search.runs" for line in lines)
        runs = (None if given else plan.runs) or config["search"]["runs"] or 0
        runs += plan.seeds * max(2, len(plan.arms)) + bool(plan.seeds)
    hydra = config["hydra"]
    named = _sweep_folder(lines) if grid else None  # a search's probes are not told it
    folder = named or Path(str(hydra["sweep"]["dir"] if grid else hydra["run"]["dir"]))
    dry_run.show(command.LAST.jobs, folder, grid, runs)


def _settled(lines: list[str], folders: list[Path]) -> set[tuple[str, ...]]:
    """Return the jobs of a sweep under way that are over, and need no second check."""
    folder, retry = _sweep_folder(lines), "retry_failed=true" in map(str.lower, lines)
    return ledger.done(folder, ledger.digest(folders), retry) if folder else set()


def _sweep_folder(lines: list[str]) -> Path | None:
    """Return the folder that a command line names for a sweep."""
    values = dict(o.partition("=")[::2] for o in lines if "," not in o)
    name = values.get("sweep", "null")
    named = "" if name == "null" else f"outputs/sweeps/{again.path_of(name)}"
    folder = values.get("hydra.sweep.dir", named)
    return again.path_of(folder) if folder else None
