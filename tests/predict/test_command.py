"""python -m knobs.predict: files in, files out, exit codes, and nothing half written."""

import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest
from predict_cases import table_words, train

import knobs
from knobs.__main__ import main
from knobs.data import opening
from knobs.predict import command, sources
from knobs.words import cell


@pytest.fixture(scope="module")
def runs(home):
    """Name -> the folder of its run, trained once."""
    made = {}

    def get(name):
        if name not in made:
            words = {
                "text": ["data=text_csv", f"data.path={home / 'mail.csv'}", "data.text=body",
                         "data.label=topic", "data.min_count=1", "model=text_bag"],
                "pictures": ["data=image_folder", f"data.root={home / 'pictures'}", "data.size=16"],
            }.get(name) or table_words(home / "t.csv", name)  # fmt: skip
            made[name] = train(home / f"run{len(made)}", *words)
        return str(made[name])

    return get


@pytest.fixture
def predict(capsysbinary):
    """Words -> exit code, what was printed as a frame (of texts), and stderr."""

    def run(*words):
        capsysbinary.readouterr()
        try:
            code = main(["predict", *map(str, words)])
        except SystemExit as ended:
            code = ended.code
        told = capsysbinary.readouterr()
        frame = (
            pd.read_csv(io.BytesIO(told.out), dtype=str, keep_default_na=False)
            if told.out
            else None
        )
        return code, frame, told.err.decode()

    return run


@pytest.mark.parametrize(("name", "columns"), [
    ("cheap", ["prediction", "p(no)", "p(yes)"]), ("price", ["prediction"]),
    ("price,rooms", ["price", "rooms"]), ("big,old", ["big", "p(big)", "old", "p(old)"]),
])  # fmt: skip
def test_a_table_gets_the_answers_of_python_in_its_order(name, columns, home, runs, predict):
    code, frame, told = predict(runs(name), home / "t.csv")
    assert code == 0, told
    assert list(frame) == ["row", *columns]
    assert frame["row"].tolist() == [str(i) for i in range(240)]
    expected = knobs.load(runs(name)).predict(home / "t.csv")
    for column in columns:
        found = frame[column]
        if expected[column].dtype.kind == "f":
            assert np.allclose(found.astype(float), expected[column], rtol=5e-6)
            digits = found.str.replace(r"e.*|^0\.0*|\.0$|\.", "", regex=True).str.len()
            assert digits.max() in (6, 7, 8)
        else:
            assert found.tolist() == [str(value) for value in expected[column]]
    assert "knobs: not used: id, " in told
    assert "missing: 23 of age" in told


def test_kept_columns_stand_behind_the_answers(home, runs, predict, tmp_path):
    frame = pd.read_csv(home / "t.csv", dtype=str, keep_default_na=False)
    frame = frame.assign(row="mine", prediction="=1+1", error="none")
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, found, _ = predict(runs("cheap"), tmp_path / "t.csv", "--keep")
    assert code == 0
    assert list(found)[:4] == ["row", "prediction", "p(no)", "p(yes)"]
    names = [f"{c} (input)" if c in ("row", "prediction", "error") else c for c in frame]
    assert list(found)[4:] == names
    assert found[names].to_numpy().tolist() == frame.map(cell).to_numpy().tolist()
    _, found, _ = predict(runs("text"), home / "mail.csv", "--keep")
    assert found["body"].tolist() == pd.read_csv(home / "mail.csv")["body"].tolist()


def test_a_target_of_several_may_be_called_as_a_kept_column(home, runs, predict):
    _, found, _ = predict(runs("price,rooms"), home / "t.csv", "--keep")
    assert list(found)[:3] == ["row", "price", "rooms"]
    assert (
        found["price (input)"].tolist() == pd.read_csv(home / "t.csv", dtype=str)["price"].tolist()
    )


