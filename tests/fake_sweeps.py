"""Folders of sweeps as training leaves them, made without training: for tests of what reads them."""

import json
import math
import random
from pathlib import Path

OPTIMA = {"adam": 3e-3, "nadam": 3e-3, "momentum": 1e-1, "sgd": 0.5}
CEILING = {"adam": 0.950, "nadam": 0.949, "momentum": 0.945, "sgd": 0.925}
RANGES = {"adam": (1e-4, 1e-1), "nadam": (1e-4, 1e-1), "momentum": (1e-3, 1.0), "sgd": (1e-2, 5.0)}
HOSTILE = "<script>alert(1)</script>"
SIZE = 400  # of the validation split


def accuracy(knobs: dict, seed: int, noise: float = 0.004) -> float | None:
    """A smooth landscape: best at each optimizer's rate, better with width, none where it diverges."""
    name, lr = knobs.get("optimizer", "adam"), knobs.get("optimizer.lr", 3e-3)
    off = math.log10(lr / OPTIMA[name])
    if off > 1.3:
        return None
    width = 0.012 * math.log2(knobs.get("model.width", 64) / 64)
    drop = knobs.get("regularization.dropout", 0.1)
    mean = CEILING[name] - 0.06 * off**2 + width - 0.1 * (drop - 0.15) ** 2
    drawn = random.Random(f"{sorted(knobs.items())} {seed}").gauss(0, noise)
    together = random.Random(seed).gauss(0, noise)  # what a seed does to every setting
    return round(max(0.05, min(0.999, mean + drawn + together)) * SIZE) / SIZE


