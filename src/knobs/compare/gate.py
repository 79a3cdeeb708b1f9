"""The gate: two commands run on the same new seeds until it is decided which is better.

Each command is a program and its words, without a shell. It is run for seeds that have chosen
nothing yet, and the last line that it prints is a JSON object with the metric. The runs are looked
at every fifth pair; the intervals allow for all of these looks (stats.py: alpha spending), so that
a gate may stop as soon as one decides.
"""

import contextlib
import functools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from knobs import storage
from knobs.compare.decide import BETTER, SAME, TOO_FEW, WORSE
from knobs.compare.results import (
    LOOKS,
    MEND,
    NO_METRIC,
    Columns,
    Row,
    arms_of,
    read_text,
    rows_in,
)
from knobs.errors import SWEEP_FAILED, ConfigError, DataError, UserError
from knobs.processes import ends_with_us
from knobs.record import RESULT, append
from knobs.report.stats import LEAST_PAIRS
from knobs.signals import STOPPING, Stopped
from knobs.words import count, listed, printable

ARMS = ("A", "B")  # base and candidate
TRIES = 3  # of a run that fails
SHOWN = 8  # last lines of what a failed command wrote to stderr
LINE = 2**16  # bytes of an output's line; a longer one is read in parts
MOST_PAIRS, MOST_LOOKS = 1000, 20
PATIENCE = 5.0  # seconds that a command has to end when it is told to
Judge = Callable[[Sequence[tuple[int, Row]], tuple[int, ...]], tuple]


class CommandFailed(UserError):
    """A command of a gate that does not give a result."""

    exit_code = SWEEP_FAILED


class NoPair(UserError):
    """A budget that ended before one pair of runs."""

    exit_code = TOO_FEW


class _OutOfTime(Exception):
    """The budget of minutes has ended."""


