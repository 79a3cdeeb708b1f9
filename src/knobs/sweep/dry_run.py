"""`--dry-run`: the jobs of a command line, what they will cost, and where they will lie."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from knobs.record import LEDGER
from knobs.sweep.groups import plan_groups
from knobs.sweep.jobs import Job
from knobs.sweep.kin import reader
from knobs.sweep.launch import most_rows
from knobs.sweep.screen import on_disk
from knobs.training.setup import machine
from knobs.words import count, duration

SHOWN = 20  # jobs on a terminal; elsewhere all of them


def show(jobs: dict[tuple[str, ...], dict], folder: Path, many: bool, runs: int | None) -> None:
    """Print what would run; nothing is trained, and no folder is made.

    Args:
        jobs: the overrides of each, and its config, resolved and checked.
        folder: of the run, or of the sweep.
        many: whether it is a sweep.
        runs: of a search, whose jobs are examples; None for a grid.
    """
    out = Console(highlight=False, soft_wrap=True)
    read = reader(out)
    planned = {n: Job(n, list(lines), config) for n, (lines, config) in enumerate(jobs.items())}
    with machine(next(iter(jobs.values()))["training"]):
        groups = plan_groups(planned, read, min(len(planned), most_rows()), {})
    seconds = sum(group.steps * group.step_seconds for group in groups)
    size = sum(group.on_disk for group in groups)
    if runs is not None:
        seconds *= runs / len(planned)
        said = [f"about {duration(seconds)}", *on_disk(size * runs / len(planned))]
        out.print(f"a search of {count(runs, 'run')}, {', '.join(said)}")
    else:
        stacks = sum(len(group.chunks) for group in groups if group.width > 1)
        alone = sum(len(group.jobs) for group in groups if group.width == 1)
        how = [f"{count(len(planned) - alone, 'run')} in {count(stacks, 'stack')}"] * bool(stacks)
        how += [f"{count(alone, 'run')} sequentially"] * (bool(alone) and many)
        what = ", ".join(how) or "one run"
        steps = sum(group.steps for group in groups)
        said = [f"{steps:,} optimizer steps", f"about {duration(seconds)}", *on_disk(size)]
        out.print(f"{what}: {', '.join(said)}")
    new = runs is None and not (folder / LEDGER).exists()  # else the numbers are others
    lines = Counter(line for job in planned.values() for line in job.overrides)
    shared = [line for line, n in lines.items() if n == len(planned) > 1]
    if shared and many:
        out.print(escape(f"all: {' '.join(shared)}"))
    shown = list(planned.items())[: SHOWN if out.is_terminal else None]
    for number, job in shown if many else ():
        place = folder / str(number) if new else ""
        differs = " ".join(line for line in job.overrides if line not in shared)
        name = f"{number:>4}" if new else "    "
        out.print(escape(f"{name}  {differs}  {place}".rstrip()))
    if many and len(shown) < len(planned):
        out.print(f"      and {len(planned) - len(shown):,} more")
    out.print(escape(f"folder: {folder}"))
