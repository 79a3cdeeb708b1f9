"""What tests of injected faults share: `faults` names a kind, `tried` counts, `command` looks around.

A test run counts the faults whose outcome was asserted. With RELIABILITY=write it puts the counts
into the table of docs/RELIABILITY.md.
"""

import ast
import hashlib
import os
import re
import shutil
import time

import processes
import pytest
from conftest import REPO
from trained import ENV, TRAIN

from knobs import record

TABLE = REPO / "docs" / "RELIABILITY.md"
HEAD = "| kind | in `make test` | in `make test-all` | outcome |\n|---|---|---|---|\n"
ROW = re.compile(r"^\| (.+?) \| ([\d,]+) \| ([\d,]+) \| (.+?) \|$", re.M)
ORPHANS = 10  # seconds that what a command began has to end after it
counted = {}  # (kind, whether quick) -> (cases, outcome), of this test run
failed = []  # tests of it, but those of the table itself


def faults(kind, outcome, quick, whole=None):
    """Name the kind of fault that a test injects, and what comes of each.

    The test takes `cases`: how many to inject, `quick` of them in `make test`, `whole` in
    `make test-all`; as many in both where `whole` is None. Which they are is drawn from `kind`.
    """
    sizes = [pytest.param(quick, id="quick")]
    if whole is not None:
        sizes.append(pytest.param(whole, id="whole", marks=pytest.mark.slow))

    def mark(test):
        marked = pytest.mark.parametrize("cases", sizes)(test)
        return pytest.mark.fault(kind=kind, outcome=outcome)(marked)

    return mark


@pytest.fixture
def tried(request):
    """Count one injected fault, after its outcome was asserted: `tried()`, or `tried(n)`."""
    total = []
    yield lambda count=1: total.append(count)
    about = request.node.get_closest_marker("fault").kwargs
    quick = request.node.callspec.id.split("-")[-1] != "whole"
    if sum(total):
        note = [about["kind"], quick, sum(total), about["outcome"]]
        request.node.user_properties.append(("fault", note))


def command(cwd, *args, code=0, env=None, timeout=120, start=False):
    """Run train.py in a folder; return what it printed.

    Asserts the exit code, no traceback, and that nothing is left: no process, no half a file.

    Args:
        start: whether in a process that is started, which inherits limits, and is no fork.
    """
    python = [shutil.which("env"), *TRAIN] if start else TRAIN
    done = processes.run([*python, *args], cwd, ENV | (env or {}), timeout)
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert_clean(told, cwd)
    assert_no_orphans(done.pid)
    return told


def assert_clean(told, folder):
    """No traceback was printed, no half a file lies below the folder."""
    assert "Traceback" not in told, told
    assert "--- Logging error ---" not in told, told
    assert sorted(folder.rglob("*.partial")) == []


def assert_no_orphans(group, seconds=ORPHANS):
    """No process of a process group is left, or ends within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and _alive(group):
        time.sleep(0.05)
    assert not _alive(group), f"processes of group {group} are left"


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def bits(folder):
    """What a run's folder comes to, to the last bit: without times, and state that holds some."""
    files = ("checkpoints/best.safetensors", "predictions.safetensors")
    there = [
        name for name in files if (folder / name).exists()
    ]  # none of one that diverged at once
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in there}
    summary = record.read_summary(folder)
    about = {key: summary[key] for key in ("status", "objective", "best_epoch", "epochs", "steps")}
    return digests | about | {"metrics": record.read_metrics(folder)}


def kinds():
    """Every kind that a test of tests/faults/ names."""
    trees = [ast.parse(path.read_text()) for path in (REPO / "tests" / "faults").glob("test_*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sorted(call.args[0].value for call in calls if getattr(call.func, "id", "") == "faults")


def table():
    """The table of docs/RELIABILITY.md: kind -> [cases in make test, in make test-all, outcome]."""
    text = TABLE.read_text()
    rows = ROW.findall(text[text.index(HEAD) :])
    return {kind: [_number(quick), _number(whole), end] for kind, quick, whole, end in rows}


def _number(text):
    return int(text.replace(",", ""))


# ------------------------------------------------------------------ hooks of pytest
def pytest_runtest_logreport(report):
    """Gather what passed tests have counted, in whichever process they ran."""
    if report.failed and "test_table" not in report.nodeid:
        failed.append(report.nodeid)
    notes = [note for name, note in report.user_properties if name == "fault"]
    if report.when == "teardown" and report.passed:
        for kind, quick, cases, outcome in notes:
            counted[kind, quick] = cases, outcome


def pytest_terminal_summary(terminalreporter):
    """Say how many faults were injected."""
    if counted:
        cases, names = sum(n for n, _ in counted.values()), {kind for kind, _ in counted}
        terminalreporter.write_line(f"{cases:,} faults of {len(names)} kinds injected")


def pytest_sessionfinish(session):
    """Write the table, where that was asked for and every test has passed."""
    asked = os.environ.get("RELIABILITY") == "write" and not hasattr(session.config, "workerinput")
    if not asked or not counted or failed:
        return
    rows = table()
    for (kind, quick), (cases, outcome) in counted.items():
        row = rows.setdefault(kind, [0, 0, outcome])
        row[2] = outcome
        row[0 if quick else 1] = cases
        row[1] = max(row[:2])  # one size only: all of it runs in both
    known = [kind for kind in kinds() if kind in rows]
    lines = [
        f"| {kind} | {rows[kind][0]:,} | {rows[kind][1]:,} | {rows[kind][2]} |" for kind in known
    ]
    text = TABLE.read_text()
    start = text.index(HEAD) + len(HEAD)
    end = start + sum(len(line) + 1 for line in _rows_of(text[start:]))
    TABLE.write_text(text[:start] + "".join(f"{line}\n" for line in lines) + text[end:])


def _rows_of(text):
    """The lines of a table up to where it ends."""
    rows = []
    for line in text.splitlines():
        if not line.startswith("|"):
            return rows
        rows.append(line)
    return rows
