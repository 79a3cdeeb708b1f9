"""Input without bounds: every reader refuses it by its name, and waits for nothing."""

import contextlib
import gzip
import itertools
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from argparse import Namespace
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from injected import faults, tried  # noqa: F401

from knobs import record
from knobs.compare import results
from knobs.config import files as configs
from knobs.data import blocks, cells, opening, rows, tables
from knobs.data.images import by_folder
from knobs.data.pixels import picture_files, read_pixels
from knobs.errors import ConfigError, DataError, UserError
from knobs.predict import sources

SECONDS = 60  # after which a reader counts as one that waits for ever
LONG = "n" * 5000


@contextlib.contextmanager
def bounded():
    """End a reader that waits for ever."""

    def late(*_):
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def all_of(blocks):
    return sum(1 for _ in blocks)


MODEL = SimpleNamespace(
    inputs=SimpleNamespace(kind="table"),
    source=SimpleNamespace(sep="auto", encoding="auto", text=""),
)
TEXTS = SimpleNamespace(inputs=SimpleNamespace(kind="text"), source=MODEL.source)
READERS = {
    "data=csv": lambda file: rows.tables_of(str(file), None, set()),
    "data.test_path": lambda file: rows.tables_of(str(file.parent / "sound.csv"), str(file), set()),
    "predict's table": lambda file: all_of(sources.file_blocks(opening.path_of(file), MODEL)),
    "predict's texts": lambda file: all_of(sources.file_blocks(opening.path_of(file), TEXTS)),
    "compare's file": results.read_text,
}
PICTURE = {"a picture": lambda file: read_pixels(opening.path_of(file), 8)}


def special(folder):
    """Name -> what no reader may open."""
    folder.mkdir(exist_ok=True)
    (folder / "sound.csv").write_text("a,y\n1,2\n3,4\n")
    os.mkfifo(folder / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):
        made.bind("socket.csv")
    (folder / "device.csv").symlink_to("/dev/zero")
    (folder / "one.csv").symlink_to("other.csv")
    (folder / "other.csv").symlink_to("one.csv")
    return [
        folder / name for name in ("pipe.csv", "socket.csv", "device.csv", "one.csv", f"{LONG}.csv")
    ]


@faults(
    "pipes, sockets, devices, links in circles, names of 5,000 characters, for every reader",
    "exit 3 at once, the file and what it is in one short message",
    quick=30,
)
def test_what_is_no_file(cases, tried, tmp_path):  # noqa: F811
    found = special(tmp_path / "in")
    every = [(name, read, file) for name, read in (READERS | PICTURE).items() for file in found]
    for name, read, file in random.Random(0).sample(every, cases):
        with bounded(), pytest.raises(DataError) as error:
            read(file)
        told = str(error.value)
        assert len(told) < 500, (name, told)
        assert file.name[:80] in told, (name, told)
        assert "\n" not in told
        tried()


