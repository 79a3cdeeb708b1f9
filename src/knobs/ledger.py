"""Keep sweep.json: which job of a sweep is which run, so that the same command goes on with it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from knobs.record import BROKEN, ended
from knobs.storage import Lock, write_whole

LEDGER, LOCK = "sweep.json", "sweep.lock"


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
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        write_whole(folder / LEDGER, text + "\n")


def read(folder: Path) -> Ledger | None:
    """Read a folder's sweep.json; None where there is none that can be read."""
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
    """Return how the run in a folder ended; empty where it has not ended."""
    end = ended(folder)
    return end.status if end else ""


def settled(status: str, retry_failed: bool) -> bool:
    """Return whether a run with this status is left as it is."""
    return status in ("finished", "stopped_early", "pruned", "diverged") or (
        status == "failed" and not retry_failed
    )


def done(folder: Path, conf: str, retry_failed: bool) -> set[tuple[str, ...]]:
    """Return the overrides of jobs that need no look: composed from the same files, and settled."""
    ledger = read(folder)
    if not ledger or ledger.conf != conf:
        return set()
    return {
        entry.overrides
        for number, entry in ledger.jobs.items()
        if entry.identity and settled(status(folder / str(number)), retry_failed)
    }


def digest(folders: Sequence[Path]) -> str:
    """Hash every YAML file in these folders: the same files compose the same configs."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in sorted({folder.resolve() for folder in folders}):
        for path in sorted(folder.rglob("*.yaml")):
            digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def held(folder: Path) -> Lock:
    """Hold the sweep's folder for this process alone.

    Raises:
        LockedError: another holds it; the message says who.
    """
    return Lock(folder / LOCK, "held by {who}; wait for it, or name another sweep")
