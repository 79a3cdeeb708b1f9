"""Kinds of columns by the rules that are written, numbers in other notations, dates, files."""

import gzip
import zipfile

import numpy as np
import pytest
import torch

from knobs import build
from knobs.config import command
from knobs.data import columns, dates, notation, tables
from knobs.data.columns import MARKERS, Column, Columns, decide
from knobs.data.preparation import Preparation
from knobs.errors import ConfigError, DataError


def kinds(cells, train=None, **options):
    """The kinds of columns, those left out by their reason."""
    table = {name: np.array(list(values), object) for name, values in cells.items()}
    count = len(next(iter(table.values())))
    found, notes = decide(table, np.arange(count) if train is None else train, **options)
    left = notes[0].partition("; left out: ")[2]
    return {name: c.kind for name, c in found.columns.items()}, left, found, notes


def one(cells, name="x", **options):
    """The kind of one column, or why it is left out."""
    found, left, *_ = kinds({name: cells}, **options)
    return found.get(name) or left.removeprefix(f"{name or 'the unnamed'} (").removesuffix(")")


def numbers(cells, **options):
    """The values of a column that is one of numbers."""
    _, _, found, notes = kinds({"x": cells}, **options)
    assert found.columns["x"].kind == "number", notes
    return found.typed({"x": np.array(cells, object)})["x"].tolist()


MANY = range(40)


