"""The journal of a search's trials: Optuna's file, each line with a checksum."""

import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from knobs import storage
from knobs.errors import CheckpointError, first_line
from knobs.storage import cut_half_line, sync_folder

LAST = re.compile(rb',"crc":"([0-9a-f]{8})"}\n\Z')  # of a line
END = 32  # bytes that hold it


def opened(path: Path | None) -> BaseStorage:
    """Open a journal, freed of what a kill left; one in memory where there is no path.

    Nobody else of ours writes meanwhile.

    Raises:
        CheckpointError: it is damaged, or none.
    """
    if path is None:
        return InMemoryStorage()
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # Optuna waits half a minute
    cut_half_line(path)  # Optuna refuses half a line, for good once another follows
    if not path.stat().st_size:
        sync_folder(path.parent)  # its lines are synced as they are written, its name is not
    try:
        for line in storage.read(path).splitlines():
            json.loads(line)  # Optuna would see it of the last line once another follows
        return JournalStorage(_Checked(path))
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {first_line(error)}") from None


class _Checked(JournalFileBackend):
    """Optuna's journal, each line with a checksum of itself and of the line before.

    So a line that is damaged, lost or there twice is noticed. Lines without one are older, or of
    another program that opened the journal.
    """

    def __init__(self, path: Path):
        super().__init__(str(path))
        self._path, self._sums = path, {0: 0}  # lines read so far -> checksum of the last of them

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append and sync lines."""
        with self._path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END))
            found = LAST.search(file.read())
        before, lines = int(found[1], 16) if found else 0, []
        for log in logs:
            before = _checksum(log, before)
            lines.append(log | {"crc": f"{before:08x}"})
        super().append_logs(lines)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield lines from a number on.

        Raises:
            CheckpointError: one of them is damaged: all trials are counted by those before.
        """
        number, before = log_number_from, self._sums.get(log_number_from)
        try:
            for log in super().read_logs(log_number_from):
                number += 1
                crc = log.pop("crc", None)
                now = _checksum(log, before or 0) if crc else 0
                if crc and before is not None and crc != f"{now:08x}":
                    raise ValueError("its checksum is another")
                self._sums[number] = before = now
                yield log
        except (ValueError, AttributeError, RecursionError) as error:
            raise _damaged(self._path, f"line {number}: {first_line(error)}") from None


def _checksum(log: dict[str, Any], before: int) -> int:
    """Return the CRC-32 of a line as Optuna writes it, continued from that of the line before."""
    text = json.dumps(log, separators=(",", ":")).encode()
    return zlib.crc32(text[:-1], before)


def _damaged(path: Path, why: str) -> CheckpointError:
    mend = "put it back from a copy, or name another sweep"
    return CheckpointError(
        f"{path}: damaged ({why}), so which trials were made is not known; {mend}"
    )
