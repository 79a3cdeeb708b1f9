"""Show that a restructuring changed no number: train fixed configs before and after, compare.

    python benchmarks/unchanged.py train DIR --repo PATH     # another checkout; else this one
    python benchmarks/unchanged.py compare A B               # exits 1 where anything differs

`train` runs PATH/train.py for each of CONFIGS in a folder of its own, two at a time: solo runs,
stacked and sequential sweeps, searches, a study, reports, and runs and sweeps that are stopped by
SIGTERM and resumed. `compare` reads what each of them left: tensors bit for bit, everything else
value by value, exit codes included. What may differ stands in IGNORED and WORDS, with the reasons.

Which runs share a stack is normally decided by timing, and a stack equals solo runs only to
rounding. Sweeps are therefore started with the gain of a stack taken as given, at a fixed width.
"""

import argparse
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

IGNORED = (  # file, value in it ("" is the whole file, even whether it is there), reason
    ("output.txt", "", "what a person reads on the terminal: times, words that may be revised"),
    ("*/train.log", "", "time stamps; its metrics are those of metrics.jsonl"),
    ("*/report.[hm]*", "", "layout and words; the numbers are those of report.json"),
    ("*.lock", "", "empty; only the lock that is held on it counts"),
    ("*", "*seconds", "time: of summary, leaderboard, report and last.pt"),
    ("*/summary.json", "samples_per_second", "time"),
    ("*/summary.json", "peak_memory_mib", "of the process, imported libraries included"),
    ("*.json", "*versions.*", "of the packages and of the checkout"),
    ("*/sweep.json", "conf", "digest of conf/ as text, comments included"),
    ("*/trials.journal", "*.worker_id", "process and host"),
    ("*/trials.journal", "*.datetime_*", "date"),
    ("*/trials.journal", "*.user_attr.resumed", "date"),
    ("*/trials.journal", "*.user_attrs.process", "who has the trial; before, a lock on a byte"),
    ("*/config.json", "run.number", "new: before, it was read from the folder's name"),
    ("*.yaml", "hydra.runtime.cwd", "path of the output folder"),
    ("*.yaml", "hydra.runtime.output_dir", "path of the output folder"),
    ("*.yaml", "hydra.runtime.config_sources.*", "path of the checkout"),
)
# Sentences of report.json, which may be revised: the numbers of the first are in the second.
WORDS = ("verdict.[hmt]*", "checks.*.text", "checks.*.do", "next.*.why")
RUN = "tracking=local hydra.run.dir=run training.epochs=3"
SWEEP = "-m tracking=local hydra.sweep.dir=sweep training.epochs=2"
STACK, SEARCH = f"{SWEEP} hydra.launcher.width=4", "hydra/sweeper=search search.width=4"
SOBOL, LR = "search.method=sobol search.runs=6", "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
BAG = "data=python_docs model=text_bag data.max_length=32 data.topics=6"
TEXT = "data=python_docs data.max_length=16 data.topics=4 training.epochs=2 model.embedding_dim=16"
CNN = "model=cnn model.width=8 model.depth=2"
LONG = "training.epochs=40 training.batch_size=16"  # enough time to be stopped half-way
STOP, STOP_AFTER = ("stop:sweep/0 ", ""), 5  # epochs, at least
SHOWN = 10  # differences of a config
SOLO = {
    "default": "",
    "preview": "task=preview scheduler=warmup_cosine",
    "test": "data=breast_cancer test=true",
    "diverging": "optimizer=sgd optimizer.lr=1e6",
    "refused": "model.width=0",
    "regression": "data=diabetes training.epochs=5 init=normal test=true",
    "linear": "model=linear data=wine seed=3",
    "cnn": CNN,
    "cnn_batchnorm": f"{CNN} regularization=batchnorm activation=mish init=kaiming_uniform",
    "text_bag": f"{BAG} data.ngrams=2",
    "text_cnn": f"{TEXT} model=text_cnn model.width=8 regularization=dropout",
    "text_lstm": f"{TEXT} model=text_lstm model.width=8",
    "text_transformer": f"{TEXT} model=text_transformer model.width=16 model.depth=1",
    "sgd_cosine": "optimizer=sgd scheduler=cosine init=orthogonal",
    "momentum_one_cycle": "optimizer=momentum scheduler=one_cycle activation=gelu",
    "adamw_warmup_cosine": "optimizer=adamw scheduler=warmup_cosine activation=selu",
    "muon_wsd": "optimizer=muon scheduler=wsd init=trunc_normal",
    "schedule_free": "optimizer=schedule_free activation=prelu",
    "lbfgs": "data=wine optimizer=lbfgs training.batch_size=106 init=default",
    "rprop": "data=wine optimizer=rprop training.batch_size=106",
    "plateau": "scheduler=plateau scheduler.patience=0 optimizer.lr=0.05 training.epochs=6",
    "nadam_step": "optimizer=nadam scheduler=step init=lsuv activation=tanh",
    "rmsprop_exponential": "optimizer=rmsprop scheduler=exponential model.width=[48,24]",
    "dropout": "regularization=dropout model.depth=3",
    "layernorm": "regularization=layernorm init=xavier_uniform",
    "l1": "regularization=l1 optimizer=sgd",
    "l2_weights": "regularization=l2 regularization.l2_biases=false regularization.norm=batch",
    "smoothing_mixup": "regularization=mixup regularization.label_smoothing=0.1",
    "ema": "training.ema=0.9",
    "accumulate": "training.accumulate=2 training.batch_size=64 regularization=batchnorm",
    "clip_norm": "training.clip_norm=0.5 optimizer=sgd optimizer.lr=0.3",
    "clip_value": "training.clip_value=0.01 optimizer=momentum",
    "early_stopping": "training.early_stopping.patience=1 training.epochs=30 optimizer.lr=0.02",
    "drop_last": "training.drop_last=true training.batch_size=100",
    "bf16": "training.precision=bf16",
    "deterministic": f"{CNN} training.deterministic=true training.channels_last=false",
}
SEARCHES = {
    "search_auto": f"search.runs=14 data=wine {LR} model.width=32,64 "
    "'regularization.dropout=tag(linear,interval(0,0.5))'",
    "search_best": f"search.method=best search.pruner=asha search.runs=16 training.epochs=9 {LR}",
    "search_random": f"search.method=random search.runs=6 optimizer=adam,sgd {LR}",
    "search_tpe": f"search.method=tpe search.runs=null search.epochs=24 {LR}",
    "search_grid": "search.method=grid search.runs=null optimizer.lr=1e-3,1e-2 seed=1",
}
GRIDS = {
    "grid_optimizers": "optimizer=adam,sgd,adamw,nadam seed=0,1,2",
    "grid_regularization": "regularization.dropout=0,0.2 regularization.label_smoothing=0,0.1 "
    "regularization.mixup=0,0.2 training.clip_norm=null,1",
    "grid_schedules": "scheduler=cosine,one_cycle,wsd,plateau optimizer=sgd optimizer.lr=0.1,1e6",
    "grid_cnn": f"{CNN} regularization=none,batchnorm optimizer.lr=1e-3,1e-2",
    "grid_text": f"{BAG} optimizer.lr=1e-3,1e-2 seed=0,1",
    "grid_regression": "data=diabetes init=common,normal training.epochs=2,4 test=true",
    "grid_pruned": "search.pruner=hyperband training.epochs=9 optimizer.lr=1e-4,1e-3,1e-2 seed=0,1",
    "grid_alone": "optimizer=muon,rprop data=wine",
}
# Name -> command lines: of train.py, `report FOLDER`, or `stop:RUN ...`, which ends with SIGTERM
# once RUN has logged enough epochs.
CONFIGS = {
    "resumed_run": [f"stop:run {RUN} {LONG} regularization=dropout", "resume=run"],
    "resumed_ema": [f"stop:run {RUN} {LONG} scheduler=one_cycle training.ema=0.9", "resume=run"],
    "resumed_sweep": [f"{stop}{STACK} {LONG} seed=0,1,2,3,4,5" for stop in STOP],
    "resumed_search": [f"{stop}{STACK} {LONG} {SEARCH} {SOBOL} {LR}" for stop in STOP],
    "study_and_walk": [
        f"{STACK} +study=optimizer optimizer=adam,momentum search.runs=6 study.seeds=2",
        f"{STACK} +study=confirm study.walk=sweep study.seeds=2 hydra.sweep.dir=walk",
    ],
    "named_sweep": [f"-m sweep=s {RUN} seed={seeds}" for seeds in ("0,1", "0,1,2,3")],
    **{name: [f"{STACK} {SEARCH} {line}"] for name, line in SEARCHES.items()},
    **{name: [f"{STACK} {line}", "report sweep"] for name, line in GRIDS.items()},
    "grid_basic": [f"{SWEEP} hydra/launcher=basic optimizer.lr=1e-3,1e-2", "report sweep"],
    **{name: [f"{RUN} {line}"] for name, line in SOLO.items()},
}
WRAPPER = """
import importlib, importlib.util, runpy, sys
names = [n for n in ("knobs.sweep.plan", "knobs.sweep.groups") if importlib.util.find_spec(n)]
groups = importlib.import_module(names[0])  # what decides which runs share a stack
assert groups.LEAST_GAIN and groups.NEARLY
groups.LEAST_GAIN = groups.NEARLY = float("inf")  # always a stack, always the widest
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def execute(name: str, folder: Path, repo: Path) -> str:
    """Run a config's commands in its folder; return one line about it."""
    place, began, codes = folder / name, time.perf_counter(), []
    place.mkdir()
    env = os.environ | ONE_THREAD | {"PYTHONPATH": str(repo / "src"), "WANDB_MODE": "disabled"}
    for line in CONFIGS[name]:
        words = shlex.split(line)
        stop = words.pop(0).partition(":")[2] if line.startswith("stop:") else ""
        if words[0] == "report":
            command = [sys.executable, "-m", "knobs.report", *words[1:]]
        else:
            wrapper = ["-c", WRAPPER] if words[0] == "-m" else []
            command = [sys.executable, *wrapper, str(repo / "train.py"), *words]
        with (place / "output.txt").open("a") as output:
            process = subprocess.Popen(command, cwd=place, env=env, stdout=output, stderr=output)
            metrics = place / stop / "metrics.jsonl"
            while stop and process.poll() is None:
                if metrics.is_file() and metrics.read_text().count("\n") >= STOP_AFTER:
                    process.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.01)
            codes.append(process.wait())
        if stop and codes[-1] != 128 + signal.SIGTERM:
            raise SystemExit(f"{name}: was not stopped, see {place / 'output.txt'}")
    (place / "exit_codes.json").write_text(json.dumps(codes) + "\n")
    return f"{name:20} exit codes {codes}, {time.perf_counter() - began:.1f} s"