@dataclass(frozen=True)
class Plan:
    """The plan of a gate.

    Args:
        commands: of the base and the candidate, with {seed}, and {split} in both or neither.
        pairs: at most.
        first: seed and split of the first pair.
        minutes: at most; None for no limit.
        keep: file of the results; None for a new one below outputs/gates.

    Raises:
        ConfigError: a command or a number that cannot be.
    """

    commands: tuple[str, str]
    pairs: int = 20
    first: int = 1000
    minutes: float | None = None
    keep: Path | None = None

    def __post_init__(self) -> None:
        if not LEAST_PAIRS <= self.pairs <= MOST_PAIRS:
            raise ConfigError(f"--pairs {self.pairs}: must be {LEAST_PAIRS} to {MOST_PAIRS}")
        if not 0 <= self.first < 2**31:
            raise ConfigError(f"--first {self.first}: must be a whole number >= 0 and < 2^31")
        for arm, command in zip(ARMS, self.commands, strict=True):
            try:
                words = shlex.split(command)
            except ValueError as error:
                raise ConfigError(f"command {arm}: {error}; {printable(command)}") from None
            if not words or "{seed}" not in command:
                raise ConfigError(
                    f"command {arm}: no {{seed}} in it; without one every pair is the same run: "
                    f"{printable(command) or 'empty'}"
                )
        if len({"{split}" in command for command in self.commands}) > 1:
            raise ConfigError("{split}: in one command only; both are to be judged on one split")

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs at which it is looked: every fifth, and the last."""
        step = LEAST_PAIRS * -(-self.pairs // (LEAST_PAIRS * MOST_LOOKS))
        return tuple(dict.fromkeys([*range(step, self.pairs + 1, step), self.pairs]))

    def place(self, pair: int) -> dict[str, int]:
        """Return the seed of a pair, and its split where the commands take one."""
        number = self.first + pair
        return {"seed": number} | ({"split": number} if "{split}" in self.commands[0] else {})

    def row(self, arm: str, pair: int) -> Row:
        """Return what a result states beside the metric."""
        command = self.commands[ARMS.index(arm)]
        return {"arm": arm, "command": command} | self.place(pair) | {LOOKS: list(self.looks)}

    def words(self, arm: str, pair: int) -> list[str]:
        """Return the words of one run."""
        words = shlex.split(self.commands[ARMS.index(arm)])
        for name, number in self.place(pair).items():
            words = [word.replace(f"{{{name}}}", str(number)) for word in words]
        return words


def run(plan: Plan, metric: str | None, judge: Judge, progress: Callable[[str], Any]) -> tuple:
    """Run what is missing until it is decided or a budget ends; return what `judge` returns.

    Args:
        metric: the key of it in the last line of a command; None where there is no choice.
        judge: rows and looks -> comparisons, their question, notes.
        progress: where a line a pair goes.

    Raises:
        CommandFailed: a run failed TRIES times, or gave no result. ConfigError: no such program.
        DataError: a kept file is of another gate. LockedError: another gate writes it.
        NoPair: the minutes ended before one pair.
    """
    new = f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}.jsonl"
    keep = plan.keep or Path("outputs", "gates", new)
    keep.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * plan.minutes if plan.minutes else None
    with storage.Lock(keep.with_name(f"{keep.name}.lock"), f"{{who}} writes {keep.name}"):
        rows = _kept(keep, plan)
        notes = [f"{count(len(rows), 'run')} of {keep} counted again: were they of this code?"]
        notes = notes if rows else []
        try:
            end = _run(plan, rows, keep, metric, judge, progress, deadline)
        except (Stopped, CommandFailed, OSError):
            again = f"the same command with --keep {shlex.quote(str(keep))} goes on"
            if rows:
                print(f"{count(len(rows), 'result')} kept; {again}", file=sys.stderr)
            raise
    pairs = _whole_pairs(plan, rows)
    if not pairs:
        raise NoPair(f"too few to say: {end}; results: {keep}")
    found, question, more = judge(_rows(plan, rows, _looked_at(plan, pairs)), plan.looks)
    notes = [*more, *([end] if end else []), *notes, f"results: {keep}"]
    return found, question, notes


def _run(
    plan: Plan, rows: dict, keep: Path, metric: str | None, judge: Judge,
    progress: Callable[[str], Any], deadline: float | None,
) -> str:  # fmt: skip
    """Run pair by pair; return why it ended undecided, else nothing."""
    for pair in range(plan.pairs):
        for arm in ARMS:
            if (arm, pair) in rows:
                continue
            try:
                found = _result(plan, arm, pair, metric, deadline)
            except _OutOfTime:
                return f"--minutes {plan.minutes:g} ended after {count(pair, 'pair')}"
            rows[arm, pair] = found
            append(keep, storage.as_line(found))
        _check_in_common(rows, pair)
        progress(_line(plan, rows, pair, metric))
        if pair + 1 in (1, *plan.looks):  # at the first for faults alone
            [comparison], question, _ = judge(_rows(plan, rows, pair + 1), plan.looks)
            if comparison.constant:
                return f"ended after {count(pair + 1, 'pair')}, as no seed changes anything"
            enough = question.detect is not None and not any(comparison.broke)
            if comparison.code in ((BETTER, WORSE, SAME) if enough else (BETTER, WORSE)):
                return ""
    return f"all {plan.pairs} pairs have run (--pairs)"


def _looked_at(plan: Plan, pairs: int) -> int:
    """Return how many of the whole pairs count: those of the latest look, as it was planned."""
    return max((look for look in plan.looks if look <= pairs), default=pairs)


def _whole_pairs(plan: Plan, rows: dict) -> int:
    """Return how many pairs have both runs, from the first on."""
    missing = (i for i in range(plan.pairs) if not all((arm, i) in rows for arm in ARMS))
    return next(missing, plan.pairs)


def _rows(plan: Plan, rows: dict, pairs: int) -> list[tuple[int, Row]]:
    """Return the rows of the first pairs, numbered as lines of a file."""
    return list(enumerate((rows[arm, i] for i in range(pairs) for arm in ARMS), 1))


def _check_in_common(rows: dict, pair: int) -> None:
    """Refuse a pair whose commands print no metric by the same name."""
    keys = [{name for name in rows[arm, pair] if name not in NO_METRIC} for arm in ARMS]
    if all(keys) and not keys[0] & keys[1]:  # one that diverged may print none
        shown = " and ".join(listed(sorted(printable(key, 40) for key in one), 4) for one in keys)
        raise DataError(f"the commands print no metric in common: {shown}")


def _line(plan: Plan, rows: dict, pair: int, metric: str | None) -> str:
    """Return a line on a pair."""
    arms = arms_of(_rows(plan, rows, pair + 1)[-2:], "the gate", Columns(metric))
    values = [next(iter(arms[arm].values.values())) for arm in ARMS]
    texts = ("diverged" if math.isnan(value) else f"{value:.6g}" for value in values)
    shown = ", ".join(map(" ".join, zip(ARMS, texts, strict=True)))
    return f"seed {plan.place(pair)['seed']}: {shown}"


# ------------------------------------------------------------------ kept results
def _kept(keep: Path, plan: Plan) -> dict[tuple[str, int], Row]:
    """Return (arm, pair) -> row of a file of results; half a line that a kill left is taken off.

    Raises:
        DataError: not the file of this gate, or a damaged line; it is left as it is.
    """
    if not keep.exists():
        return {}
    text = read_text(keep)
    whole, half = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
    begin = '{"arm": "'
    if not (half.startswith(begin) or begin.startswith(half)):
        raise DataError(f"{keep}: not the results of a gate; --keep another file")
    found, lines = {}, whole.split("\n")
    for number, row in rows_in(whole, keep) if whole.strip() else ():
        arm, pair = row.get("arm"), row.get("seed")
        pair = pair - plan.first if type(pair) is int else -1
        planned = arm in ARMS and 0 <= pair < plan.pairs and (arm, pair) not in found
        if not planned or row != row | plan.row(arm, pair):
            raise DataError(
                f"{keep}, line {number}: of a gate with other commands, --pairs or --first; looks "
                "are planned before the first run, so --keep another file"
            )
        # As a gate writes it, with its checksum or, older ones, without: else that was damaged.
        line = lines[number - 1].rstrip("\r").encode() + b"\n"
        if line not in (storage.as_line(row), storage.as_json(row, None)):
            raise DataError(f"{keep}, line {number}: damaged: its checksum is none; {MEND}")
        found[arm, pair] = row
    if half:
        storage.cut_half_line(keep)
    return found


# ------------------------------------------------------------------ one run
def _result(plan: Plan, arm: str, pair: int, metric: str | None, deadline: float | None) -> Row:
    """Run a command; return the row of its result."""
    words, failed = plan.words(arm, pair), ""
    for _ in range(TRIES):
        code, out, err = execute(words, deadline)
        found = _last(out)
        if found is not None and (code == 0 or found.get("status") == "diverged"):
            row = plan.row(arm, pair)
            seed = found.get("seed", row["seed"])
            if seed != row["seed"] and str(seed).strip() != str(row["seed"]):
                other = f"prints seed {printable(str(found['seed']), 40)}, not the one it was given"
                raise CommandFailed(f"{shlex.join(words)}: {other}")
            row |= {name: _as_text(value) for name, value in found.items() if name not in row}
            where = f"the last line of {shlex.join(words)}"
            if not arms_of([(1, row)], where, Columns(metric))[arm].values:
                raise CommandFailed(f"{where}: the status {printable(str(row['status']), 40)}")
            return row
        if code == 0:
            last = printable(out[-1] if out else "nothing", 80)
            raise CommandFailed(
                f'{shlex.join(words)}: its last line is to be JSON such as {{"metric": 0.93}}, '
                f"and is: {last}"
            )
        failed = "".join(f"\n  {printable(line, 200)}" for line in err[-SHOWN:])
    how = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
    raise CommandFailed(f"{shlex.join(words)}: failed {TRIES} times, {how}{failed}")


def _as_text(value: Any) -> Any:
    """Return a number that is not finite as a text, which reads the same: JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _last(out: Sequence[str]) -> Row | None:
    """Return the JSON object in the last line of an output; None where it is none."""
    with contextlib.suppress(ValueError, RecursionError, IndexError):
        found = json.loads(out[-1])
        return found if isinstance(found, dict) else None
    return None


