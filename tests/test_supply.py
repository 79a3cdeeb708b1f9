"""The lock files hold what is needed, hashed; pip refuses another file; an audit says what it saw."""

import base64
import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
EXTRAS = ("ray", "slurm", "timm", "transformers")
LOCKS = ("requirements.lock", "requirements-cuda.lock", ".ci/requirements.lock")
LOCKS = (*LOCKS, *(f"requirements-{extra}.lock" for extra in EXTRAS))
ENTRY = re.compile(  # a pin, a marker at most, one hash or more
    r"^([a-z0-9-]+)==([\w.]+)(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n",
    re.MULTILINE,
)


def locked(name: str) -> dict[str, str]:
    """Return name -> version of a lock file."""
    return dict(ENTRY.findall((REPO / name).read_text()))


def pinned(path: Path) -> dict[str, str]:
    """Return name -> version of a requirements file."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and line != "-e ."]
    return {canonicalize_name(name): version for name, version in pairs}


def environments() -> list[dict[str, str]]:
    """Return the values of markers on each supported platform and Python."""
    return [
        {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
        | {"sys_platform": platform, "platform_system": platform.capitalize()}
        | {"platform_machine": machine}
        for python, (platform, machine) in itertools.product(PYTHONS, PLATFORMS)
    ]


def needed(name: str) -> set[str]:
    """Return the names that an installed package asks for, on any supported platform."""
    asked = [Requirement(line) for line in importlib.metadata.requires(name) or ()]
    return {
        canonicalize_name(one.name)
        for one in asked
        if one.marker is None or any(one.marker.evaluate(values) for values in environments())
    }


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_pins_with_hashes_and_nothing_else(name):
    text = (REPO / name).read_text()
    assert ENTRY.sub("", text) == ""  # no URL, no index, no option of pip
    assert len(ENTRY.findall(text)) == len(locked(name)) > 0


@pytest.mark.parametrize("folder", ["", ".ci"])
def test_what_is_required_is_locked_at_its_version(folder):
    lock, asked = (
        locked(f"{folder}/requirements.lock".lstrip("/")),
        pinned(REPO / folder / "requirements.txt"),
    )
    assert {name: lock.get(name) for name in asked} == asked


def test_the_lock_holds_what_is_needed_and_no_more():
    lock, queue = locked("requirements.lock"), sorted(pinned(REPO / "requirements.txt"))
    here = {
        name: importlib.metadata.version(name).split("+")[0] for name in {*lock} - {"setuptools"}
    }
    if different := sorted(name for name in here if here[name] != lock[name]):
        pytest.skip(f"installed without the lock: {', '.join(different)}")
    found = set()
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += needed(name)
    cuda = {name for name in found if re.match("cuda|nvidia|triton", name)}
    assert found - cuda == set(lock)
    assert cuda <= set(locked("requirements-cuda.lock"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_locked_beside_the_rest(extra):
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = dict(line.split("==") for line in project["optional-dependencies"][extra])
    lock, rest = locked(f"requirements-{extra}.lock"), locked("requirements.lock")
    assert {name: lock.get(name) for name in asked} == asked
    assert not {*lock} & {*rest}
    text = (REPO / f"requirements-{extra}.lock").read_text()
    elsewhere = {*re.findall(r"^([\w-]+)==\S+ ; .*'emscripten'", text, re.MULTILINE)}
    for name in lock.keys() - elsewhere:
        try:
            assert needed(name) <= {*lock, *rest}
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed: make test EXTRA={extra}")


def wheel(folder: Path, name: str, version: str) -> str:
    """Write an empty wheel; return the SHA-256 of its file."""
    info = f"{name}-{version}.dist-info"
    parts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in parts.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text)}")
    parts[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in parts.items():
            archive.writestr(path, text)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def install(folder: Path) -> subprocess.CompletedProcess:
    """Run make's installation of a folder's lock with this Python, offline, installing nothing."""
    (folder / "bin").mkdir()
    (folder / ".venv").mkdir()
    (folder / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin/python").chmod(0o755)
    command = ["make", "-f", str(REPO / "Makefile"), "BIN=bin", "LOCK=1"]
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_DRY_RUN": "1"}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_IGNORE_INSTALLED": "1", "MAKEFLAGS": ""}
    return subprocess.run(
        [*command, f"PYTHON={sys.executable}", ".venv/.installed"],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )


def test_a_file_with_another_hash_is_refused_and_the_way_out_named(tmp_path):
    hashes = {name: wheel(tmp_path, name, "999.1") for name in ("setuptools", "torch")}
    other = hashlib.sha256(b"another file").hexdigest()
    lock = {"setuptools": hashes["setuptools"], "torch": other}
    entries = [f"{name}==999.1 \\\n    --hash=sha256:{digest}\n" for name, digest in lock.items()]
    (tmp_path / "requirements.lock").write_text("".join(entries))
    (tmp_path / "requirements.txt").write_text("torch==999.1  # a comment\n")
    for name in ("requirements-cuda.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    done = install(tmp_path)
    assert done.returncode == 2
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert re.search(rf"Expected sha256 {other}\s+Got +{hashes['torch']}", done.stderr)
    assert "make LOCK=0 .venv/.installed" in done.stdout
    assert not (tmp_path / ".venv/.installed").exists()


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", REPO / ".ci/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flaw(fixed: list[str]) -> dict:
    return {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": fixed}


def package(*flaws: dict) -> dict:
    return {"name": "a", "version": "1.0", "vulns": list(flaws)}


@pytest.mark.parametrize(
    ("packages", "accepted", "fails", "line"),
    [
        ([package()], {}, False, "1 packages looked up"),
        ([package(flaw(["1.1"]))], {}, True, "a 1.0: PYSEC-1, fixed in 1.1: raise it in"),
        ([package(flaw([]))], {}, False, "a 1.0: PYSEC-1, not fixed by any version yet"),
        ([package(flaw(["1.1"]))], {"CVE-1": "no server"}, False, "PYSEC-1, accepted: no server"),
        ([package(flaw(["1.1"]))], {"CVE-2": "no server"}, True, "fixed in 1.1"),
        ([{"name": "b", "skip_reason": "?"}], {}, False, "NOT AUDITED: 1 of 1 packages"),
        ([package(), {"name": "b", "skip_reason": "?"}], {}, False, "NOT AUDITED: 1 of 2 packages"),
    ],
)
def test_an_audit_fails_on_what_a_newer_version_mends(audit, packages, accepted, fails, line):
    lines, failed = audit.judge("x.lock", {"dependencies": packages}, accepted)
    assert failed == fails
    assert any(line in one for one in lines)
    assert all(one.startswith("audit: x.lock: ") for one in lines)


def test_an_audit_without_an_answer_says_so_and_fails_nothing(audit, monkeypatch, capsys):
    monkeypatch.setattr(audit, "COMMAND", ["sh", "-c", "echo one >&2; echo no network >&2; exit 1"])
    assert audit.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        f"audit: {lock}: NOT AUDITED, pip-audit says: no network" for lock in audit.LOCKS
    ]
    assert {*audit.LOCKS} == {*LOCKS}
