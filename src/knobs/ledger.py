"""sweep.json: which job of a sweep is which run, so that the same command goes on with it."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from knobs.errors import LockedError
from knobs.record import read_summary, write_whole

LEDGER, LOCK = "sweep.json", "sweep.lock"
BROKEN = (OSError, ValueError, RecursionError)  # what reading a file of unknown content raises


@dataclass(frozen=True)
class Entry:
    """One job: the overrides that made it, and its run's identity (empty: no run of knobs)."""

    overrides: tuple[str, ...]
    identity: str


@dataclass
class Ledger:
    """The jobs of one sweep.

    Args:
        conf: digest of the YAML files that overrides were composed with.
        jobs: number -> job.
    """

    conf: str
    jobs: dict[int, Entry] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Put it into the sweep's folder."""
        jobs = {
            number: {"identity": entry.identity, "overrides": entry.overrides}
            for number, entry in sorted(self.jobs.items())
        }
        write_whole(folder / LEDGER, json.dumps({"conf": self.conf, "jobs": jobs}, indent=1) + "\n")


def read(folder: Path) -> Ledger | None:
    """What the folder's sweep.json says; None where there is none that can be read."""
    try:
        stored = json.loads((folder / LEDGER).read_text())
        jobs = {
            int(number): Entry(tuple(job["overrides"]), job["identity"])
            for number, job in stored["jobs"].items()
        }
        texts = [t for entry in jobs.values() for t in (entry.identity, *entry.overrides)]
        sound = all(isinstance(text, str) for text in [stored["conf"], *texts])
        return Ledger(stored["conf"], jobs) if sound and min(jobs, default=0) >= 0 else None
    except (*BROKEN, KeyError, TypeError, AttributeError):
        return None


def status(folder: Path) -> str:
    """How the run in a folder ended; empty where it has not ended."""
    try:
        return str(read_summary(folder)["status"])
    except (*BROKEN, KeyError, TypeError):
        return ""


def settled(found: str, retry_failed: bool) -> bool:
    """Whether a run with this status is left as it is."""
    return found in ("finished", "stopped_early", "pruned", "diverged") or (
        found == "failed" and not retry_failed
    )


def done(folder: Path, conf: str, retry_failed: bool) -> set[tuple[str, ...]]:
    """Overrides of the jobs that need no look: composed from the same files, and settled."""
    ledger = read(folder)
    if not ledger or ledger.conf != conf:
        return set()
    return {
        entry.overrides
        for number, entry in ledger.jobs.items()
        if entry.identity and settled(status(folder / str(number)), retry_failed)
    }


def digest(folders: Sequence[Path]) -> str:
    """A hash of every YAML file in these folders: the same files compose the same configs."""
    found = hashlib.blake2b(digest_size=8)
    for folder in sorted({folder.resolve() for folder in folders}):
        for path in sorted(folder.rglob("*.yaml")):
            found.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return found.hexdigest()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The sweep's folder, held by this process alone.

    Raises:
        LockedError: another holds it; the message says who.
    """
    with (folder / LOCK).open("a+") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on Windows: two sweeps in one folder are the user's to avoid
            pass
        except OSError:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise LockedError(
                f"{folder}: held by {who}; wait for it, or name another sweep"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