def execute(
    words: Sequence[str], deadline: float | None = None
) -> tuple[int, list[str], list[str]]:
    """Run a program; return its exit code and the last lines of stdout and stderr, none blank.

    Raises:
        ConfigError: no such program. _OutOfTime: the deadline came first; the program is ended.
    """
    process, readers = None, []
    ends: dict[IO[bytes], list[str]] = {}
    try:
        with _signals_wait():
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=os.environ | {RESULT: "1"}, start_new_session=True, preexec_fn=ends_with_us(),
            )  # fmt: skip
            for stream in (process.stdout, process.stderr):
                readers.append(threading.Thread(target=_read, args=(stream, ends), daemon=True))
                readers[-1].start()
        # With a limit, even none, it is polled: a signal that came just before a call that blocks
        # would wait for the program's end.
        left = math.inf if deadline is None else deadline - time.monotonic()
        code = process.wait(max(0.0, left))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{printable(words[0], 100)}: cannot be run ({why})") from None
    except subprocess.TimeoutExpired:
        raise _OutOfTime from None
    finally:
        if process:
            _end(process)
        for reader in readers:
            reader.join(PATIENCE)
    return code, ends.get(process.stdout, []), ends.get(process.stderr, [])


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let signals wait: a program that is just being started would outlive them."""
    came: list[int] = []
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in STOPPING]
    try:
        yield
    finally:
        for number, handler in zip(STOPPING, before, strict=True):
            signal.signal(number, handler)
    for number in came[:1]:
        signal.raise_signal(number)


def _read(stream: IO[bytes], ends: dict[IO[bytes], list[str]]) -> None:
    """Keep the last lines of a stream."""
    lines = iter(functools.partial(stream.readline, LINE), b"")
    last = deque((line for line in lines if line.strip()), maxlen=SHOWN)
    ends[stream] = [line.decode(errors="replace").strip() for line in last]
    stream.close()


def _end(process: subprocess.Popen) -> None:
    """End a program and what it has started: asked first, then made to."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, number)
            elif process.poll() is None:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
