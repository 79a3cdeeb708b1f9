"""Is a candidate better than a base? The verdict on runs that are there, or of two commands.

BASE and CANDIDATE are folders (a run, a sweep, a folder of runs) or files (CSV, W&B's export, JSON
lines: a row a run, with columns seed, split if there are several, and the metric). FOLDER:KEY=VALUE
takes the runs of that setting, FILE:ARM the rows of that arm.
"""

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from knobs import metrics
from knobs.compare import answer, decide
from knobs.compare.arms import (
    PERCENT,
    Arm,
    check_alike,
    objective_of,
    top_of,
    with_names,
    with_same_rows,
)
from knobs.compare.recorded import arm_of
from knobs.compare.results import Columns, arms_of, rows_of
from knobs.errors import ConfigError, DataError, close_output, did_you_mean, ended
from knobs.report.stats import RATIO
from knobs.words import listed, printable

OF_FILES, OF_GATES = ("arm", "seed", "split"), ("pairs", "minutes", "first", "keep")
LARGE = 0.2  # of a share of 1: whoever types more means points
EXAMPLES = """\
exit codes: 0 better (or not worse, with --not-worse), 20 no difference, 21 worse, 22 too few runs
to say; 2 a wrong command, 3 files that cannot be compared, 10 a command of the gate failed, 130
interrupted. Of several candidates the best one decides.

  python -m knobs.compare outputs/sweeps/NAME:optimizer=adam outputs/sweeps/NAME:optimizer=sgd
  python -m knobs.compare runs.csv:before runs.csv:after --metric val/accuracy
  python -m knobs.compare --gate 'python a.py --seed {seed}' 'python b.py --seed {seed}' --mode max
"""


def main(words: list[str] | None = None) -> int:
    """Compare, and print the verdict; return the exit code."""
    given = _parser().parse_args(words)
    return ended(lambda: _compare(given))


