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
    {"__init__"}, {"sweep"}, {"report"}, {"training"},
    {"advice", "tracking", "mirror", "sync"}, {"cli"},
    {"config"}, {"build", "compose", "resolvers"}, {"ledger", "search"}, {"record"},
    {"data", "models", "init", "optimizers", "schedulers", "regularization"},
    {"trust", "conflicts", "identity", "limits", "rng", "shape", "torchvision_shim", "late_compiler", "errors", "words"},
]  # fmt: skip
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
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_one_way(path):
    own = part(path)
    for module in imports(path):
        names = module.split(".")
        if (
            names[0] == "knobs"
            and len(names) > 1
            and (SRC / names[1]).with_suffix(".py").exists() | (SRC / names[1]).is_dir()
        ):
            assert layer(own) <= layer(names[1]), f"{own} imports {module}"
            assert (
                names[1] == own
                or layer(own) != layer(names[1])
                or own in LAYERS[-1] | LAYERS[layer("tracking")] | LAYERS[-2]
            )


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
        "knobs.limits",
        "knobs.trust",
        "knobs.identity",
        "knobs.config",
        "knobs.report.leaderboard",
        "knobs.search.space",
        "knobs.search.pruning",
        "knobs.report.wandb_report",
        "knobs.sync",
        "knobs.report.__main__",
        "knobs.report.page",
        "knobs.report.plots.sections",
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


def test_only_build_calls_targets():
    """Hydra's instantiate, which calls whatever a config names, is used nowhere."""
    assert [p for p in FILES if any("hydra.utils" in m for m in imports(p))] == []
    users = [p for p in FILES if "trust.resolve(" in p.read_text()]
    assert [p.name for p in users] == ["build.py"]
