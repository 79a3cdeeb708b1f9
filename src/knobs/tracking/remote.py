"""W&B for the many runs of a stack, in a process of its own.

One interpreter lets one thread at a time run Python: mirrors in threads would hold up a stack's
training. Here they cost it a line of JSON an epoch, `[run, "log", [metrics]]` on the process's
stdin; what to show of a run comes back as `[run, line]`.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from knobs.record import read_metrics
from knobs.tracking.tracker import FINISH_TIMEOUT, Tracker, enabled

NICE = 10  # what the operating system leaves over is enough


class Mirror:
    """Owns the process, started with the first run that wants to be mirrored."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self._lines: dict[int, str] = {}
        self._over = ""  # why no more lines will come
        self._news = threading.Condition()
        self._count = 0

    def tracker(self, settings: dict, config: dict, folder: Path) -> "Remote | Tracker":
        """Return a run's mirror."""
        if not enabled(settings):
            return Tracker(settings, config, folder)
        if not (self._process or self._over):
            self._start()
        self._count += 1
        self.send(self._count, "open", settings, config, str(folder), read_metrics(folder))
        return Remote(self, self._count)

    def send(self, run: int, do: str, *arguments: Any) -> None:
        """Queue one call; returns at once."""
        self._out.put(json.dumps([run, do, arguments]) + "\n")

    def line(self, run: int) -> str:
        """Wait for what a run's mirror has to say at its end."""
        with self._news:
            self._news.wait_for(lambda: run in self._lines or self._over, FINISH_TIMEOUT + 60)
        late = self._over or "W&B did not finish in time; the records are whole"
        return self._lines.get(run, late)

    def close(self) -> None:
        """Let the process end when it has done its work."""
        self._out.put(None)

    def _start(self) -> None:
        # A session of its own: Ctrl-C is for the training, which then tells its mirrors.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "knobs.tracking.remote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._over = f"W&B's process did not start ({error}); the records are whole"
            return
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()

    def _write(self) -> None:
        try:
            while (line := self._out.get()) is not None:
                self._process.stdin.write(line)
                if self._out.empty():
                    self._process.stdin.flush()
        except OSError:
            pass  # it has died, which _read tells
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        with self._process.stdout as answers:
            for text in answers:
                run, line = json.loads(text)
                with self._news:
                    self._lines[run] = line
                    self._news.notify_all()
        with self._news:  # it is gone: whoever still waits need not
            self._over = "W&B's process ended early; the records are whole"
            self._news.notify_all()
        self._process.wait()


class Remote:
    """Mirrors one run there, with Tracker's methods."""

    def __init__(self, mirror: Mirror, run: int):
        self._mirror, self._run, self._ended = mirror, run, False

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one epoch."""
        self._mirror.send(self._run, "log", metrics)

    def end(self, summary: dict[str, Any], exit_code: int, checkpoint: Path | None) -> None:
        """Mirror the summary and end the W&B run; returns at once."""
        self._ended = True
        self._mirror.send(self._run, "end", summary, exit_code, checkpoint and str(checkpoint))

    def wait(self) -> str:
        """Wait until W&B has it all; return the line to show."""
        if not self._ended:
            self.end({}, 1, None)
        return self._mirror.line(self._run)


def main() -> None:
    """Be the process: a Tracker for each run, until the parent has no more to say."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes elsewhere
    trackers: dict[int, Tracker] = {}
    lock = threading.Lock()

    def tell(run: int) -> None:
        line = trackers[run].wait()
        with lock:
            answers.write(json.dumps([run, line]) + "\n")
            answers.flush()

    for text in sys.stdin:
        run, do, arguments = json.loads(text)
        if do == "open":
            settings, config, folder, earlier = arguments
            trackers[run] = Tracker(settings, config, Path(folder), earlier)
        elif do == "log":
            trackers[run].log(*arguments)
        else:
            summary, exit_code, path = arguments
            trackers[run].end(summary, exit_code, path and Path(path))
            threading.Thread(target=tell, args=(run,)).start()  # the process ends after it
    for tracker in trackers.values():
        tracker.wait()  # those that the parent left open: it died


if __name__ == "__main__":
    main()