@pytest.mark.parametrize("name", ["cheap", "big,old", "price"])
@pytest.mark.parametrize("block", [1000, 50])  # the first fault in the first block, or later
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_at_fault_are_empty_and_the_others_predicted(
    name, block, ending, home, runs, predict, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "BLOCK", block)
    frame = pd.read_csv(home / "t.csv", dtype=str, keep_default_na=False)
    frame.loc[200, "size"], frame.loc[77, "sold"] = "wide", "soon"
    frame.to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / f"out.{ending}"
    code, _, told = predict(runs(name), tmp_path / "t.csv", "--out", out, "--keep")
    assert code == command.SOME_ROWS == 23
    assert "2 of 240 rows not predicted (row 77: sold='soon': is not a date)" in told
    found = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    assert found.index[found["error"].notna()].tolist() == [77, 200]
    assert found.loc[200, "error"] == "size='wide': is not a number"
    answers = found.columns[1 : list(found).index("error")]
    assert found[answers].isna().any(axis=1).sum() == 2
    assert found.loc[[77, 200], answers].isna().all(axis=None)
    good = found["error"].isna()
    expected = knobs.load(runs(name)).predict(home / "t.csv")
    for column in answers:
        values = found.loc[good, column]
        if expected[column].dtype.kind in "if":
            assert np.allclose(values.astype(float), expected.loc[good, column], rtol=5e-6)
        else:
            assert values.tolist() == expected.loc[good, column].tolist()
    assert not list(tmp_path.glob("*.partial"))


def test_pictures_are_named_by_their_paths_and_corrupt_ones_told(home, runs, predict, tmp_path):
    import shutil

    shutil.copytree(home / "pictures", tmp_path / "p")
    (tmp_path / "p" / "cat" / "half.png").write_bytes(
        (home / "pictures/cat/0.png").read_bytes()[:99]
    )
    (tmp_path / "p" / "notes.txt").write_text("x")
    code, found, told = predict(runs("pictures"), tmp_path / "p")
    assert code == 23, told
    assert found["row"].tolist() == sorted(found["row"])
    assert len(found) == 25
    assert found.set_index("row").loc["cat/half.png", "error"].startswith("not a readable image")
    assert (found["prediction"] == "").sum() == 1
    assert predict(runs("pictures"), tmp_path / "p/dog/1.png")[1]["row"].tolist() == ["1.png"]


def test_texts_one_a_line_and_empty_ones_told(runs, predict, tmp_path):
    (tmp_path / "a.txt").write_text('late refund broken\n\n"great, thanks\nwhere when\n')
    code, found, told = predict(runs("text"), tmp_path / "a.txt", "--keep")
    assert code == 23, told
    assert found["prediction"].tolist() == ["t0", "", "t1", "t2"]
    assert found["error"].tolist() == ["", "an empty text", "", ""]
    assert found["text" if "text" in found else "body"].tolist()[2] == '"great, thanks'
    (tmp_path / "a.txt").write_text("zebra late refund\nquagga where when\n")
    code, _, told = predict(runs("text"), tmp_path / "a.txt")
    assert code == 0
    assert "33 % of the tokens never seen in training" in told


def test_what_differs_from_training_is_told(home, runs, predict, tmp_path):
    frame = pd.read_csv(home / "t.csv").head(100)
    frame.loc[:11, "size"] = 900.0
    frame.loc[:7, "kind"] = "castle"
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, _, told = predict(runs("cheap"), tmp_path / "t.csv")
    assert code == 0
    low, high = (
        knobs.load(runs("cheap")).preparation.inputs.__dict__[b][0] for b in ("low", "high")
    )
    assert f"12 % of size outside the training range ({low:.6g} .. {high:.6g}): 12 rows" in told
    assert "8 % of kind never seen in training: 8 rows" in told


# ------------------------------------------------------------------ what is refused
def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.csv", text)
    return packed.getvalue()


