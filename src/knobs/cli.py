"""Prepare a command line for Hydra: help, the check, resume, and exit codes."""

import gc
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from yaml import YAMLError

from knobs import ledger, record, storage
from knobs.config import command
from knobs.config.check import resolve
from knobs.config.command import CONF
from knobs.errors import CheckpointError, ConfigError, UserError, tell
from knobs.identity import differences, job_of, key_of, under
from knobs.record import defaults_since, renamed

# What may change when a run goes on; anything else would make it another run.
RESUMABLE = ("training.epochs", "training.threads", "tracking", "test", "silence")


def main(train: Callable[[], None]) -> None:
    """Check the command line, then hand over to `train`, the @hydra.main function.

    A fault a user can mend is printed without a traceback and ends in its exit code.
    """
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            return show_help()
        sys.argv[1:] = prepare(sys.argv[1:])
        train()
    except UserError as error:
        sys.exit(tell(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def prepare(argv: list[str]) -> list[str]:
    """Compose and check every config that is asked for; return the command line for Hydra.

    Questions that Hydra answers about a config (`--cfg`, completion, ...) go through unchecked.

    Raises:
        ConfigError: naming all faults at once; nothing has run and no folder was made.
        CheckpointError: `resume=` names no run.
    """
    args = get_args_parser().parse_intermixed_args(argv)  # flags behind overrides too
    if args.cfg or args.info or args.hydra_help or args.shell_completion:
        return argv  # questions about a config: Hydra answers them, and nothing runs
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun: reads a pickle, which can run code; use resume=")
    given, args.overrides = args.overrides, _with_names_of_today(args.overrides)
    lines = args.overrides
    resumed = [o for o in lines if o.startswith("resume=") and o != "resume=null"]
    folder = resumed[-1].partition("=")[2] if resumed else ""
    overrides = _resume(folder, args) if resumed else lines
    if began := _path(folder) if resumed else _sweep_folder(overrides):
        stated = set(map(key_of, overrides))
        older = [line for line in defaults_since(began) if key_of(line) not in stated]
        overrides = [*older, *overrides]
    folders = [Path(args.config_path).resolve() if args.config_path else CONF]
    folders += [Path(args.config_dir)] if args.config_dir else []
    grid = args.multirun or command.MULTIRUN in overrides
    settled: set[tuple[str, ...]] = set()
    if _is_study(lines, grid) and not any(o.startswith("hydra/sweeper=") for o in overrides):
        overrides = [*overrides, "hydra/sweeper=search"]
    if grid:
        # A grid's configs live to its end: looking among them for garbage takes a tenth of a start.
        gc.set_threshold(100_000, 50, 50)
        if not command.is_search(overrides):
            settled = _settled(overrides, folders)
    from knobs import late_compiler  # late: it imports torch, as the check does

    late_compiler.install()
    configs, faults = command.check_overrides(
        overrides,
        folders,
        config_name=args.config_name or "config",
        grid=grid,
        skip=lambda job: job_of(job) in settled,
    )
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise ConfigError(f"{count} in the config, nothing was run\n  " + "\n  ".join(faults))
    if resumed:
        _same_run(configs[0], folder)
    if not grid and configs[0]["task"] == "train":
        _hold(_path(configs[0]["hydra"]["run"]["dir"]), bool(resumed))
    return [*(arg for arg in argv if arg not in given), *overrides]


def _with_names_of_today(lines: list[str]) -> list[str]:
    """Return overrides under the names of today, and say which had others."""
    current = [renamed(line) for line in lines]
    for old, new in zip(lines, current, strict=True):
        if old != new:
            print(f"knobs: {old} is {new} now, and is taken as that", file=sys.stderr)
    return current


def _is_study(lines: list[str], grid: bool) -> bool:
    """Return whether a study is asked for; refuse the words of a sweep where they do not belong."""
    named = [o for o in lines if o.startswith(("sweep=", "retry_failed=", "keep_going="))]
    studied = [o for o in lines if o.startswith(("+study=", "study="))]
    if several := [o for o in named if "," in o]:
        one = "one name, and one value of retry_failed and of keep_going"
        raise ConfigError(f"{several[0]}: a sweep has {one}")
    if studied and not grid:
        raise ConfigError(f"{studied[0]}: a study is many runs; put -m first")
    if named and not grid:
        raise ConfigError(f"{named[0]}: belongs to a grid; put -m first")
    return bool(studied)


def _settled(overrides: list[str], folders: list[Path]) -> set[tuple[str, ...]]:
    """Return the jobs of a sweep under way that are over, and need no second check."""
    folder, retry = _sweep_folder(overrides), "retry_failed=true" in map(str.lower, overrides)
    return ledger.done(folder, ledger.digest(folders), retry) if folder else set()


def _sweep_folder(overrides: list[str]) -> Path | None:
    """Return the folder that a command line names for a sweep."""
    values = dict(o.partition("=")[::2] for o in overrides if "," not in o)
    named = f"outputs/sweeps/{values['sweep']}" if "sweep" in values else ""
    folder = values.get("hydra.sweep.dir", named)
    return _path(folder) if folder else None


def _path(text: str) -> Path:
    """Return a folder that an override names, quoted or not."""
    return Path(text.strip("'\""))


def _hold(path: Path, resumed: bool) -> None:
    """Hold a run's folder before Hydra writes into it; the run then takes the lock over.

    Raises:
        ConfigError: a new run was typed into the folder of another. LockedError: another process
            is writing there.
    """
    if not resumed and (path / record.CONFIG).exists():
        more = f"resume={path} goes on with it, or name another folder"
        raise ConfigError(f"hydra.run.dir={path}: holds a run already; {more}")
    if path.is_dir():
        storage.keep(record.hold(path))


def _resume(folder: str, args: Namespace) -> list[str]:
    """Return the overrides that made the run in `folder`, with what the user changes."""
    path = _path(folder)
    before = _recorded(path)
    if before is None:
        raise CheckpointError(f"resume={folder}: no run there (no .hydra/overrides.yaml)")
    if args.multirun:
        raise ConfigError(f"resume={folder}: goes on with one run; leave -m out")
    changes = [o for o in args.overrides if not o.startswith("resume=")]
    for change in changes:
        if not under(change.partition("=")[0].lstrip("+~"), RESUMABLE):
            raise ConfigError(
                f"{change}: a resumed run keeps its knobs; only {', '.join(RESUMABLE)} may change"
            )
    before = [o for o in before if not o.startswith("resume=")]
    return [*before, *changes, f"resume='{path}'", f"hydra.run.dir='{path}'"]


def _recorded(path: Path) -> list[str] | None:
    """Return the overrides that made a run, under the names of today; None where none are known."""
    try:
        lines = OmegaConf.load(path / ".hydra" / "overrides.yaml")
    except (*record.BROKEN, YAMLError):
        try:
            lines = record.read_config(path)["overrides"]
        except (*record.BROKEN, KeyError):
            return None
    return [renamed(str(line)) for line in lines]


def _same_run(now: dict, folder: str) -> None:
    """Refuse to go on when conf/ has changed since the run began."""
    try:
        composed = OmegaConf.load(_path(folder) / ".hydra" / "config.yaml")
        composed.name = ""  # it names Hydra's choices, which are not in this file
        before = record.migrate(resolve(composed))
    except (*record.BROKEN, YAMLError):
        before = record.read_config(_path(folder))["config"]
    paths = differences(before, now)  # `hydra` plays no part in them
    if changed := [path for path in paths if not under(path, RESUMABLE)]:
        raise ConfigError(
            f"resume={folder}: conf/ has changed since that run: {', '.join(changed)}; "
            "put the old values back, or start a new run"
        )


def show_help() -> None:
    """Print the knobs and their options, each with the first line of its YAML; without torch."""
    from rich.console import Console
    from rich.table import Table

    out = Console()
    out.print(sys.modules["__main__"].__doc__ or "", highlight=False)
    for group, default in (ordered_groups() | {"study": ""}).items():
        head = f"[bold]{'-m +' if group == 'study' else ''}{group}[/]="
        table = Table(box=None, show_header=False, padding=(0, 1), title=head, title_justify="left")
        table.add_column(style="cyan", min_width=20, no_wrap=True)
        table.add_column()
        for option in sorted((CONF / group).glob("*.yaml")):
            chosen = "*" if option.stem == default else " "
            table.add_row(chosen + option.stem, first_comment(option))
        out.print(table)
    out.print(
        "* is the default. Values: `python train.py --cfg job` lists them all; conf/ explains each."
    )
    out.print("Hydra's own flags: --hydra-help. Tab completion, in bash:")
    out.print('  eval "$(python train.py -sc install=bash)"')


def ordered_groups() -> dict[str, str]:
    """Return group -> default option, in the order of config.yaml's defaults list."""
    text = (CONF / "config.yaml").read_text()
    return dict(re.findall(r"^  - (\w+): (\w+)", text, re.MULTILINE))


def first_comment(path: Path) -> str:
    """Return the one-line help that a YAML opens with."""
    lines = (line.lstrip("# ").rstrip() for line in path.read_text().splitlines())
    return next(line for line in lines if not line.startswith("@package"))
