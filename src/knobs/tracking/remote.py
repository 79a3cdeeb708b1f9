"""The mirrors of the many runs of a stack, in a process of their own.

One interpreter lets one thread at a time run Python: mirrors in threads would hold up a stack's
training. Here they cost it a line of JSON an epoch, `[run, "log", [metrics]]` on the process's
stdin; what to show of a run comes back as `[run, line]`.
"""

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs.processes import end_with
from knobs.tracking import Mirror, kind, mirror
from knobs.tracking.tracker import FINISH_TIMEOUT

NICE = 10  # what the operating system leaves over is enough
POLL = 0.05  # seconds between two looks for a run's line


class MirrorProcess:
    """Owns the process, started with the first run that wants to be mirrored."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._lines: dict[int, str] = {}
        self._fault = ""  # why the process did not start
        self._count = 0

    def mirror(self, settings: dict, config: dict, folder: Path, earlier: list[dict]) -> Mirror:
        """Return a run's mirror; its arguments are those of tracking.mirror."""
        if (named := kind(settings)) is Mirror or named.idle(settings):
            return mirror(settings, config, folder, earlier)
        if not (self._process or self._fault):
            self._start()
        self._count += 1
        self.send(self._count, "open", settings, config, str(folder), earlier)
        return Remote(self, self._count, named.label)

    def send(self, run: int, do: str, *arguments: Any) -> None:
        """Queue one call; returns at once."""
        self._calls.put(json.dumps([run, do, arguments]) + "\n")

    def line(self, run: int) -> str:
        """Let the process end, and wait for what it has to say of a run."""
        self.close()
        latest = time.monotonic() + FINISH_TIMEOUT + 60
        while run not in self._lines and self._reader.is_alive() and time.monotonic() < latest:
            self._reader.join(POLL)
        late = self._reader.is_alive() and "it did not finish in time; the records are whole"
        early = self._fault or "its process ended early; the records are whole"
        return self._lines.get(run, late or early)

    def close(self) -> None:
        """Let the process end when it has done its work; no call comes after this one."""
        self._calls.put(None)

    def _start(self) -> None:
        # A session of its own: Ctrl-C is for the training, which then tells its mirrors.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "knobs.tracking.remote", str(os.getpid()), *sys.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            self._fault = f"its process did not start ({error}); the records are whole"
            return
        self._writer.start()
        self._reader.start()

    def _write(self) -> None:
        # Where the process has died there is nothing to do: `line` tells.
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            while (line := self._calls.get()) is not None:
                stdin.write(line)
                if self._calls.empty():
                    stdin.flush()

    def _read(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # half a line of a killed process
                    run, text = json.loads(line)
                    self._lines[run] = text
        self._process.wait()


@dataclass(frozen=True)
class Remote(Mirror):
    """Mirrors one run there."""

    process: MirrorProcess
    run: int
    label: str

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one epoch."""
        self.process.send(self.run, "log", metrics)

    def end(self, summary: dict[str, Any], exit_code: int, checkpoint: Path | None) -> None:
        """Mirror the summary; returns at once."""
        self.process.send(self.run, "end", summary, exit_code, checkpoint and str(checkpoint))

    def wait(self) -> str:
        """Wait until all is mirrored; return the line to show."""
        return self.process.line(self.run)


class Best:
    """Tells the mirrors which run is the best of those that one process trained.

    Runs are compared that have data, metric and group in common. The best so far waits for its
    verdict until a better one has ended, or all have.
    """

    def __init__(self, mirrors: dict[int, Mirror]):
        self._mirrors = mirrors
        self._among: dict[int, tuple[str, ...]] = {}
        self._best: dict[tuple[str, ...], tuple[float, int]] = {}

    def begun(self, run: int, settings: dict, config: dict) -> None:
        """Note what a run is compared with."""
        objective = config["objective"]
        names = (config["data"]["name"], settings.get("group"))
        self._among[run] = (objective["metric"], objective["mode"], *map(str, names))

    def ended(self, run: int, value: float | None) -> None:
        """Judge a run that has ended and is not the best, or the one that was."""
        among, beaten = self._among[run], run
        if value is not None and math.isfinite(value):
            score = value if among[1] == "max" else -value
            before = self._best.get(among, (-math.inf, 0))
            if score > before[0]:
                self._best[among], beaten = (score, run), before[1]
        if beaten:
            self._mirrors[beaten].judge(False)

    def judge(self) -> None:
        """Tell those that are the best."""
        for _, run in self._best.values():
            self._mirrors[run].judge(True)


def main() -> None:
    """Be the process: a mirror for each run, until the parent has no more to say."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    end_with(int(sys.argv[1]))  # `make sync` mirrors what it leaves
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else prints goes elsewhere
    sys.argv = sys.argv[2:] or sys.argv  # the parent's, whose flags a command to copy needs
    mirrors: dict[int, Mirror] = {}
    best = Best(mirrors)
    for text in sys.stdin:
        run, do, arguments = json.loads(text)
        if do == "open":
            settings, config, folder, earlier = arguments
            mirrors[run] = mirror(settings, config, Path(folder), earlier)
            best.begun(run, settings, config)
        elif do == "log":
            mirrors[run].log(*arguments)
        else:
            summary, exit_code, path = arguments
            mirrors[run].end(summary, exit_code, path and Path(path))
            best.ended(run, summary.get("objective"))
    best.judge()
    for run, one in mirrors.items():  # one that did not end does so in `wait`
        line = json.dumps([run, one.wait()]) + "\n"
        with contextlib.suppress(OSError):  # the parent died; its runs end all the same
            os.write(answers, line.encode())


if __name__ == "__main__":
    main()
