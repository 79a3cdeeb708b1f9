"""The house: imports point one way, and what must start fast imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

SRC = REPO / "src" / "knobs"
# Each layer may import from those to its right, and from its own.
LAYERS = [
    {"__init__", "__main__", "cli", "cleaning", "listing", "new", "learn"}, {"workers"}, {"sweep"}, {"stack"}, {"export"}, {"predict"}, {"ensemble"}, {"compare"}, {"report"}, {"training"}, {"tracking", "again", "help", "completion"},
    {"config"}, {"build"}, {"search"}, {"ledger"}, {"record"},
    {"data", "models", "init", "optimizers", "schedulers", "regularization", "losses"},
    {"targets", "identity", "metrics", "rng", "shape", "storage", "codec", "torchvision_shim", "weights", "late_compiler", "cache", "hub",
     "shell", "words", "errors", "signals", "secrets", "processes"},
]  # fmt: skip
MOST_FLOORS, MOST_FLOORS_OF_REPORT = 12, 7  # __main__, export, predict, ensemble, training, ...
EDGE = {"hydra", "omegaconf", "wandb"}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, late imports too, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def part(path: Path) -> str:
    if path.is_relative_to(SRC / "search" / "learn"):
        return "learn"  # it trains; what searches while others train does not
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


FILES = sorted(SRC.rglob("*.py"))


def knobs_modules(path: Path) -> set[str]:
    """The parts of knobs that a file imports: `record` of `knobs.record`."""
    names = [module.split(".") for module in imports(path)]
    parts = {n[1] for n in names if n[0] == "knobs" and len(n) > 1}
    return {p for p in parts if (SRC / p).is_dir() or (SRC / f"{p}.py").exists()}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_one_way(path):
    own = part(path)
    for other in knobs_modules(path):
        assert layer(own) <= layer(other), f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_nothing_imports_the_command_line(path):
    assert "cli" not in knobs_modules(path)


def floors(graph: dict[str, set[str]]) -> int:
    """The number of rooms above each other: a room is above all that it imports."""
    known: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in known:
            known[name] = 1 + max((floor(other) for other in graph[name]), default=0)
        return known[name]

    return max(map(floor, graph))


def test_the_house_is_low():
    whole = {part(path): set() for path in FILES}
    for path in FILES:
        whole[part(path)] |= knobs_modules(path) - {part(path)}
    for path in (REPO / "train.py", *(REPO / "src" / "hydra_plugins").glob("*.py")):
        whole[path.stem] = knobs_modules(path)
    assert floors(whole) <= MOST_FLOORS
    report = {path: imports(path) for path in (SRC / "report").rglob("*.py")}
    names = {
        ".".join(("knobs", *path.relative_to(SRC).with_suffix("").parts)): path for path in report
    }
    inside = {
        path: {names[m] for m in modules if m in names} - {path} for path, modules in report.items()
    }
    assert floors(inside) <= MOST_FLOORS_OF_REPORT


def test_no_circles():
    graph = {}
    for path in FILES:
        name = ".".join(("knobs", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        graph[name] = {m for m in imports(path) if m.startswith("knobs.")}
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, " -> ".join([*under_way, name])
        if name in done or name not in graph:
            return
        under_way.append(name)
        for other in sorted(graph[name] - {name}):
            visit(other)
        under_way.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert len(done) == len(graph)


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if layer(part(p)) >= layer("data")],
    ids=lambda p: str(p.relative_to(SRC)),
)
def test_parts_know_nothing_of_hydra_or_wandb(path):
    assert {m.split(".")[0] for m in imports(path)} & EDGE == set()


@pytest.mark.parametrize(
    "module",
    [
        "knobs",
        "knobs.cli",
        "knobs.config.rules",
        "knobs.targets",
        "knobs.identity",
        "knobs.config.command",
        "knobs.report.leaderboard",
        "knobs.search.space",
        "knobs.search.pruning",
        "knobs.report.wandb_report",
        "knobs.tracking.sync",
        "knobs.report.__main__",
        "knobs.report.page",
        "knobs.report.plots.sections",
        "knobs.predict.__main__",
        "knobs.export.__main__",
        "knobs.compare.__main__",
    ],
)
def test_start_up_imports_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'wandb', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_report_loads_what_is_slow_only_when_it_is_needed():
    code = "import sys, knobs.report.__main__; print([m for m in ('plotly', 'scipy', 'hydra', 'omegaconf') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_targets_calls_targets():
    """Hydra's instantiate, which calls whatever a config names, is used nowhere."""
    assert [p for p in FILES if any("hydra.utils" in m for m in imports(p))] == []
    users = [str(p.relative_to(SRC)) for p in FILES if "targets.resolve(" in p.read_text()]
    # Both look at what is named, and call nothing: its signature, whether it is in use.
    assert users == ["config/check.py", "config/conflicts.py", "tracking/__init__.py"]