def add_run(
    sweep: Path,
    knobs: dict,
    seed: int = 0,
    *,
    value: float | None = None,
    status: str | None = "finished",
    epochs: int = 20,
    best: int | None = None,
    metric: str = "val/accuracy",
    mode: str = "max",
    test: dict | None = None,
    extra: tuple[str, ...] = (),
    lr_ends: float = 1.0,
) -> Path:
    """One run's folder, the next number of the sweep.

    Args:
        knobs: dotted name -> value; those without a dot are groups.
        status: None leaves summary.json out, as a killed process does.
        best: epoch; at seven tenths of them by default.
        lr_ends: the last epoch's learning rate as a share of the first's.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    folder = sweep / str(sum(path.is_dir() for path in sweep.iterdir()))
    folder.mkdir()
    config: dict = {
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
        "model": {"name": "mlp", "width": 64},
        "training": {"epochs": epochs, "batch_size": 32},
        "seed": seed,
        "objective": {"metric": metric, "mode": mode},
    }
    choices = {"optimizer": "adam", "model": "mlp", "experiment": None}
    for name, given in knobs.items():
        if "." not in name:
            choices[name] = given
            config.setdefault(name, {})["_target_"] = given
            continue
        node = config
        *sections, last = name.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = given
    lines = [f"{name}={given}" for name, given in knobs.items()]
    about = {
        "overrides": [*lines, f"seed={seed}", f"training.epochs={epochs}", *extra],
        "choices": choices,
        "identity": f"{abs(hash((str(knobs), seed))):016x}",
        "config": config,
    }
    (folder / "config.json").write_text(json.dumps(about))
    best = best or -(-7 * epochs // 10)  # not among the last: it has ended to improve
    rows = []
    for epoch in range(1, epochs + 1 if value is not None else 3):
        grown = 1 - math.exp(-4 * min(epoch, best) / best) if best else 1.0
        fallen = 0.002 * max(0, epoch - best)
        reached = (value or 0.1) * grown / (1 - math.exp(-4)) - fallen
        if metric.endswith("accuracy"):
            reached = round(reached * SIZE) / SIZE
        rate = config["optimizer"]["lr"] * (1 + (lr_ends - 1) * (epoch - 1) / max(1, epochs - 1))
        row = {"epoch": epoch, "step": 34 * epoch, "lr": rate, metric: reached}
        row |= {
            "train/loss": 2 * math.exp(-0.2 * epoch),
            "val/loss": 2 * math.exp(-0.17 * epoch) + 0.1,
        }
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    if status is None:
        return folder
    summary = {
        "status": status,
        "objective": {"metric": metric, "mode": mode, "value": value},
        "best_epoch": best if value is not None else None,
        "epochs": epochs,
        "steps": 34 * epochs,
        "seconds": 1.25,
        "metrics": {},
        "test": test,
        "config_hash": about["identity"],
        "versions": {"python": "3.11.7", "torch": "2.13.0", "git": "0123abc"},
        "peak_memory_mib": 320,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def tried(sweep: Path, knobs: dict, seed: int = 0, **more: object) -> Path:
    """A run as the landscape has it."""
    value = accuracy(knobs, seed)
    status = "finished" if value is not None else "diverged"
    return add_run(sweep, knobs, seed, value=value, **({"status": status} | more))


def fake_grid(
    sweep: Path, rates: tuple = (1e-4, 1e-3, 1e-2), widths: tuple = (32, 64), seeds: int = 3
) -> Path:
    """rates x widths x seeds."""
    for lr in rates:
        for width in widths:
            for seed in range(seeds):
                tried(sweep, {"optimizer.lr": lr, "model.width": width}, seed)
    return sweep


def fake_search(sweep: Path, n: int = 64, seed: int = 0) -> Path:
    """n runs at random over three knobs, the default first, and study.json."""
    drawn = random.Random(seed)
    default = {"optimizer.lr": 1e-3, "model.width": 64, "regularization.dropout": 0.0}
    runs = {}
    for number in range(n):
        knobs = default if number == 0 else _draw(drawn, "adam")
        tried(sweep, knobs)
        runs[str(number)] = {"arm": "", "role": "search" if number else "default"}
    arms = {"": {"overrides": [], "space": _space("adam")}}
    return _asked(sweep, "search", "", [], arms, runs)


def fake_study(
    sweep: Path, optimizers: tuple = ("adam", "nadam", "sgd"), n: int = 16, seeds: int = 5
) -> Path:
    """Which optimizer? Each searched, its best confirmed, the winner walked to and tested."""
    drawn = random.Random(0)
    runs, arms, best = {}, {}, {}
    number = 0
    start = {"optimizer.lr": 1e-3, "model.width": 64, "regularization.dropout": 0.0}

    def note(**place: object) -> None:
        nonlocal number
        runs[str(number)] = place
        number += 1

    for name in optimizers:
        arm = f"optimizer={name}"
        arms[arm] = {"overrides": [arm], "space": _space(name)}
        found = []
        for i in range(n):
            knobs = {"optimizer": name} | (
                start if i == 0 and name == "adam" else _draw(drawn, name)
            )
            tried(sweep, knobs)
            note(arm=arm, role="search" if i else "default")
            found.append((accuracy(knobs, 0) or 0.0, i, knobs))
        best[name] = max(found)[2]
    for name in optimizers:
        for seed in range(1, seeds + 1):
            tried(sweep, best[name], seed)
            note(arm=f"optimizer={name}", role="confirm", seed=seed)
    winner = max(
        best, key=lambda name: sum(accuracy(best[name], s) or 0 for s in range(1, seeds + 1))
    )
    arm, walked = f"optimizer={winner}", {"optimizer": winner, **start}
    if accuracy(walked, 1) is not None:
        for seed in range(1, seeds + 1):
            tried(sweep, walked, seed)
            note(arm=arm, role="baseline", seed=seed)
        for step, knob in enumerate(start, 1):
            walked = walked | {knob: best[winner][knob]}
            for seed in range(1, seeds + 1):
                tried(sweep, walked, seed)
                note(arm=arm, role="step", seed=seed, step=step, knob=knob)
    tried(sweep, best[winner], 1, test={"test/accuracy": 0.9375}, extra=("test=true",))
    note(arm=arm, role="test")
    return _asked(
        sweep,
        "optimizer",
        "Which optimizer, each at its own learning rate?",
        ["optimizer"],
        arms,
        runs,
    )


def _draw(drawn: random.Random, optimizer: str) -> dict:
    low, high = RANGES[optimizer]
    return {
        "optimizer.lr": float(f"{low * (high / low) ** drawn.random():.4g}"),
        "model.width": round(32 * 8 ** drawn.random()),
        "regularization.dropout": round(0.4 * drawn.random(), 4),
    }


def _space(optimizer: str) -> dict:
    low, high = RANGES[optimizer]
    return {
        "optimizer.lr": {"low": low, "high": high, "log": True},
        "model.width": {"low": 32, "high": 256, "log": True, "int": True},
        "regularization.dropout": {"low": 0.0, "high": 0.4, "log": False},
    }


def _asked(sweep: Path, name: str, question: str, scientific: list, arms: dict, runs: dict) -> Path:
    about = {
        "study": name,
        "question": question,
        "objective": {"metric": "val/accuracy", "mode": "max"},
        "scientific": scientific,
        "fixed": ["training.epochs"] if question else [],
        "method": "sobol",
        "pruner": "none",
        "arms": arms,
        "runs": runs,
    }
    (sweep / "study.json").write_text(json.dumps(about))
    return sweep


def hostile_sweep(folder):
    """Markup wherever a record has room for it."""
    sweep = fake_grid(folder)
    for i, path in enumerate(sorted(sweep.glob("*/config.json"))):
        about = json.loads(path.read_text())
        about["overrides"] += [f"name={HOSTILE}", f"model.{HOSTILE}={i % 2}", "model.note=|x|"]
        about["config"]["model"][HOSTILE] = f"{HOSTILE}{i % 2}\u2028\x1b[31m\ud800"
        path.write_text(json.dumps(about))
        summary = json.loads((path.parent / "summary.json").read_text())
        summary["versions"] |= {HOSTILE: HOSTILE}
        summary["config_hash"] = HOSTILE
        (path.parent / "summary.json").write_text(json.dumps(summary))
    return sweep