def test_bad_input_is_exit_3_and_leaves_nothing(home, runs, predict, tmp_path):
    text = (home / "t.csv").read_text()
    files = {
        "none.csv": (None, "no such file or folder"),
        "fewer.csv": (text.replace("size", "length", 1), "no column size; it has id, length"),
        "ragged.csv": (
            text + "1,2,3,4,5,6,7,8,9,10,11,12\n",
            "Expected 10 fields in line 242, saw 12",
        ),
        "empty.csv": ("", "not a CSV with a header"),
        "header.csv": (text.splitlines()[0] + "\n", "has no rows"),
        "cut.csv.gz": (gzip.compress(text.encode())[:-20], "not a CSV with a header"),
        "no.parquet": ("x", "not a Parquet file"),
        "no.xlsx": ("x", "not an Excel file"),
        "cut.csv.xz": (lzma.compress(text.encode())[:-20], "not a CSV with a header"),
        "no.csv.xz": ("x", "not a CSV with a header"),
        "two.zip": (zipped(a=text, b=text), "has 2 files; must have one"),
        "locked.zip": (
            zipped(a=text).replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\x01"),
            "has a password",
        ),
    }
    for name, (content, message) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        code, printed, told = predict(runs("cheap"), tmp_path / name, "--out", tmp_path / "out.csv")
        assert (code, printed) == (3, None), told
        assert told.startswith(f"knobs: {tmp_path / name}: "), told
        assert message in told
        assert told.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
    code, printed, told = predict(runs("cheap"), tmp_path / "ragged.csv")
    assert (code, printed) == (3, None)  # nothing of what came before the fault
    assert predict(runs("cheap"), home)[0] == 3
    assert predict(runs("text"), home / "pictures")[0] == 3
    assert "no pictures" in predict(runs("pictures"), tmp_path)[2]


def test_a_packed_file_holds_no_more_than_it_may(home, runs, predict, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "CHECKED", 2**20)
    rows = (home / "t.csv").read_text().splitlines(keepends=True)
    with gzip.open(tmp_path / "bomb.csv.gz", "wt") as file:
        file.write(rows[0] + rows[1] * 60_000)
    code, _, told = predict(runs("cheap"), tmp_path / "bomb.csv.gz")
    assert code == 3
    assert "as a bomb does; unpack it yourself if it is a table" in told
    monkeypatch.setattr(opening, "CHECKED", 2**28)
    monkeypatch.setattr(opening, "MOST_LINE", 2**18)
    with gzip.open(tmp_path / "line.csv.gz", "wb") as file:
        file.write(b"1" * 2**22)
    assert "a line of more than 0 MiB" in predict(runs("cheap"), tmp_path / "line.csv.gz")[2]


def test_the_input_is_never_the_output(home, runs, predict, tmp_path):
    source = tmp_path / "t.csv"
    source.write_bytes((home / "t.csv").read_bytes())
    (tmp_path / "soft.csv").symlink_to(source)
    os.link(source, tmp_path / "hard.csv")
    (tmp_path / "sub").mkdir()
    for name in ("t.csv", "soft.csv", "hard.csv", "sub/../t.csv"):
        code, _, told = predict(runs("cheap"), source, "--force", "--out", tmp_path / name)
        assert code == 2, told
        assert "is the input as well; give another --out" in told
    assert source.read_bytes() == (home / "t.csv").read_bytes()


def test_a_file_that_is_there_needs_force(home, runs, predict, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    code, _, told = predict(runs("cheap"), home / "t.csv", "--out", out)
    assert (code, out.read_text()) == (2, "mine")
    assert told == f"knobs: --out {out}: exists; --force replaces it\n"
    assert predict(runs("cheap"), home / "t.csv", "--out", out, "--force")[0] == 0
    assert len(pd.read_csv(out)) == 240
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere")
    assert predict(runs("cheap"), home / "t.csv", "--out", tmp_path / "dangling.csv")[0] == 2
    os.mkfifo(tmp_path / "pipe.csv")
    for name, message in (("pipe.csv", "is no file"), ("a.xlsx", "must end in .csv or .parquet"),
                          ("no/a.csv", "no folder")):  # fmt: skip
        code, _, told = predict(runs("cheap"), home / "t.csv", "--force", "--out", tmp_path / name)
        assert code == 2
        assert message in told


def test_no_model_is_exit_4_and_one_without_a_preparation_exit_2(home, runs, predict, tmp_path):
    import shutil

    assert predict(tmp_path, home / "t.csv")[0] == 4
    shutil.copytree(runs("cheap"), tmp_path / "old")
    (tmp_path / "old" / "preparation.json").unlink()
    code, _, told = predict(tmp_path / "old", home / "t.csv")
    assert code == 2
    assert "has no preparation.json" in told
    assert predict(runs("cheap"))[0] == 2


# ------------------------------------------------------------------ as a process
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*words, **options):
    command = [sys.executable, "-m", "knobs.predict", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=ENV, **(pipes | options))


