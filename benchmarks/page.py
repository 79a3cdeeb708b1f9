"""How long a report takes to make, and to open, by the number of its runs.

    python benchmarks/page.py                      # 5, 66 and 2,000 runs of a search
    python benchmarks/page.py --runs 2000 --study  # of four arms, with 20 confirming seeds

make   Seconds of `python -m knobs.report SWEEP` as a process, imports and files included; and those
       of its processor, which a busy machine does not lengthen.
open   Seconds in headless Chromium from the request to the first paint and to the answer (headline
       and the plot that decides) on the screen, and until all that the page loads is there; the
       median of --rounds. Left out, with a word, where there is no Chromium.

The runs are made without training (tests/fake_sweeps.py), with configs of --keys values and curves
of 20 epochs. Real configs have about 100 values.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import browser, find  # noqa: E402
from fake_sweeps import fake_search, fake_study  # noqa: E402

ARMS = ("adam", "nadam", "momentum", "sgd")
SEEDS = 20
PAINTED = """new Promise((done) => new PerformanceObserver(
  (list) => done(list.getEntries().at(-1).startTime)
).observe({ type: "largest-contentful-paint", buffered: true }))"""
FIRST = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def padded(sweep: Path, keys: int) -> None:
    """Give each config as many values as a real one has."""
    more = {f"key_{i}": i / 7 for i in range(keys)}
    for path in sweep.glob("*/config.json"):
        about = json.loads(path.read_text())
        about["config"]["padding"] = more
        path.write_text(json.dumps(about))


def made(sweep: Path, out: Path) -> tuple[float, float]:
    """Return the seconds that the command takes, and those of the processor."""
    before = os.times()
    start = time.perf_counter()
    command = [sys.executable, "-m", "knobs.report", str(sweep), "--out", str(out)]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path}
    )
    after = os.times()
    used = after.children_user + after.children_system
    return time.perf_counter() - start, used - before.children_user - before.children_system


def opened(page: Path, rounds: int) -> list[tuple[float, float, float]]:
    """Return the seconds to the first paint, to the answer and to the end, of each round."""
    times = []
    for _ in range(rounds):
        with browser(find()) as tab:
            tab.open(page, width=1280, height=900)
            answer = tab.run(PAINTED)
            times.append(tuple(t / 1000 for t in (tab.run(FIRST), answer, tab.run(LOADED))))
    return times


def main() -> None:
    """Measure each size, and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[5, 66, 2000])
    parser.add_argument("--study", action="store_true", help="a study of four arms")
    parser.add_argument("--keys", type=int, default=100, help="values of a config")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("  runs  make s  cpu s  page MB  first paint s  answer s  loaded s")
    for runs in given.runs:
        with tempfile.TemporaryDirectory() as folder:
            sweep, out = Path(folder, "sweep"), Path(folder, "out")
            if given.study:
                fake_study(sweep, ARMS, n=max(2, (runs - 8 * SEEDS) // len(ARMS)), seeds=SEEDS)
            else:
                fake_search(sweep, runs)
            padded(sweep, given.keys)
            (seconds, cpu), page = made(sweep, out), out / "report.html"
            line = f"{runs:6,}  {seconds:6.1f}  {cpu:5.1f}  {page.stat().st_size / 1e6:7.1f}"
            if find():
                medians = map(statistics.median, zip(*opened(page, given.rounds), strict=True))
                line += "  {:13.2f}  {:8.2f}  {:8.2f}".format(*medians)
            print(line if find() else f"{line}  (no Chromium found)", flush=True)


if __name__ == "__main__":
    main()
