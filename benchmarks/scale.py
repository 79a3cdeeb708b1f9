"""How far one machine goes: N runs of one epoch for real, then what looks at them.

    OMP_NUM_THREADS=1 python benchmarks/scale.py                    # 1,000 runs
    OMP_NUM_THREADS=1 python benchmarks/scale.py --runs 10000 --keep best
    OMP_NUM_THREADS=1 python benchmarks/scale.py --asks 100 1000 5000

Printed of each step, as JSON lines: CPU seconds of all its processes, wall seconds, the largest
memory in MB; of the folder, its bytes, its bytes in whole blocks, and its files, a run. `--asks`
trains nothing: it fills a search with ended trials and gives CPU milliseconds of one ask and tell.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RATES = "0.1,0.05,0.02,0.01,0.005,0.002,0.001,0.0005,0.0002,0.0001"
SETTINGS = 40  # four optimizers, ten learning rates


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="a multiple of 40")
    parser.add_argument("--keep", default="all", choices=["all", "best"])
    parser.add_argument("--folder", type=Path, help="where the sweep is to stay; default: removed")
    parser.add_argument("--asks", type=int, nargs="*", default=[])
    parser.add_argument("--method", default="random")
    given = parser.parse_args()
    for count in given.asks:
        print(json.dumps(asks(count, given.method)), flush=True)
    if given.folder:
        sweep(given.folder.absolute(), given.runs, given.keep)
    elif not given.asks:
        with tempfile.TemporaryDirectory() as place:
            sweep(Path(place) / "sweep", given.runs, given.keep)


def sweep(folder: Path, runs: int, keep: str) -> None:
    """Train so many runs, and look at them in each way there is."""
    command = [
        *("train.py", "-m", "tracking=local", "data=digits", "model.width=8", "model.depth=1"),
        *("training.epochs=1", "training.batch_size=512", f"training.keep={keep}"),
        *(f"seed=range(0,{max(1, runs // SETTINGS)})", "optimizer=adam,sgd,momentum,adamw"),
        *(f"optimizer.lr={RATES}", f"hydra.sweep.dir={folder}"),
    ]
    step("check", [*command, "--dry-run"])
    step("launch and leaderboard", command)
    there = {path: path.lstat() for path in folder.rglob("*")}  # the sweep's own files too
    files = [about for path, about in there.items() if not path.is_dir()]
    size = {
        "bytes a run": round(sum(about.st_size for about in files) / runs),
        "on disk a run": round(sum(about.st_blocks for about in there.values()) * 512 / runs),
        "files a run": round(len(files) / runs, 2),
    }
    print(json.dumps(size), flush=True)
    step("the same command again", command)
    step("report", ["-m", "knobs.report", str(folder)])
    step("knobs ls", ["-m", "knobs", "ls", str(folder.parent)])


def step(name: str, command: list[str]) -> None:
    """Run a command of Python, and print what it took."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = round(time.perf_counter() - began, 1)
    most = after.ru_maxrss // 1024  # of this step or an earlier one
    print(json.dumps({"step": name, "cpu": round(cpu, 1), "wall": wall, "MB": most}), flush=True)


def asks(count: int, method: str) -> dict[str, object]:
    """Return what one ask and tell takes in a search of so many trials that have ended."""
    from optuna.trial import TrialState, create_trial

    from knobs.search import methods, minutes
    from knobs.search.space import Range, Space
    from knobs.search.trials import Search

    knobs, drawn = {f"knob{i}": Range(1e-5, 1e-1, log=True) for i in range(4)}, random.Random(0)
    space = Space({"": knobs})
    with tempfile.TemporaryDirectory() as place:
        search = Search(Path(place), space, method=method, budget=20 * count)
        for run in range(count):
            values = {name: knob.from_unit(drawn.random()) for name, knob in knobs.items()}
            about = {"phase": method, "run": run, "process": "x", "spans": minutes.begun([])}
            trial = create_trial(
                state=TrialState.COMPLETE,
                value=drawn.random(),
                params=methods.to_optuna(knobs, values),
                distributions={name: methods.distribution(k) for name, k in knobs.items()},
                user_attrs=about | {"status": "finished", "epochs": 1},
            )
            search._storage.create_new_trial(search._arms[""], template_trial=trial)
        search.tell(search.ask()[0], 0.5)
        took = []
        for _ in range(9):
            began = time.process_time()
            search.tell(search.ask()[0], drawn.random())
            took.append(time.process_time() - began)
        search.close()
    return {"method": method, "trials": count, "ms": round(1000 * statistics.median(took), 1)}


if __name__ == "__main__":
    main()
