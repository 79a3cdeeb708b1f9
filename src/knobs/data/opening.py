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

from knobs.errors import MOST_PLACE, DataError, MemoryShortage, making, size
from knobs.words import printable

SHARE = 0.5  # of the free memory that the text of a table may take
MOST_RATIO, CHECKED = 200, 2**28  # times that packed text may grow, once it has this many bytes
MOST_LINE = 2**26  # bytes of a line of text
EXCEL = 3  # times the unpacked XML of an Excel file that its cells take
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
    """Return the bytes of memory still free, within the limits of this process and its group."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 8 * 2**30  # not Linux: a guess that every machine of today meets
    import resource

    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    for what, place in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most, _ = resource.getrlimit(what)
        if most != resource.RLIM_INFINITY:
            free = min(free, most - pages[place] * resource.getpagesize())
    return max(0, free)


@contextmanager
def room(what: str, count: int, fix: str) -> Iterator[None]:
    """Name what is made inside where memory does not hold it; refuse at once what surely does not.

    Linux gives more memory than there is, and kills who then uses it.

    Args:
        what: it is, `the encoding of 90,000 rows as 20,000 columns`.
        count: bytes of it.
        fix: what makes it smaller.

    Raises:
        MemoryShortage: naming it, with its size.
    """
    what = f"{what} ({size(count)})"
    if count > CHECKED and count > (free := free_memory()):
        raise MemoryShortage(f"out of memory for {what}: {size(free)} are free; {fix}")
    with making(what, fix):
        yield


def path_of(name: str | Path) -> Path:
    """Return the path that a user has typed, `~` its home.

    Raises:
        DataError: a name that no file can have.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a byte 0, `~` of nobody
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{shown(name)}: cannot be read ({why})") from None
    return path


def shown(name: str | Path) -> str:
    """Return a path for a message: of a long one its ends, on one line."""
    text = printable(str(name))
    return text if len(text) <= MOST_PLACE else f"{text[:90]}...{text[-90:]}"


def refuse_no_file(file: Path, what: str) -> None:
    """Refuse a pipe, a socket or a device, which would be waited for; nothing is opened.

    Args:
        what: it must be, and the fix.

    Raises:
        DataError: naming the file. OSError: there is none.
    """
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{file}: is a pipe, a socket or a device; {what}")


def refuse_missing(file: Path) -> None:
    """Refuse a path where no plain file is.

    Raises:
        DataError: naming it.
    """
    try:
        refuse_no_file(file, "write it to a file")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{shown(file)}: no such file") from None
    if file.is_dir():
        raise DataError(f"{file}: is a folder; expected a file")


def check(file: Path, whole: bool = True) -> None:
    """Refuse what is no plain file, or of another kind than its name says.

    Args:
        whole: whether memory is to hold all of it, not a block of it at a time.

    Raises:
        DataError: naming the file, what it is, and the fix.
    """
    try:
        refuse_no_file(file, "write the table to a file")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{shown(file)}: no such file; expected a CSV with a header") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{shown(file)}: cannot be read ({why})") from None
    if file.is_dir():
        raise DataError(f"{file}: is a folder; expected a file, a CSV with a header")
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
            whole_size = sum(info.file_size for info in archive.infolist())
        if whole_size > CHECKED and whole_size > MOST_RATIO * file.stat().st_size:
            raise _bomb(file, whole_size)
        _limit(file, EXCEL * whole_size, "needs")


def _refuse(file: Path, head: bytes) -> None:
    for start, what in OTHERS.items():
        if head[: len(start)].lower() == start:
            raise DataError(f"{file}: is {what}")
    if head[257:262] == b"ustar":
        raise DataError(f"{file}: is an archive of files (tar); unpack it, and name the table")


def _limit(file: Path, count: int, verb: str) -> None:
    """Refuse a text of so many bytes that memory does not hold."""
    free = free_memory()
    if count > SHARE * free:
        sizes = f"{count / 2**30:.1f} GiB of text, and {free / 2**30:.1f} GiB of memory are free"
        raise DataError(f"{file}: {verb} {sizes}; take fewer rows or columns")


def _bomb(file: Path, count: int) -> DataError:
    sizes = f"{file.stat().st_size:,} bytes unpack to over {count:,}"
    mend = "unpack it yourself if it is a table, and name that file"
    return DataError(f"{file}: {sizes}, as a bomb does; {mend}")


@contextmanager
def unchanged(file: Path) -> Iterator[None]:
    """Refuse a file that others write while it is read: two looks at it would differ.

    Raises:
        DataError: naming the file.
    """
    before = file.stat()
    yield
    after = file.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changes(file)


def _changes(file: Path) -> DataError:
    return DataError(f"{file}: changes while it is read; wait until it is whole, or copy it")


class _Bounded(io.RawIOBase):
    """A file's text, refused once it is a bomb, has too long a line, or grows.

    Args:
        whole: whether memory is to hold all of it, else only each line.
    """

    def __init__(self, stream: IO[bytes], file: Path, whole: bool):
        self.stream, self.file, self.whole, self.line = stream, file, whole, 0
        self.size, self.done = file.stat().st_size, 0
        self.packed = file.suffix.lower() in (*UNPACK, ".zip")
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
            if self.packed and self.done > MOST_RATIO * self.size:
                raise _bomb(self.file, self.done)
            if self.whole and self.packed:
                _limit(self.file, self.done, "unpacks to over")
        if self.done > self.size and not self.packed:
            raise _changes(self.file)
        ends = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self.line = self.line + len(block) if ends < 0 else len(block) - ends
        if self.line > MOST_LINE:
            what = f"a line of more than {MOST_LINE // 2**20} MiB"
            raise DataError(f"{self.file}: {what}; is it a table, a row a line?")
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
        bounded = _Bounded(raw, file, whole)
        stream = io.BufferedReader(bounded, 2**16)
        if not bounded.packed:
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
