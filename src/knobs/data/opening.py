"""Files -> bytes: packed ones unpacked within bounds; what is no table is refused by its name."""

import bz2
import contextlib
import gzip
import io
import lzma
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from knobs.errors import DataError

SHARE = 0.5  # of the free memory that the text of a table may take
MOST_RATIO, CHECKED = 200, 2**28  # times that packed text may grow, once it has this many bytes
MOST_LINE = 2**26  # bytes of a line of what is read in blocks
UNPACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# How files begin that are read by another ending of their name.
ENDINGS = {
    b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"PAR1": ".parquet",
    b"PK\x03\x04": ".zip or .xlsx",
}  # fmt: skip
# How files begin that are no table, and the fix.
OTHERS = {
    b"\xd0\xcf\x11\xe0": "an Excel file of before 2007; save it as .xlsx or .csv",
    b"version https://git-lfs": "a pointer of Git LFS, not the file; git lfs pull",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"[{": "JSON; save it as .csv or .parquet",
    b'{"': "JSON; save it as .csv or .parquet",
    b"%pdf": "a PDF; save its table as .csv",
    b"sqlite format 3": "a database of SQLite; save the table as .csv",
    b"\x93numpy": "an array of numpy; save it as .csv or .parquet",
    b"\x89hdf": "an HDF5 file; save it as .csv or .parquet",
    b"arrow1": "an Arrow or Feather file; save it as .parquet",
    b"\x80\x04\x95": "a pickle, which is never read; save it as .csv or .parquet",
    b"\x80\x05\x95": "a pickle, which is never read; save it as .csv or .parquet",
}


def free_memory() -> int:
    """Return the bytes of memory still free, within the limit of this process's control group."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 8 * 2**30  # not Linux: a guess that every machine of today meets
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0, free)


def check(file: Path, whole: bool = True) -> None:
    """Refuse what is no plain file, or of another kind than its name says.

    Args:
        whole: whether memory is to hold all of it, not a block of it at a time.

    Raises:
        DataError: naming the file, what it is, and the fix.
    """
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{file}: no such file; expected a CSV with a header") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read ({why})") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{file}: is a folder; expected a file, a CSV with a header")
    if not stat.S_ISREG(mode):
        raise DataError(f"{file}: is a pipe, a socket or a device; write the table to a file")
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    if file.suffix.lower() not in (*UNPACK, ".zip", ".xlsx", ".parquet"):
        for start, ending in ENDINGS.items():
            if head.startswith(start):
                raise DataError(f"{file}: begins as a file whose name ends in {ending}; rename it")
    _refuse(file, head)
    if whole:
        _limit(file, file.stat().st_size, "is")
    if file.suffix.lower() == ".xlsx" and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            _limit(file, sum(info.file_size for info in archive.infolist()), "unpacks to")


def _refuse(file: Path, head: bytes) -> None:
    for start, what in OTHERS.items():
        if head[: len(start)].lower() == start:
            raise DataError(f"{file}: is {what}")
    if head[257:262] == b"ustar":
        raise DataError(f"{file}: is an archive of files (tar); unpack it, and name the table")


def _limit(file: Path, size: int, verb: str) -> None:
    """Refuse a text that memory does not hold."""
    free = free_memory()
    if size > SHARE * free:
        sizes = f"{size / 2**30:.1f} GiB of text, and {free / 2**30:.1f} GiB of memory are free"
        raise DataError(f"{file}: {verb} {sizes}; take fewer rows or columns")


class _Bounded(io.RawIOBase):
    """A packed file's text, refused once it is a bomb.

    Args:
        whole: whether memory is to hold all of it, else only each line.
    """

    def __init__(self, stream: IO[bytes], file: Path, whole: bool):
        self.stream, self.file, self.whole, self.line = stream, file, whole, 0
        self.packed, self.done = file.stat().st_size, 0
        self.next = CHECKED  # bytes at which to look again

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray) -> int:
        """Fill the buffer; return the number of bytes."""
        block = self.stream.read(len(buffer))
        buffer[: len(block)] = block
        self.done += len(block)
        if self.done > self.next:
            self.next += CHECKED
            if (
                self.file.suffix.lower() in (*UNPACK, ".zip")
                and self.done > MOST_RATIO * self.packed
            ):
                sizes = f"{self.packed:,} bytes unpack to over {self.done:,}"
                mend = "unpack it yourself if it is a table, and name that file"
                raise DataError(f"{self.file}: {sizes}, as a bomb does; {mend}")
            if self.whole:
                _limit(self.file, self.done, "unpacks to over")
        ends = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self.line = self.line + len(block) if ends < 0 else len(block) - ends
        if self.line > MOST_LINE and not self.whole:
            raise DataError(f"{self.file}: a line of more than {MOST_LINE // 2**20} MiB")
        return len(block)


@contextmanager
def binary(file: Path, whole: bool = True) -> Iterator[IO[bytes]]:
    """Open a file, unpacked if its name ends in .gz, .bz2, .xz or .zip.

    Args:
        whole: as of `check`.

    Raises:
        DataError: an archive of several files, of none, or with a password; a text too long.
    """
    suffix = file.suffix.lower()
    with contextlib.ExitStack() as opened:
        if suffix == ".zip":
            archive = opened.enter_context(zipfile.ZipFile(file))
            raw = opened.enter_context(archive.open(_member(file, archive, whole)))
        else:
            raw = opened.enter_context(UNPACK.get(suffix, open)(file, "rb"))
        packed = suffix in (*UNPACK, ".zip")
        if whole and not packed:
            yield raw
            return
        stream = io.BufferedReader(_Bounded(raw, file, whole), 2**16)
        if not packed:
            yield stream
            return
        head = stream.peek(512)
        for start, ending in ENDINGS.items():
            if head.startswith(start):
                raise DataError(f"{file}: holds a {ending} file; unpack it, and name that file")
        _refuse(file, head)
        yield stream


def member(file: Path) -> str:
    """Return the name of the one file that a .zip holds.

    Raises:
        DataError: it holds none or several, or has a password.
    """
    with zipfile.ZipFile(file) as archive:
        return _member(file, archive, False).filename


def _member(file: Path, archive: zipfile.ZipFile, whole: bool) -> zipfile.ZipInfo:
    """Return the one file of an archive; what systems add beside it does not count."""
    infos = [
        info for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
        and not info.filename.rpartition("/")[2].startswith(".")
    ]  # fmt: skip
    if len(infos) != 1:
        raise DataError(f"{file}: has {len(infos)} files; must have one, the table")
    if infos[0].flag_bits & 1:
        raise DataError(f"{file}: has a password; unpack it, and name that file")
    if whole:
        _limit(file, infos[0].file_size, "unpacks to")
    return infos[0]