def train(folder: Path, repo: Path) -> None:
    """Run every config with a checkout."""
    folder.mkdir(parents=True)  # an error where it exists: nothing is mixed with old files
    with ThreadPoolExecutor(2) as two:
        for line in two.map(lambda name: execute(name, folder.resolve(), repo), CONFIGS):
            print(line, flush=True)


def read(path: Path) -> Any:
    """Return what a file holds, as plain data and tensors; of an unknown kind, its bytes."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors | {name: json.loads(text) for name, text in file.metadata().items()}
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix in (".jsonl", ".journal"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row for row in rows if "process" not in row.get("user_attr", ())]  # see IGNORED
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text())
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    return path.read_bytes()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of all that is no container, and of empty containers."""
    if isinstance(value, dict | list | tuple) and value:
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def files(folder: Path) -> set[str]:
    """Return the files below a config's folder that count."""
    paths = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {p for p in paths if not any(fnmatchcase(p, f) for f, key, _ in IGNORED if not key)}


def same(a: Any, b: Any) -> bool:
    """Return whether two values are the same to the bit: a NaN is itself, 0.0 is not -0.0."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (a, b)))
    return type(a) is type(b) and (a == b if isinstance(a, Counter) else repr(a) == repr(b))


def show(a: Any, b: Any) -> str:
    """Return two values that differ, shortened; of tensors of one shape, the first elements."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape:
        pairs = zip(a.reshape(-1), b.reshape(-1), strict=True)
        place, (a, b) = next((i, pair) for i, pair in enumerate(pairs) if not same(*pair))
        return f"[{place}] {a.dtype} {a.item()!r} | {b.dtype} {b.item()!r}"
    return f"{a!r:.100} | {b!r:.100}"


