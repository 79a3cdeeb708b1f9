"""Keep sweep.json: which job of a sweep is which run, so that the same command goes on with it."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from knobs import record
from knobs.identity import FILES, identity, job_of, key_of, under
from knobs.record import (
    BROKEN,
    CHECKPOINTS,
    CONFIG,
    LEDGER,
    METRICS,
    SCHEMA,
    SEARCHED,
    NewerSchema,
    check_schema,
    ended,
    hold,
    read_config,
    read_json,
    renamed,
    sealed,
    write,
)
from knobs.storage import Lock, keep, make_folder, refuse_links, take_over

LOCK = "sweep.lock"


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
        write(folder / LEDGER, sealed({"schema": SCHEMA} | asdict(self)), sync=True)


def read(folder: Path) -> Ledger | None:
    """Read a folder's sweep.json; None where there is none that can be read.

    Raises:
        NewerSchema: a newer knobs wrote it.
    """
    try:
        stored = read_json(folder / LEDGER)
        check_schema(stored, folder / LEDGER)
        jobs = {
            int(number): Entry(tuple(map(renamed, job["overrides"])), job["identity"])
            for number, job in stored["jobs"].items()
        }
        texts = [t for entry in jobs.values() for t in (entry.identity, *entry.overrides)]
        sound = all(isinstance(text, str) for text in [stored["conf"], *texts])
        return Ledger(stored["conf"], jobs) if sound and min(jobs, default=0) >= 0 else None
    except NewerSchema:
        raise
    except (*BROKEN, KeyError, TypeError, AttributeError):
        return None


def known(folder: Path) -> tuple[Ledger, int]:
    """Return a sweep's jobs: those of sweep.json, and those whose runs lie there without it.

    Each run's config.json says what it is. A sweep.json that is damaged, lost, older than its runs
    or another's costs nothing.

    Returns:
        The jobs, and how many of them sweep.json did not have, or had otherwise.
    """
    book, found = read(folder) or Ledger(""), 0
    for path in folder.glob(f"*/{CONFIG}"):
        number = path.parent.name
        if not (number.isascii() and number.isdecimal()) or _agrees(book, int(number), path.parent):
            continue
        try:
            document = read_config(path.parent)
            if document.get("run", {}).get("role") in SEARCHED:
                continue  # its journal has it
            lines = [line for line in document["overrides"] if not line.startswith("resume=")]
            job = job_of(lines)
            book.jobs[int(number)] = Entry(job, name_of(document["identity"], job))
            found += 1
        except (*BROKEN, KeyError, TypeError, AttributeError):
            continue  # no run of knobs, or one that cannot be told from others
    if found:
        book.conf = ""  # which files those were composed from is not known: each is composed again
    return book, found


def _agrees(book: Ledger, number: int, run: Path) -> bool:
    """Return whether a run is the one that its number stands for; so is one that did not begin."""
    entry = book.jobs.get(number)
    if entry is None:
        return False
    try:
        document, known = read_config(run), entry.identity.partition(" ")[0]
        return document["identity"] == known or identity(document["config"]) == known
    except FileNotFoundError:
        return True
    except (*BROKEN, KeyError, TypeError, AttributeError):
        return True  # killed as it began


def name_of(identity: str, job: Sequence[str]) -> str:
    """Return a run's identity within a sweep, where files named on the command line differ."""
    files = [line for line in job if under(key_of(line), FILES)]
    return " ".join([identity, *files])


def holds(folder: Path, config: dict, unreadable: bool = False) -> bool:
    """Return whether a run's folder is that of this config, by what it has recorded.

    Args:
        unreadable: the answer where config.json cannot be read, as a power cut may leave it.
    """
    try:
        document = read_config(folder)
        return identity(config) in (document["identity"], identity(document["config"]))
    except BROKEN:
        return unreadable
    except (KeyError, TypeError, AttributeError):
        return False


def holds_a_run(folder: Path) -> bool:
    """Return whether there is anything of a run in a folder, with its config.json or without."""
    names = (CONFIG, record.SUMMARY, record.CHECKPOINTS)
    return (folder / record.METRICS).is_file() or any(os.path.lexists(folder / n) for n in names)


def status(folder: Path) -> str:
    """Return how the run in a folder ended; empty where it has not ended.

    Empty too where a power cut took its config.json, so that it goes on and writes it again.
    """
    end = ended(folder)
    if end is None or not any((folder / name).exists() for name in (CHECKPOINTS, METRICS)):
        return end.status if end else ""
    try:
        read_config(folder)
    except BROKEN:
        return ""
    return end.status


def settled(status: str, retry_failed: bool) -> bool:
    """Return whether a run with this status is left as it is."""
    return status in ("finished", "stopped_early", "pruned", "diverged") or (
        status == "failed" and not retry_failed
    )


def done(folder: Path, conf: str, retry_failed: bool) -> set[tuple[str, ...]]:
    """Return the overrides of jobs that need no look: composed from the same files, and settled."""
    book, _ = known(folder)
    return over(book, folder, conf, retry_failed)


def over(book: Ledger, folder: Path, conf: str, retry_failed: bool) -> set[tuple[str, ...]]:
    """Return the same of a sweep whose jobs are `known`."""
    if book.conf != conf:
        return set()
    return {
        entry.overrides
        for number, entry in book.jobs.items()
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


@contextlib.contextmanager
def held_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process, before anything is written into it; make it first.

    Its record takes the lock over; where none does, it is free again afterwards.

    Raises:
        LockedError: another process is writing this run. StorageError: a link leads out of it.
    """
    refuse_links(folder.parent, [folder.name])
    make_folder(folder)
    lock = hold(folder.absolute())  # a job may go elsewhere meanwhile
    keep(lock)
    try:
        yield
    finally:
        if take_over(lock.path) is lock:
            lock.release()