def test_standard_input_and_a_reader_that_has_enough(home, runs):
    with (home / "t.csv").open("rb") as file, start(runs("cheap"), "-", stdin=file) as process:
        process.stdout.read(10)
        process.stdout.close()
        told = process.stderr.read().decode()
    assert (process.wait(), "Traceback" in told) == (0, False), told


def test_a_fault_of_standard_input_names_it_as_such(runs):
    with start(runs("cheap"), "-", stdin=subprocess.DEVNULL) as process:
        told = process.communicate()[1].decode()
    assert process.returncode == 3
    assert told.startswith("knobs: stdin: "), told


def test_a_redirected_input_is_never_the_output(home, runs, predict, tmp_path, monkeypatch):
    copy = tmp_path / "t.csv"
    copy.write_bytes((home / "t.csv").read_bytes())
    words = (runs("cheap"), copy, "--out", tmp_path / "out.csv")
    assert predict(*words)[0] == 0
    stat = command._stat
    monkeypatch.setattr(command, "_stat", lambda s: [copy.stat()] if s == 0 else stat(s))
    code, _, told = predict(runs("cheap"), home / "t.csv", "--force", "--out", copy)  # < t.csv
    assert (code, "is the input as well" in told) == (2, True)
    monkeypatch.setattr(command, "_stat", stat)
    with copy.open("a") as file:  # >> t.csv
        monkeypatch.setattr(sys, "stdout", file)
        assert main(["predict", runs("cheap"), str(copy)]) == 2
    assert copy.read_bytes() == (home / "t.csv").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_half_file(number, home, runs, tmp_path):
    frame = pd.read_csv(home / "t.csv", dtype=str, keep_default_na=False)
    pd.concat([frame] * 1000).to_csv(tmp_path / "t.csv", index=False)
    process = start(runs("cheap"), tmp_path / "t.csv", "--out", tmp_path / "out.csv")
    end = time.monotonic() + 60
    while not list(tmp_path.glob("*.partial")) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    told = process.communicate()[1].decode()
    assert process.returncode == 128 + number, told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_memory_does_not_grow_with_the_table(home, runs, predict, tmp_path, monkeypatch):
    """What is held after each of 40 blocks; the table as texts would take ten times as much."""
    monkeypatch.setattr(sources, "BLOCK", 240)
    frame, held, whole = pd.read_csv(home / "t.csv", dtype=str), [], command.predicted

    def watched(*args):
        for block in whole(*args):
            held.append(tracemalloc.get_traced_memory()[0])
            yield block

    monkeypatch.setattr(command, "predicted", watched)
    pd.concat([frame] * 40).to_csv(tmp_path / "t.csv", index=False)
    tracemalloc.start()
    code = predict(runs("cheap"), tmp_path / "t.csv", "--out", tmp_path / "out.csv")[0]
    tracemalloc.stop()
    assert (code, len(held)) == (0, 40)
    assert max(held[-10:]) - max(held[5:15]) < 100_000
    assert (tmp_path / "t.csv").stat().st_size > 450_000


def test_no_cell_of_a_csv_begins_a_formula():
    file = io.BytesIO()
    kept = np.array(["=1+1", "-5", "-x", "@a", "plain"], object)
    command._csv(pd.DataFrame({"prediction": [1.5, -2, 3, 4, 5], "=kept": kept}), file, True)
    lines = ["prediction,'=kept", "1.5,'=1+1", "-2.0,-5", "3.0,'-x", "4.0,'@a", "5.0,plain"]
    assert file.getvalue().decode().splitlines() == lines