def _compare(given: argparse.Namespace) -> int:
    foreign = OF_FILES if given.gate else OF_GATES
    if wrong := [name for name in foreign if getattr(given, name) is not None]:
        raise ConfigError(f"--{wrong[0]}: only with{'out' * given.gate} --gate")
    if given.gate:
        return _gate(given)
    return _told(*verdict(given), given.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m knobs.compare", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("base", metavar="BASE", help="what there is; with --gate a command")
    parser.add_argument("candidates", metavar="CANDIDATE", nargs="+", help="what is to be better")
    parser.add_argument("--metric", help="a column's name, or a metric of the runs")
    parser.add_argument("--mode", choices=("max", "min"), help="needed where nobody says it")
    for name in OF_FILES:
        parser.add_argument(f"--{name}", metavar="COLUMN", help=f"in place of the column {name}")
    size = parser.add_mutually_exclusive_group()
    least = "the smallest difference that matters: within it on both sides is no difference"
    size.add_argument("--detect", type=_positive, metavar="D", help=least)
    margin = "0 if the candidate is not worse by MARGIN or more"
    size.add_argument("--not-worse", type=_positive, metavar="MARGIN", help=margin)
    ratio = f"validation to training examples, where no file says it (default {RATIO})"
    parser.add_argument("--ratio", type=_positive, help=ratio)
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    gate = parser.add_argument_group("gate", "run two commands until it is decided")
    about = "BASE and CANDIDATE are commands with {seed}, and {split} if they take one; the last "
    about += 'line that one prints is JSON: {"metric": 0.93}; python train.py prints it by itself'
    gate.add_argument("--gate", action="store_true", help=about.replace("%", "%%"))
    gate.add_argument("--pairs", type=int, metavar="N", help="at most (default 20)")
    gate.add_argument("--minutes", type=_positive, metavar="M", help="at most")
    first = "the first seed and split (default 1000: seeds that have chosen nothing)"
    gate.add_argument("--first", type=int, metavar="SEED", help=first)
    keep = "results as JSON lines; the same command goes on with those that are there"
    gate.add_argument("--keep", type=Path, metavar="FILE", help=keep)
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return value


def _gate(given: argparse.Namespace) -> int:
    from knobs.compare import gate

    if len(given.candidates) > 1:
        raise ConfigError(f"--gate: two commands, not {1 + len(given.candidates)}; quote each")
    typed = {name: getattr(given, name) for name in OF_GATES if getattr(given, name) is not None}
    plan = gate.Plan((given.base, given.candidates[0]), **typed)
    if given.metric:
        objective_of([Arm("", {}, given.metric)], given.mode)  # a fault before anything runs
    columns = Columns(metric=given.metric)
    progress = functools.partial(print, file=sys.stderr, flush=True)

    def judge(rows: Sequence[tuple[int, dict]], looks: tuple[int, ...]) -> tuple:
        arms = arms_of(rows, "the gate", columns)
        if alone := arms["A"].values.keys() ^ arms["B"].values.keys():
            seed, split, fold = min(alone)
            where = f"split {split}" + f", fold {fold}" * bool(fold)
            raise DataError(f"seed {seed}: one command alone was judged on {where}; use {{split}}")
        check_alike(arms["A"], arms["B"])
        return judged(with_same_rows([arms["A"], arms["B"]]), given, looks)

    found, question, notes = gate.run(plan, given.metric, judge, progress)
    return _told(found, question, notes, given.json)


def verdict(given: argparse.Namespace) -> tuple:
    """Read the arms that a command line names, and compare them."""
    columns = Columns(given.metric, given.arm, given.seed, given.split)
    words = [given.base, *given.candidates]
    files: dict[Path, dict[str, Arm]] = {}
    places = [_place(word) for word in words]
    if twice := next((w for w, p in zip(words, places, strict=True) if places.count(p) > 1), None):
        raise ConfigError(f"{printable(twice)}: compared with itself")
    arms = with_names([_arm(*place, columns, files) for place in places], words)
    for other in arms[1:]:
        check_alike(arms[0], other)
    arms = with_same_rows(arms)
    looks = max((arm.looks for arm in arms), key=len)
    return judged(arms, given, looks)


def judged(arms: Sequence[Arm], given: argparse.Namespace, looks: tuple[int, ...]) -> tuple:
    """Return the comparisons of arms, the first being the base; the question; further notes."""
    if empty := [arm for arm in arms if not arm.values]:
        raise DataError(f"{empty[0].name}: no run with a result; {listed(empty[0].notes)}")
    objective = objective_of(arms, given.mode)
    for option, size in (("--detect", given.detect), ("--not-worse", given.not_worse)):
        if objective.in_points and size and size >= LARGE:
            unit = f"{objective.metric} is a share of 1, in which half a point is 0.005"
            raise ConfigError(f"{option} {size:g}: must be below {LARGE}; {unit}")
    sizes = {(arm.validation, arm.training) for arm in arms}
    validation, training = min({both for both in sizes if all(both)} or sizes)
    ratio = given.ratio or (validation / training if validation and training else RATIO)
    several = any(len({repeat[1:] for repeat in arm.values}) > 1 for arm in arms)
    notes = []
    if several and not given.ratio and not (validation and training):
        notes.append(f"validation to training examples: {RATIO} is assumed; --ratio states it")
    metric = objective.metric.removesuffix(PERCENT)
    if given.mode and metrics.known(metric) and given.mode != (usual := metrics.mode_of(metric)):
        less = "more" if usual == "max" else "less"
        notes.append(f"--mode {given.mode} is taken, though of {metric} {less} is better")
    accuracy = top_of(objective) and metrics.plain(metric) == "accuracy"
    question = decide.Question(
        objective, given.detect, given.not_worse, ratio, validation if accuracy else 0, looks
    )
    return decide.compare(arms[0], arms[1:], question), question, notes


def _place(word: str) -> tuple[Path, str]:
    """Return the file or folder that a word names, and what stands behind its colon.

    Raises:
        ConfigError: there is none.
    """
    cuts = [len(word), *(i for i, letter in enumerate(word) if letter == ":")]
    cut = next((cut for cut in cuts if cut and _exists(word[:cut])), None)
    if cut is None:
        raise ConfigError(f"{printable(word)}: no such file or folder; FILE:ARM names an arm of it")
    return Path(os.path.relpath(os.path.realpath(word[:cut]))), word[cut + 1 :].strip()


def _arm(path: Path, name: str, columns: Columns, files: dict[Path, dict[str, Arm]]) -> Arm:
    """Return the arm of a place.

    Args:
        files: that have been read.

    Raises:
        ConfigError: no such arm.
    """
    if os.path.isdir(path):
        return arm_of(path, name, columns.metric)
    if path not in files:
        files[path] = arms_of(rows_of(path), str(path), columns)
    arms = files[path]
    if not name and len(arms) == 1:
        [(only, arm)] = arms.items()
        return Arm(**vars(arm) | {"name": only or path.stem})
    if name not in arms:
        what = f"no arm {printable(name, 60)}" if name else "several arms"
        shown = listed([printable(arm, 40) for arm in arms], 8)
        near = did_you_mean(name, arms) if name else ""
        raise ConfigError(f"{path}: {what}{near or f'; FILE:ARM with one of {shown}'}")
    return arms[name]


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except (OSError, ValueError):  # a name too long, a byte 0
        return False


def _told(found: tuple, question: decide.Question, notes: Sequence[str], as_json: bool) -> int:
    """Print the verdict; return its exit code, which holds where nobody reads to the end."""
    text = answer.as_text(found, question, notes)
    if as_json:
        document = answer.as_json(found, question, notes)
        text = json.dumps(document, indent=1, allow_nan=False)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:  # `| head` has read enough
        close_output()
    return decide.best(found).code


if __name__ == "__main__":
    sys.exit(main())