def png(width, height, lines):
    """A PNG of a size, of which so many lines are there."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 + 3 * width) * lines, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def workbook(path, sheet):
    """An Excel file of one sheet of XML."""
    pd.DataFrame({"a": [1], "y": [2]}).to_excel(path, index=False)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    head, _, rest = parts["xl/worksheets/sheet1.xml"].partition(b"<sheetData>")
    parts["xl/worksheets/sheet1.xml"] = head + b"<sheetData>" + sheet + rest.partition(b"</row>")[2]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def bombs(folder):
    """Yield (file, what is said of it): small files that are large, or that no table is."""
    folder.mkdir(exist_ok=True)
    wide = ",".join(f"c{i}" for i in range(200_000))
    yield (
        made(folder / "wide.csv", f"{wide}\n{','.join('1' * 200_000)}\n"),
        "200,000 columns, at most 20,000",
    )
    yield made(folder / "line.csv", f"a,y\n{'x' * 5_000_000},1\nb,2\n"), "a line of more than"
    quoted = 'a,y\n"' + "words that go on\n" * 10_000 + '",1\nb,2\n'
    yield (
        made(folder / "quote.csv", quoted),
        "a cell of more than 100,000 characters; is a quote left",
    )
    table = b"a,y\n" + b"1,2\n" * 500_000
    with gzip.open(folder / "bomb.csv.gz", "wb") as file:
        file.write(table)
    yield folder / "bomb.csv.gz", "unpack to over"
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", table)
    yield folder / "bomb.zip", "unpack to over"
    workbook(folder / "bomb.xlsx", b" " * 2_000_000)
    yield folder / "bomb.xlsx", "as a bomb does"
    far = b"".join(b'<row r="%d"><c r="XFD%d"><v>1</v></c></row>' % (r, r) for r in range(1, 30))
    workbook(folder / "far.xlsx", far)
    yield folder / "far.xlsx", "more than 100,000 cells; remove the far ones"
    entities = "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise("abcdefgh")
    )
    laughs = f'<!DOCTYPE x [<!ENTITY a "{"x" * 100}">{entities}]>'
    workbook(folder / "laughs.xlsx", b"")
    edit(folder / "laughs.xlsx", laughs.encode())
    yield folder / "laughs.xlsx", "not an Excel file"


def made(path, text):
    path.write_text(text)
    return path


def edit(path, doctype):
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    cell = b'<row r="1"><c r="A1" t="inlineStr"><is><t>&h;</t></is></c></row></sheetData>'
    sheet = parts["xl/worksheets/sheet1.xml"]
    at = sheet.index(b"<worksheet")
    sheet = sheet[:at] + doctype + sheet[at:].replace(b"</sheetData>", cell)
    parts["xl/worksheets/sheet1.xml"] = sheet
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


@pytest.fixture
def small(monkeypatch):
    """Bounds a thousandth of what they are: the same tests of them, with small files."""
    monkeypatch.setattr(opening, "CHECKED", 2**20)
    monkeypatch.setattr(opening, "MOST_LINE", 2**22)
    monkeypatch.setattr(tables, "MOST_CELL", 100_000)
    monkeypatch.setattr(cells, "MOST_CELLS", 100_000)


@faults(
    "bombs and tables that are none: columns, lines, open quotes, .gz, .zip, .xlsx, entities",
    "exit 3 before they fill memory, the file and the fix in one message",
    quick=16,
)
def test_bombs(cases, tried, small, tmp_path):  # noqa: F811
    readers = [READERS["data=csv"], READERS["predict's table"]]
    every = [(file, what, read) for file, what in bombs(tmp_path / "in") for read in readers]
    for file, what, read in every[:cases]:
        if file.name.endswith((".gz", ".zip")) and read is readers[1]:
            continue  # read in blocks, they fill nothing; their ratio is asserted below
        with bounded(), pytest.raises(DataError) as error:
            read(file)
        assert what in str(error.value), file.name
        assert file.name in str(error.value)
        tried()


def test_a_bomb_read_in_blocks_is_refused_too(small, tmp_path):
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write(b"a,y\n" + b"1,2\n" * 500_000)
    with pytest.raises(DataError, match="unpack to over .*, as a bomb does"):
        all_of(blocks.stream(tmp_path / "t.csv.gz", "auto", "auto", 1000))


def test_a_parquet_file_of_more_rows_than_memory(tmp_path, monkeypatch):
    """Runs of equal cells take no bytes: the rows are counted before they are made."""
    pd.DataFrame({"a": np.zeros(100_000), "y": np.zeros(100_000)}).to_parquet(
        tmp_path / "t.parquet"
    )
    tables.read(tmp_path / "t.parquet", "auto", "auto")
    monkeypatch.setattr(opening, "free_memory", lambda: 2**20)
    with pytest.raises(DataError, match=r"100,000 rows of 2 columns need 0.0 GiB, and .* are free"):
        tables.read(tmp_path / "t.parquet", "auto", "auto")


def test_wide_tables_are_read_fewer_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_AT_ONCE", 100)
    frame = pd.DataFrame(np.arange(600).reshape(30, 20), columns=[f"c{i}" for i in range(20)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        sizes = [len(block) for block in blocks.stream(tmp_path / name, "auto", "auto", 16_384)]
        assert sizes == [5] * 6


@pytest.mark.parametrize("when", ["before its rows", "within them"])
def test_a_file_that_grows_while_it_is_read(when, tmp_path, monkeypatch):
    path = made(tmp_path / "t.csv", "a,y\n" + "1,2\n" * 50_000)
    true = tables.parsed if when == "before its rows" else opening._Bounded.readinto

    def grows(*args, **kwargs):
        with path.open("a") as file:
            file.write("3,4\n")
        return true(*args, **kwargs)

    place = (tables, "parsed") if when == "before its rows" else (opening._Bounded, "readinto")
    monkeypatch.setattr(*place, grows)
    for read in (READERS["data=csv"], READERS["predict's table"]):
        with pytest.raises(DataError, match=r"t\.csv: changes while it is read; wait"):
            read(path)


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (9_460, 9_460), (1, 2**30)])
def test_picture_bombs(width, height, tmp_path):
    (tmp_path / "x.png").write_bytes(png(width, height, 1))
    with bounded(), pytest.raises(DataError, match=r"x\.png: .*(must be at most|too large)"):
        read_pixels(tmp_path / "x.png", 8)


def test_folders_of_pictures_with_circles_and_a_great_many_files(tmp_path):
    root = tmp_path / "root"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(2_000):
            (root / name / f"{i}.png").touch()
        (root / name / "up").symlink_to(root)
    with bounded():
        assert len(picture_files(root, Counter())) == 4_000
    (root / "cat" / "loop").symlink_to(root / "cat" / "loop")
    with bounded(), contextlib.suppress(OSError):  # by its name, where image_folder reads it
        assert len(by_folder(root, []).files) == 4_000


# ------------------------------------------------------------------ JSON and YAML
def test_json_ten_thousand_deep(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    path = made(tmp_path / "config.json", '{"a": ' + deep + "}")
    with bounded(), pytest.raises((*record.BROKEN, UserError)):
        record.read_json(path)
    path = made(tmp_path / "runs.jsonl", '{"seed": ' + deep + "}\n")
    with bounded(), pytest.raises(DataError, match=r"line 1: not JSON"):
        list(results.rows_of(path))
    path = made(tmp_path / "metrics.jsonl", json.dumps({"epoch": 1}) + "\n" + deep + "\n")
    assert [row["epoch"] for row in record.read_metrics(tmp_path)] == [1]


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")
)
YAMLS = {
    "aliases": (ALIASES, r"its aliases .* make more than 10,000 values"),
    "circle": ("a: &a [*a]\n", r"make more than 10,000 values"),
    "deep": ("a: " + "[" * 2_000 + "]" * 2_000, "nested too deeply"),
    "long": ("# a comment\n" * 20_000, r"has 240,000 bytes, and 131,072 at most"),
}


@faults(
    "configs of one's own that never end: alias bombs, circles, depth, length, pipes, devices",
    "exit 2 before Hydra reads them, the file in one message",
    quick=14,
)
def test_config_folders(cases, tried, tmp_path):  # noqa: F811
    def pipe(path):
        os.mkfifo(path)

    makers = {
        name: (lambda path, text=text: path.write_text(text), why)
        for name, (text, why) in YAMLS.items()
    }
    makers |= {"pipe": (pipe, "no file"), "device": (lambda path: path.symlink_to("/dev/zero"), "no file"),
               "loop": (lambda path: path.symlink_to(path), "links")}  # fmt: skip
    every = [(name, flag) for name in makers for flag in ("config_dir", "config_path")]
    for name, flag in every[:cases]:
        make, why = makers[name]
        folder = tmp_path / name / flag / "model"
        folder.mkdir(parents=True)
        make(folder / "own.yaml")
        args = Namespace(config_dir=None, config_path=None)
        setattr(args, flag, str(folder.parent))
        with bounded(), pytest.raises(ConfigError, match=why) as error:
            configs.refuse_bombs(args)
        assert "own.yaml" in str(error.value)
        tried()


def test_config_folders_of_a_great_many_files_and_sound_ones(tmp_path, monkeypatch):
    args = Namespace(config_dir=str(tmp_path), config_path=None)
    (tmp_path / "own.yaml").write_text("a: &a {x: 1}\nb: *a\nc: [1, 2]\n")
    (tmp_path / "broken.yaml").write_text("a: [1, 2\n")  # composing says so, with the line
    configs.refuse_bombs(args)
    monkeypatch.setattr(configs, "MOST_FILES", 1)
    with pytest.raises(ConfigError, match="has more than 1 files; name the folder of your YAML"):
        configs.refuse_bombs(args)


# ------------------------------------------------------------------ in a GiB
LARGE = {
    "cell.csv": "f.write('a,y\\n' + 'x' * 100_000_000 + ',1\\nb,2\\n')",
    "wide.csv": "h = ','.join(f'c{i}' for i in range(200_000)); f.write(h + '\\n' + h + '\\n')",
    "quote.csv": "f.write('a,y\\n\"' + ('some words ' * 9 + '\\n') * 1_000_000 + '\",1\\nb,2\\n')",
}
PROGRAM = """
import resource, sys
from knobs.data import rows
from knobs.errors import ended
with open(sys.argv[1], "w") as f:
    {write}
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
sys.exit(ended(lambda: rows.tables_of(sys.argv[1], None, set()) and 0))
"""


@faults(
    "100 MB cells, 200,000 columns and an open quote, in a process of 1 GiB",
    "exit 3 (7 where it is memory that lacks), one message",
    quick=1,
    whole=3,
)
def test_large_files_in_little_memory(cases, tried, tmp_path):  # noqa: F811
    for name, write in [*LARGE.items()][1 : 1 + cases] if cases == 1 else LARGE.items():
        program = PROGRAM.format(write=write)
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True
        )
        assert done.returncode in (3, 7), done.stderr[-500:]
        assert done.stderr.startswith("knobs: ")
        assert done.stderr.count("\n") == 1
        assert name in done.stderr
        tried()


def test_free_memory_knows_the_limits_of_a_process():
    program = (
        "import resource; from knobs.data import opening; before = opening.free_memory();"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29));"
        "print(opening.free_memory() < min(before, 2**29) or before < 2**29)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