def differences(a: Path, b: Path) -> Iterator[str]:
    """Yield what differs between a config's two folders, a line each."""
    here, there = files(a), files(b)
    yield from (f"{path}: only in {a if path in here else b}" for path in sorted(here ^ there))
    for path in sorted(here & there):
        ignored = [key for file, key, _ in IGNORED if fnmatchcase(path, file)]
        words = WORDS if path.endswith("/report.json") else ()
        left, right = dict(leaves(read(a / path))), dict(leaves(read(b / path)))
        for key in left | right:
            one, two = left.get(key, "(absent)"), right.get(key, "(absent)")
            if any(fnmatchcase(key, pattern) for pattern in words):
                one, two = (Counter(re.findall(r"\d+(?:\.\d+)?", str(t))) for t in (one, two))
                two &= one  # thresholds may be named as well
            if not same(one, two) and not any(fnmatchcase(key, pattern) for pattern in ignored):
                yield f"{path}  {key}: {show(one, two)}"


def compare(a: Path, b: Path) -> int:
    """Print a line a config, its first differences below it; return 1 where there are any."""
    names = sorted({path.name for folder in (a, b) for path in folder.iterdir() if path.is_dir()})
    equal = 0
    for name in names:
        lines = list(differences(a / name, b / name))
        equal += not lines
        verdict = f"{len(lines)} DIFFERENCES" if lines else "same"
        print(f"{name:20} {verdict}, {len(files(a / name))} files")
        print(*(f"    {line}\n" for line in lines[:SHOWN]), sep="", end="")
    print(f"{equal} of {len(names)} configs the same")
    return 0 if equal == len(names) > 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mode", choices=("train", "compare"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--repo", type=Path, default=Path(__file__).parents[1])
    args = parser.parse_args()
    if len(args.folders) != ["train", "compare"].index(args.mode) + 1:
        parser.error("train takes one folder, compare two")
    if args.mode == "train":
        sys.exit(train(*args.folders, args.repo.resolve()))
    sys.exit(compare(*args.folders))