@pytest.mark.parametrize(("cells", "kind"), [
    ([f"{i}.5" for i in MANY], "number"),  # rises, and all different: but no whole numbers
    ([str(i) for i in MANY], "id: whole numbers, all different"),
    ([str(-i) for i in MANY], "id: whole numbers, all different"),
    ([str(i * 7 % 40) for i in MANY], "number"),
    ([str(i) if i else "" for i in MANY], "number"),  # one is missing: not all different
    ([str(i) for i in range(9)], "number"),  # too few to prove anything
    ([str(i // 2) for i in MANY], "number"),
    (["5"] * 40, "constant"),
    (["5", "5.0"] * 20, "constant"),
    (["a"] * 40, "constant"),
    (["a", ""] * 20, "category"),
    (["", "NA", "?", "n.a.", "null", " ", "None", "-", "--", "NaN"] * 4, "empty"),
    ([f"00{i % 3}" for i in MANY], "category"),
    ([f"0{i:03d}" for i in MANY], "all different"),
    ([f"user{i}" for i in MANY], "all different"),
    ([f"user{min(i, 38)}" for i in MANY], "no value has 5 rows"),
    ([f"the car is {i} years" for i in MANY], "text"),
    (["the car is old now", "the car is new now"] * 20, "category"),
    (["1", "2", "3+", "4"] * 10, "category"),  # few values: half numbers, half words
    (["yes", "no"] * 20, "category"),
    (["True", "False"] * 20, "category"),
    (["1.2.3", "1.2.4"] * 20, "category"),
    ([f"{i % 28 + 1}.12.2024" for i in MANY], "date"),
    (["2024-01-31", "2024-02-01"] * 20, "date"),
])  # fmt: skip
def test_a_column_is_of_the_kind_that_the_rules_say(cells, kind):
    assert one(cells) == kind


@pytest.mark.parametrize(("name", "kind"), [
    ("id", "id: whole numbers, all different"), ("customerID", "id: whole numbers, all different"),
    ("PassengerId", "id: whole numbers, all different"), ("Index", "id: whole numbers, all different"),
    ("row no", "id: whole numbers, all different"), ("Unnamed: 0", "id: whole numbers, all different"),
    ("", "id: whole numbers, all different"), ("casino", "number"), ("paid", "number"),
])  # fmt: skip
def test_whole_numbers_in_any_order_are_ids_by_their_name(name, kind):
    assert one([str(i * 7 % 40) for i in MANY], name) == kind
    assert one([str(i * 7 % 40 / 2) for i in MANY], name) == "number"


@pytest.mark.parametrize(("cells", "values"), [
    (["1", "2.5", "-3e2", " 4 ", ""], [1, 2.5, -300, 4, None]),
    (["1,5", "2", "0,25", "NA"], [1.5, 2, 0.25, None]),
    (["1.234,5", "2.000.000,25", "7"], [1234.5, 2000000.25, 7]),
    (["1,234.5", "2,000,000", "7"], [1234.5, 2000000, 7]),
    (["1 234", "2\u00a0000\u202f000", "7"], [1234, 2000000, 7]),
    (["1'234", "2\u2019000", "7"], [1234, 2000, 7]),
    (["12 %", "5%", "0.5%"], [12, 5, 0.5]),
    (["$1,234.50", "-$2.25", "($7.00)"], [1234.5, -2.25, -7]),
    (["1.234,50 €", "2,25 €", "−7,00 €"], [1234.5, 2.25, -7]),
    (["(1,234.5)", "12", "(3)"], [-1234.5, 12, -3]),
])  # fmt: skip
def test_numbers_in_other_notations(cells, values):
    found = numbers(cells * 3)[: len(cells)]
    assert [None if value != value else value for value in found] == values


def test_a_sign_that_may_be_either_is_asked_or_told_by_the_table():
    cells = ["1,234", "5,678"] * 10
    with pytest.raises(DataError, match="x: '1,234' may be thousands or a fraction; say data.dec"):
        numbers(cells)
    assert numbers(cells, decimal="point")[:2] == [1234, 5678]
    assert numbers(cells, decimal="comma")[:2] == [1.234, 5.678]
    for other, value in (("7,5", 1.234), ("7.5", 1234)):
        table = {"x": np.array(cells, object), "y": np.array([other, "9"] * 10, object)}
        found = decide(table, np.arange(20))[0].typed(table)
        assert found["x"][0] == value
    # A point that can be none but a decimal's is one, whatever the table's.
    assert numbers(["880.0", "12"] * 10, decimal="comma")[:2] == [880, 12]


def test_some_words_among_numbers_count_as_missing_more_are_asked():
    cells = [f"{i % 30}.5" for i in range(96)] + ["abc", "abc", "Abc", "x"]
    found = numbers(cells)
    assert np.isnan(found[96:]).all()
    assert found[:2] == [0.5, 1.5]
    assert kinds({"x": cells})[3][1] == (
        "x: 4 cells are no numbers and count as missing ('Abc', 'abc', 'x')"
    )
    more = cells[:90] + ["abc"] * 10
    ask = (
        "x: 90% of its cells are numbers, others not, 'abc' for one; say 'data.columns=.\"x:number"
    )
    with pytest.raises(DataError, match=ask):
        numbers(more)
    assert np.isnan(numbers(more, kinds={"x": "number"})).sum() == 10
    assert np.isnan(numbers(more, na=["ABC"])).sum() == 10
    assert one(more, kinds={"x": "category"}) == "category"
    assert one(more, kinds={"x": "drop"}) == "as you say"
    mixed = ["5%"] * 30 + [f"{i / 100}" for i in range(30)]
    with pytest.raises(DataError, match="x: 50% of its cells are numbers, others not"):
        numbers(mixed)
    with pytest.raises(DataError, match="data.columns=x:number: no cell is one, 'a' for instance"):
        numbers(["a", "b"] * 20, kinds={"x": "number"})


def test_rare_categories_are_other_and_so_are_new_ones():
    cells = ["a"] * 20 + ["b"] * 5 + ["c"] * 4 + ["d"] * 4 + [""] * 6
    column = kinds({"x": cells})[2].columns["x"]
    assert column.levels == ("a", "b", "missing", "other")
    read = Columns({"x": column}).typed({"x": np.array(["b ", "c", "new", "NA", None], object)})
    assert read["x"].tolist() == ["b", "other", "other", "missing", "missing"]
    # One rare value alone would be the same input under another name.
    assert kinds({"x": cells[:29]})[2].columns["x"].levels == ("a", "b", "c")
    # .1 % of 10,000 rows is 10; and 100 levels at most.
    cells = ["a"] * 9980 + ["b"] * 10 + ["c"] * 5 + ["d"] * 5
    assert kinds({"x": cells})[2].columns["x"].levels == ("a", "b", "other")
    cells = [f"v{i % 150}" for i in range(1500)]
    assert len(kinds({"x": cells})[2].columns["x"].levels) == 101


def test_forty_thousand_ids_become_no_inputs():
    cells = {"who": [f"user{i}" for i in range(40_000)], "n": [f"{i % 7}" for i in range(40_000)]}
    cells["almost"] = [f"u{i // 2}" for i in range(40_000)]
    found, left, *_ = kinds(cells)
    assert found == {"n": "number"}
    assert left == "who (all different), almost (no value has 40 rows)"


def test_dates_become_a_day_and_cycles():
    cells = ["1970-01-01", "1970-01-02T06:00:00", "2024-12-31 18:30", "2024-02-29", ""] * 2
    column = kinds({"when": cells})[2].columns["when"]
    assert (column.form, column.parts) == ("ymd", dates.PARTS)
    found = Columns({"when": column}).typed({"when": np.array(cells, object)})
    assert found["when: day"][:4].tolist() == [0, 1.25, 20088 + 18.5 / 24, 19782]
    assert np.isnan(found["when: month sin"][4])
    # 1 January 1970 was a Thursday, 31 December 2024 a Tuesday.
    weekday = np.arctan2(found["when: weekday sin"], found["when: weekday cos"])[:4]
    assert np.allclose(weekday % (2 * np.pi), 2 * np.pi * np.array([3, 4, 1, 3]) / 7)
    month = np.arctan2(found["when: month sin"], found["when: month cos"])[:4]
    assert np.allclose(month % (2 * np.pi), 2 * np.pi * np.array([0, 0, 11, 1]) / 12)
    hour = np.arctan2(found["when: hour sin"], found["when: hour cos"])[:4] % (2 * np.pi)
    assert np.allclose(hour, 2 * np.pi * np.array([0, 6, 18.5, 0]) / 24)
    only = kinds({"when": ["2024-01-01", "2024-01-08", "2024-01-15"] * 4})[2].columns["when"]
    assert only.parts == ("day",)  # always a Monday in January at midnight


@pytest.mark.parametrize(("cells", "form", "days"), [
    (["13/02/2024", "1/2/2024"], "dmy", [19766, 19754]),
    (["02/13/2024", "1/2/2024"], "mdy", [19766, 19724]),
    (["13.2.24", "1.2.24"], "ymd", [19766, 19754]),  # points: the day is first
    (["13 Feb 2024", "February 1, 2024"], "ymd", [19766, 19754]),
    (["2/13/2024 1:30 PM", "2/1/2024 12:00 AM"], "mdy", [19766.5625, 19754]),
    (["2024/02/13 00:00:00+01:00", "2024/02/01 12:00Z"], "ymd", [19766, 19754.5]),
])  # fmt: skip
def test_the_order_of_a_date_comes_from_the_column(cells, form, days):
    _, _, found, _ = kinds({"when": cells * 6})
    assert found.columns["when"].form == form
    read = found.typed({"when": np.array(cells, object)})
    assert read["when: day"].tolist() == days


def test_an_order_that_may_be_either_is_asked():
    cells = ["3/4/2024", "5/6/2024"] * 6
    with pytest.raises(DataError, match="'3/4/2024' may begin with the day or the month; say"):
        kinds({"when": cells})
    for order, days in (("dmy", 19816), ("mdy", 19786)):
        found = kinds({"when": cells}, kinds={"when": order})[2]
        assert found.typed({"when": np.array(cells, object)})["when: day"][0] == days
    epoch = [str(86400 * 10 + 43200 * (i % 3)) for i in MANY]
    found = kinds({"when": epoch}, kinds={"when": "epoch"})[2]
    assert found.typed({"when": np.array(epoch, object)})["when: day"][:3].tolist() == [
        10,
        10.5,
        11,
    ]


def test_training_rows_alone_decide():
    cells = [str(i * 7 % 20) for i in range(20)] + ["a", "b", "c", "d"] * 5
    found, _, read, notes = kinds({"x": cells}, train=np.arange(20))
    assert found == {"x": "number"}
    assert notes[1] == "x: 20 cells are no numbers and count as missing ('a', 'b', 'c')"
    with pytest.raises(DataError, match="row 2: x='e': is not a number; correct it, or empty"):
        read.typed({"x": np.array(["1", "e"], object)})


@pytest.mark.parametrize(("given", "error", "message"), [
    (["x"], ConfigError, "data.columns=x: must be NAME:KIND, with a kind of number, category, date"),
    (["x:float"], ConfigError, "data.columns=x:float: must be NAME:KIND"),
    (["y:number"], DataError, "data.columns: no column y; it has x"),
])  # fmt: skip
def test_kinds_that_are_none_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        kinds({"x": ["1", "2"]}, kinds=columns.overrides(given))
    assert columns.overrides(["a:b: c:drop"]) == {"a:b: c": "drop"}


def churn(path, rows=400, sep=",", comma=False, encoding="utf-8", labels=("Yes", "No")):
    """A table as shops have it: ids, empty charges of one blank, yes and no, a date, a note."""
    draw = np.random.default_rng(0)
    lines = [["", "customerID", "tenure", "Total Charges", "Plan", "Paperless", "Since", "Note", "Ort",
              "Churn"]]  # fmt: skip
    for i in range(rows):
        charge = " " if i % 50 == 7 else f"{draw.uniform(20, 900):.2f}"
        day = f"{draw.integers(1, 29)}.{draw.integers(1, 13)}.{draw.integers(2019, 2024)}"
        lines.append([
            str(i), f"{draw.integers(1000, 9999)}-{i:05d}", str(draw.integers(0, 72)),
            charge.replace(".", ",") if comma else charge, ["Basic", "Plus", "Pro"][i % 3],
            ["Yes", "No"][draw.integers(2)], day, f"called us {i} times about it", "Köln",
            labels[int(draw.random() < 0.3)],
        ])  # fmt: skip
    text = "\n".join(sep.join(line) for line in lines) + "\n"
    path.write_bytes(text.encode(encoding))
    return path


def load(path, *more):
    base = ["data=csv", f"data.path={path}", "data.task=classification", "data.target=Churn"]
    return build.data(command.checked([*base, *more]))


def test_a_table_as_shops_have_it(tmp_path):
    data = load(churn(tmp_path / "t.csv"))
    # tenure and charges; three plans, paperless or not; a day and the cycles of week and year
    assert data.shape.input == (2 + 3 + 2 + 5,)
    assert data.notes == [
        "9 columns: 2 numbers, 2 categories, 1 date; left out: Unnamed: 0 (id: whole numbers, all "
        "different), customerID (all different), Note (text), Ort (constant)"
    ]
    assert data.classes == ["No", "Yes"]
    again = Preparation.load(data.preparation.save())
    assert again.save() == data.preparation.save()
    frame, _ = tables.read(tmp_path / "t.csv", "auto", "auto")
    x = again.apply(frame.iloc[data.val.rows.numpy()])
    assert torch.equal(x, data.val.x)
    charges = data.train.x[:, 1]
    assert charges.mean().abs() < 0.2
    fewer = load(tmp_path / "t.csv", "data.columns=['Since:drop','Plan:drop']")
    assert fewer.shape.input == (4,)
    assert fewer.hash != data.hash


@pytest.mark.parametrize(("sep", "comma", "encoding", "said"), [
    (";", True, "utf-8", ["t.csv: separated by semicolon"]),
    ("\t", False, "utf-8-sig", ["t.csv: separated by tab"]),
    ("|", True, "utf-16", ["t.csv: read as utf-16, separated by pipe"]),
    (";", True, "cp1252", ["t.csv: read as cp1252, separated by semicolon"]),
])  # fmt: skip
def test_separators_decimals_and_encodings_are_found_out(sep, comma, encoding, said, tmp_path):
    plain = load(churn(tmp_path / "plain.csv"))
    other = load(churn(tmp_path / "t.csv", sep=sep, comma=comma, encoding=encoding))
    assert torch.equal(plain.train.x, other.train.x)
    assert other.notes == [*said, *plain.notes]
    names = {";": "semicolon", "\t": "tab", "|": "pipe"}
    told = load(tmp_path / "t.csv", f"data.sep={names[sep]}", f"data.encoding={encoding}")
    assert torch.equal(plain.train.x, told.train.x)


@pytest.mark.parametrize("seed", range(8))
def test_what_pandas_may_read_as_numbers_is_what_texts_say(seed, tmp_path):
    """A table whose clean columns come as numbers is of the kinds and values of its texts."""
    draw, rows = np.random.default_rng(seed), 60
    made = {
        "rises": [str(i) if i != 55 or seed % 2 else "" for i in range(rows)],
        "float": [repr(float(v)) for v in draw.normal(0, 10.0 ** (seed - 4), rows)],
        "holes": [f"{v}" if v % 3 else ["NA", "n.A.", "", "?", "Nan"][seed % 5]
                  for v in draw.integers(0, 9, rows)],
        "flag": [["True", "true", "TRUE", ""][v] for v in draw.integers(0, 2 + seed % 3, rows)],
        "word": [["1", "b", "None"][v] for v in draw.integers(0, 3, rows)],
        "code": [f"{v:02d}" if seed % 3 else str(v) for v in draw.integers(0, 12, rows)],
        "money": [f"{v:.2f}" + " $" * (seed % 2) for v in draw.uniform(0, 9, rows)],
        "empty": [["", "-"][seed % 2]] * rows,
        "same": ["7"] * rows,
    }  # fmt: skip
    lines = [",".join(made), *(",".join(row) for row in zip(*made.values(), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    train = np.sort(draw.permutation(rows)[:40])
    results = []
    for texts in (None, ["word"]):
        frame, _ = tables.read(tmp_path / "t.csv", "auto", "auto", texts)
        cells = {name: frame[name].to_numpy() for name in frame}
        found, notes = decide(cells, train)
        results.append((found, notes, found.typed(cells)))
    (found, notes, values), (again, said, others) = results
    assert (found, notes) == (again, said)
    assert values.keys() == others.keys()
    for name, column in values.items():
        assert np.array_equal(column, others[name], equal_nan=column.dtype.kind == "f"), name


def test_packed_tables_are_unpacked(tmp_path):
    path = churn(tmp_path / "t.csv")
    plain = load(path)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(path, "inner.csv")
    for name in ("t.csv.gz", "t.zip"):
        assert torch.equal(load(tmp_path / name).train.x, plain.train.x)
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as archive:
        archive.write(path, "second.csv")
    with pytest.raises(DataError, match="t.zip: has 2 files; must have one"):
        load(tmp_path / "t.zip")
    (tmp_path / "bad.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="bad.csv.gz: not a CSV with a header"):
        load(tmp_path / "bad.csv.gz")


@pytest.mark.parametrize(("content", "message"), [
    ("a,b,a,y\n1,2,3,0\n", "t.csv: more than one column a; rename all but one"),
    ("a,y\n1,2,3\n4,5,6\n", "t.csv: its rows have more cells than its header has names"),
    ("a,y\n1,2\n4,5,6\n", "t.csv: not a CSV with a header .*Expected 2 fields in line 3, saw 3"),
])  # fmt: skip
def test_headers_that_do_not_fit(content, message, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "t.csv", "data.target=y")


@pytest.mark.parametrize(("name", "package"), [("t.parquet", "pyarrow"), ("t.xlsx", "openpyxl")])
def test_a_package_that_is_not_there_is_named(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"to read it takes {package}; pip install {package}"):
        load(tmp_path / name)


def labelled(path, labels, head="x,y"):
    rows = [f"{i * 7 % 11},{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.mark.parametrize(("labels", "classes"), [
    (["None", "NA", "null"], ["NA", "None", "null"]),
    (["01", "1", "10"], ["01", "1", "10"]),
    (["2", "0", "10"], ["0", "10", "2"]),
    (["1.0", "2.0"], ["1.0", "2.0"]),
    ([" a", "b "], ["a", "b"]),
    (["1", "1.0", "2.0", "2.00"], ["1", "2.0"]),  # whole numbers of two programs
])  # fmt: skip
def test_labels_are_names(labels, classes, tmp_path):
    path = labelled(tmp_path / "t.csv", labels * 12)
    assert load(path, "data.target=y").classes == classes
    text = ["data=text_csv", f"data.path={path}", "data.text=x", "data.label=y", "model=text_bag"]
    assert build.data(command.checked(text)).classes == classes


@pytest.mark.parametrize(("labels", "message"), [
    (["a", "b", "", "a", " ", "b", "", ""] * 3,
     "t.csv: 12 rows have no y .*t.csv, line 4; .*line 6; .*line 8"),
    (["1.5", "1.50", "2"] * 9, "t.csv: y: 1.5 and 1.50 are one number; write it one way"),
])  # fmt: skip
def test_labels_at_fault(labels, message, tmp_path):
    path = labelled(tmp_path / "t.csv", labels)
    with pytest.raises(DataError, match=message):
        load(path, "data.target=y")
    text = ["data=text_csv", f"data.path={path}", "data.text=x", "data.label=y", "model=text_bag"]
    with pytest.raises(DataError, match=message):
        build.data(command.checked(text))


def test_an_official_test_table_shapes_nothing(tmp_path):
    path = labelled(tmp_path / "t.csv", ["a", "b"] * 20)
    other = tmp_path / "u.csv"
    base = [f"data.test_path={other}", "data.target=y"]
    other.write_text("y,x\n" + "a,1e6\n" * 50)  # columns in another order
    data, alone = load(path, *base), load(path, "data.target=y", "data.test=0.0001")
    assert len(data.test) == 50
    assert torch.equal(data.train.x, alone.train.x)
    assert data.notes == alone.notes
    for content, message in [
        ("y,x\na,1\nc,2\n", "u.csv, line 3: y=c: not one of the classes a, b"),
        ("y,x\na,1\n,2\n", "u.csv: 1 rows have no y .*u.csv, line 3"),
        ("y,x\na,1\nb,zzz\n", "u.csv, line 3: x='zzz': is not a number"),
        ("y,z\na,1\n", "u.csv: its columns are not those of .*: it has no x, also z"),
    ]:
        other.write_text(content)
        with pytest.raises(DataError, match=message):
            load(path, *base)


def test_targets_of_numbers_in_other_notations(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i * 7 % 11};{i % 5},5;{['true', 'false'][i % 2]}" for i in range(60)]
    path.write_text("\n".join(["x;y;z", *rows]) + "\n")
    data = load(path, "data.target=[y,z]", "data.task=regression")
    values = data.preparation.target.decode(data.train.y)
    assert sorted({round(float(v), 3) for v in values[:, 0]}) == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert sorted({round(float(v), 3) for v in values[:, 1]}) == [0, 1]


def test_every_column_is_saved_and_read():
    from knobs.data.stored import Fields

    made = Columns(
        {
            "a": Column("number", "comma €", missing=("x",)),
            "b": Column("category", levels=("p", "q")),
            "c": Column("date", "mdy", parts=("day", "hour sin")),
        },
        MARKERS | {"gone"},
    )
    assert Columns.read(Fields(made.saved(), {})) == made
    assert made.outputs() == ({"a", "c: day", "c: hour sin"}, {"b"})


R = np.random.default_rng(0)
DRAWN = R.integers(1, 90, 60).tolist()


@pytest.mark.parametrize(("make", "first"), [
    (lambda i: f"{i} kg", DRAWN[0]), (lambda i: f"{i}kg", DRAWN[0]), (lambda i: f"{i} km/h", DRAWN[0]),
    (lambda i: f"{i}.5 °C", DRAWN[0] + 0.5), (lambda i: f"{i} month{'s' * (i > 1)}", DRAWN[0]),
    (lambda i: f"USD {i}.00", DRAWN[0]), (lambda i: f"$ {i},{i:03d}.50", DRAWN[0] * 1001 + 0.5),
    (lambda i: f"1,{i:02d},000", 100000 + 1000 * DRAWN[0]), (lambda i: f"{i}-", -DRAWN[0]),
    (lambda i: f"-{i}%", -DRAWN[0]), (lambda i: f"{i}e-3", DRAWN[0] * 1e-3), (lambda i: f"{i} min", DRAWN[0]),
])  # fmt: skip
def test_numbers_with_units_are_numbers(make, first):
    cells = [make(i) for i in DRAWN]
    assert numbers(cells)[0] == pytest.approx(first)
    one_by_one = [numbers([cell, *cells[1:]])[0] for cell in cells[:3]]
    assert one_by_one == numbers(cells)[:3]


@pytest.mark.parametrize("form", ["point", "comma", "point $", "comma kg", "point kg"])
def test_a_column_changed_as_a_whole_is_that_of_its_words(form):
    sign_of, _, unit = form.partition(" ")
    group, mark = (",", ".") if sign_of == "point" else (".", ",")
    words = [
        f"{'-+'[i % 2] * (i % 3 == 0)}{i}{group}{i:03d}{mark}{i} {unit}".strip()
        for i in range(1, 90)
    ]
    for some in (words, [*words, "12 x"], [*words, f"{unit} 7"], ["7", *words], [*words, "1\n2"]):
        expected = [notation.standard_form(word, sign_of, unit) for word in some]
        assert notation.standard_forms(some, form) == expected
    assert all(notation.standard_forms(words, form))


@pytest.mark.parametrize(("cells", "message"), [
    ([f"{i} {'kg' if i % 2 else 'g'}" for i in DRAWN], "x: its numbers have 2 units, kg and g|g and kg"),
    ([f"{'$€'[i % 2]}{i}" for i in DRAWN], "x: its numbers have 2 units, .* write them in one"),
    ([f"{i}.5{'KM'[i % 2]}" for i in DRAWN], "x: its numbers have 2 units"),
    ([f"{i}" if i % 3 else f"{i} kg" for i in DRAWN], "x: .* of its cells are numbers, others not"),
])  # fmt: skip
def test_units_that_differ_are_asked_about(cells, message):
    with pytest.raises(DataError, match=message):
        kinds({"x": cells})


@pytest.mark.parametrize(("word", "date"), [
    ("2024-03", "2024-03-01"), ("3/2024", "2024-03-01"), ("03.2024", "2024-03-01"),
    ("Mar 2024", "2024-03-01"), ("March 2024", "2024-03-01"), ("März 2024", "2024-03-01"),
    ("2024Q2", "2024-04-01"), ("2024-Q3", "2024-07-01"), ("Q4 2024", "2024-10-01"),
    ("2024-W11", "2024-03-11"), ("2020W01", "2019-12-30"), ("24. Mai 2012", "2012-05-24"),
    ("26-Apr-10", "2010-04-26"), ("Mon, 2 Jan 2012 00:00:00 GMT", "2012-01-02"),
    ("5. Dez 2021", "2021-12-05"), ("3 Okt. 1999", "1999-10-03"),
])  # fmt: skip
def test_dates_in_other_notations(word, date):
    expected = np.datetime64(date).astype(int)
    assert dates.read_day(word, "dmy") == expected
    assert one([word, "2024-01-31", "2023-07-09"] * 10) == "date"


@pytest.mark.parametrize("word", ["2024-13", "13/2024", "Foo 2024", "2024Q5", "2024-W60", "1-2", "12-20",
                                  "9999-01", "31 Foo 2024", "12:30"])  # fmt: skip
def test_words_that_are_no_dates(word):
    assert np.isnan(dates.read_day(word, "dmy"))


@pytest.mark.parametrize(("word", "days"), [
    ("06:30", 6.5 / 24), ("6:30:36", 6.51 / 24), ("12:00 AM", 0), ("5:45 pm", 17.75 / 24), ("26:00", 26 / 24),
    ("1 day, 12:00:00", 1.5), ("2 days 06:00:00", 2.25), ("2h 30m", 2.5 / 24), ("90 min", 1.5 / 24),
    ("1d 12h", 1.5), ("36 hours", 1.5),
])  # fmt: skip
def test_times_and_durations(word, days):
    assert dates.read_time(word) == pytest.approx(days, abs=1e-12)


@pytest.mark.parametrize("word", ["", "x", "12:60", "13:00 PM", "1:2", "h", "5", "2h x"])
def test_words_that_are_no_times(word):
    assert np.isnan(dates.read_time(word))


def test_times_become_a_place_in_the_day_and_durations_a_number():
    found = kinds({"x": [f"{i % 24:02d}:30" for i in MANY]})[2]
    assert found.columns["x"].parts == ("day", "hour sin", "hour cos")
    assert found.typed({"x": np.array(["18:00"], object)})["x: hour sin"] == pytest.approx(-1)
    found = kinds({"x": [f"{i}:30" for i in MANY]})[2]
    assert found.columns["x"].parts == ("day",)


@pytest.mark.parametrize("typed", [True, False])
def test_eight_digits_may_be_a_date(typed):
    cells = [f"2024{i % 12 + 1:02d}{i % 28 + 1:02d}" for i in MANY]
    table = {"x": np.array(cells, int) if typed else np.array(cells, object)}
    found, _ = columns.decide(table, np.arange(40))
    assert found.columns["x"].form == "compact"
    days = found.typed(table)["x: day"]
    assert days[0] == np.datetime64("2024-01-01").astype(int)
    assert days[13] == np.datetime64("2024-02-14").astype(int)
    assert one([*cells[:-1], "20241301"]) == "number"
    assert one([*cells[:-1], "20240230"]) == "number"
    assert kinds({"x": cells}, kinds={"x": "date"})[2].columns["x"].form == "compact"


@pytest.mark.parametrize("draw", range(3))
def test_iso_dates_are_read_alike_by_both_readers(draw):
    rng = np.random.default_rng(draw)
    words = np.datetime_as_string(
        rng.integers(-(10**9), 4 * 10**9, 50).astype("datetime64[s]")
    ).tolist()
    words = (
        [word.replace("T", "T "[draw % 2]) for word in words] if draw else [w[:10] for w in words]
    )
    assert dates.read_days(words, "ymd").tolist() == [dates.read_day(w, "ymd") for w in words]
    assert np.isnan(dates.read_days([*words, "2023-02-30"], "ymd")).tolist() == [False] * 50 + [
        True
    ]


@pytest.mark.parametrize("typed", [True, False])
def test_numbers_of_too_many_digits_are_codes(typed):
    cells = [10**17 + i // 2 for i in MANY]
    table = {"x": np.array(cells, int) if typed else np.array(list(map(str, cells)), object)}
    _, notes = columns.decide(table, np.arange(40))
    assert notes[0].endswith("left out: x (no value has 5 rows)")


@pytest.mark.parametrize(("cells", "note"), [
    (["red", "Red", "blue", "green"] * 10, "x: Red and red differ in case alone"),
    (["-999" if i % 9 == 0 else str(i % 7) for i in MANY], "x: is -999 missing? then 'data.na=[\"-999\"]'"),
    ([f"w{i}" for i in range(38)] + ["a"] * 6, "x: 86% of its cells are rare values, read as other"),
    ([f"w{i % 60}" for i in range(300)], "x: 60 categories; a number, or a date?"),
    (["99", "999", "98", "500"] * 10, None), (["red", "blue"] * 20, None),
])  # fmt: skip
def test_doubts_are_told(cells, note):
    assert kinds({"x": cells})[3][1:] == [note] * bool(note)


def test_what_na_says_counts_in_parquet_too(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(
        {"x": [-999.0 if i % 9 == 0 else i % 7 for i in MANY], "y": [i % 2 for i in MANY]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    one, other = (
        load(tmp_path / name, "data.target=y", 'data.na=["-999"]')
        for name in ("t.parquet", "t.csv")
    )
    assert torch.equal(one.train.x, other.train.x)
    assert one.notes[0] == "1 column: 1 number"
    assert not any("missing" in note for note in one.notes)


def test_infinite_numbers_are_named_by_their_line(tmp_path):
    path = labelled(tmp_path / "t.csv", "ab" * 20)
    path.write_text(path.read_text() + "inf,a\n")
    with pytest.raises(DataError, match=r"t.csv: x: an infinite number \(line 42\); leave it out"):
        load(path, "data.target=y")
