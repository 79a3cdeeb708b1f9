"""Files of results: what is read to the number, and every fault by file, line and value."""

import json
import math
from dataclasses import replace

import pytest

from knobs.compare import results
from knobs.compare.arms import objective_of
from knobs.compare.results import Columns, arms_of, rows_of
from knobs.errors import ConfigError, DataError

HEAD = "arm,seed,split,val/accuracy\n"


def read(path, text, **columns):
    """The arms of a file with this text (or these bytes)."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return arms_of(rows_of(path), path.name, Columns(**columns))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "runs.csv"


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}a,1,2,0.5\na,3,2,0.25\n",
        f"\ufeff{HEAD}a,1,2,0.5\n\na,3,2,0.25",
        f"{HEAD}a,1,2,0.5\na,3,2,0.25\n".replace(",", ";"),
        f"{HEAD}a,1,2,0.5\na,3,2,0.25\n".replace(",", "\t").replace("\n", "\r\n"),
        f'{HEAD}"a","1",\'2,0.5\na,3.0,2.00,+2.5e-1\n'.replace("'2", "2"),
        '{"arm": "a", "seed": 1, "split": 2, "val/accuracy": 0.5}\n'
        '{"arm": "a", "seed": 3.0, "split": "2", "val/accuracy": 0.25}\n',
    ],
)
def test_one_content_in_six_spellings(file, text):
    arm = read(file, text)["a"]
    assert arm.values == {(1, 2, 0): 0.5, (3, 2, 0): 0.25}
    assert (arm.metric, arm.splits) == ("val/accuracy", True)


def test_a_wandb_export(file):
    """Name, State and config columns; a run that crashed has a value that is no result."""
    text = (
        '"Name","State","optimizer","seed","val/accuracy","val/loss"\n'
        '"a-1","finished","adam","0","0.97","0.1"\n"a-2","crashed","adam","1","0.3","2"\n'
        '"a-3","finished","sgd","0","0.91","0.3"\n'
    )
    arms = read(file, text, arm="optimizer", metric="val/accuracy")
    assert {name: arm.values for name, arm in arms.items()} == {
        "adam": {(0, 0, 0): 0.97},
        "sgd": {(0, 0, 0): 0.91},
    }
    assert arms["adam"].notes == ("1 run left out as crashed (line 3)",)
    assert not arms["sgd"].notes


def test_a_wandb_export_of_knobs(file):
    """Keys that are null in all runs have columns without a value; metrics have a summary's name."""
    text = (
        "State,data.fold,data.split_seed,data.val_seed,metric,seed,val/accuracy.max\n"
        "finished,,7,,val/accuracy,0,0.97\nfinished,,7,,val/accuracy,1,0.96\n"
    )
    arm = read(file, text, metric="val/accuracy.max")[""]
    assert arm.values == {(0, 7, 0): 0.97, (1, 7, 0): 0.96}
    assert objective_of([arm], None).in_points
    assert objective_of([arm], None).mode == "max"
    with pytest.raises(DataError, match=r"line 3: data\.val_seed is empty"):
        read(file, text.replace(",7,,", ",7,3,", 1), metric="val/accuracy.max")


def test_the_column_metric_stands_for_no_other_column_of_that_kind(file):
    text = "seed,metric,val/loss\n0,0.9,0.3\n"
    assert read(file, text, metric="score")[""].values == {(0, 0, 0): 0.9}
    assert read(file, text, metric="val/loss")[""].values == {(0, 0, 0): 0.3}
    for name in ("loss", "train/loss", "val/los"):
        with pytest.raises(ConfigError, match=f"--metric {name}: .* no such column"):
            read(file, text, metric=name)


def test_a_row_may_be_one_metric_of_a_run(file):
    text = "seed,metric,value\n0,acc,1\n0,loss,2\n1,acc,3\n1,loss,4\n"
    assert read(file, text, metric="loss")[""].values == {(0, 0, 0): 2, (1, 0, 0): 4}
    with pytest.raises(DataError, match="several metrics; --metric with one of acc and loss"):
        read(file, text)


def test_a_leading_apostrophe_of_a_formula_is_taken_off(file):
    arms = read(file, "arm,seed,score\n'=a,1,'-0.5\n'=a,2,'+3\n'b,1,2\n")
    assert arms["=a"].values == {(1, 0, 0): -0.5, (2, 0, 0): 3.0}
    assert list(arms) == ["=a", "'b"]


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "1e400", "1e150"])
def test_what_is_not_finite_has_diverged(file, cell):
    arm = read(file, f"seed,loss\n0,{cell}\n1,2\n")[""]
    assert arm.diverged == {(0, 0, 0)}


def test_a_huge_integer_of_json_has_diverged(file):
    line = json.dumps({"seed": 0, "loss": 10**400})
    assert math.isnan(read(file, line)[""].values[0, 0, 0])


def test_what_is_next_to_nothing_is_0(file):
    """Of values near 1e-200 every variance would be 0, and every difference sure."""
    assert list(read(file, "seed,loss\n0,1e-200\n1,-2e-101\n2,1e-99\n")[""].values.values()) == [
        *(0.0, 0.0, 1e-99)
    ]


def test_a_status_of_diverged_needs_no_value(file):
    text = '{"seed": 0, "loss": null, "status": "diverged"}\n{"seed": 1, "loss": 2}\n'
    assert read(file, text)[""].diverged == {(0, 0, 0)}


def test_what_wandb_calls_failed_may_have_diverged(file):
    text = "seed,State,status,loss\n0,failed,diverged,\n1,failed,failed,3\n2,finished,finished,2\n"
    arm = read(file, text)[""]
    assert (arm.diverged, len(arm.values)) == ({(0, 0, 0)}, 2)
    assert arm.notes == ("1 run left out as failed (line 3)",)


def test_an_unknown_status_is_named(file):
    arm = read(file, "seed,status,loss\n0,ok,1\n1,finished,2\n2,Running,9\n")[""]
    assert arm.values == {(0, 0, 0): 1, (1, 0, 0): 2}
    assert arm.notes == (
        "1 run left out as Running (line 4)",
        "the status ok is taken for an ended run",
    )


FAULTS = [
    ("", "runs.csv: empty; a CSV file with a line of names, or JSON lines"),
    (HEAD, "runs.csv: no row"),
    ("[1]", "runs.csv: a JSON list; write JSON lines, an object a line"),
    (f"{HEAD}a,1,2\n", "runs.csv, line 2: 3 cells, the first line has 4"),
    (f"{HEAD}\n\na,x,2,1\n", "runs.csv, line 4: seed x: must be a whole number"),
    (f"{HEAD}a,1.5,2,1\n", "runs.csv, line 2: seed 1.5: must be"),
    (f"{HEAD}a,-1,2,1\n", "runs.csv, line 2: seed -1: must be"),
    (f"{HEAD}a,{10**30},2,1\n", "line 2: seed 1000"),
    (f"{HEAD}a,9223372036854775808,2,1\n", "and < 2^63"),
    (f"{HEAD}a,,2,1\n", "runs.csv, line 2: seed is empty"),
    (f"{HEAD}a,1,val,1\n", "runs.csv, line 2: split val: must be"),
    (f"{HEAD},1,2,1\n", "runs.csv, line 2: arm is empty"),
    (f"{HEAD}a,1,2,\n", "line 2: val/accuracy is empty; write nan for a run that diverged"),
    (f"{HEAD}a,1,2,97.3%\n", "line 2: val/accuracy 97.3%: no number"),
    (f"{HEAD}a,1,2,1_000\n", "line 2: val/accuracy 1_000: no number"),
    (f"{HEAD}a,1,2,True\n", "line 2: val/accuracy True: no number"),
    ("seed;acc\n1;0,97\n", "line 2: acc 0,97: no number; a decimal point, no comma"),
    (f"{HEAD}a,1,2,1\nb,1,2,1\na,1,2,1\n", "line 4: seed 1, split 2 of arm a again, first in"),
    (f'{HEAD}a,1,2,"1\n', "runs.csv, line 2: unexpected end of data"),
    (f'{HEAD}a,1,2,"1" 2\n', "runs.csv, line 2: "),
    (f"{HEAD}a,1,2,{'1' * 200_000}\n", "runs.csv, line 2: field larger than field limit"),
    ("seed,acc,acc\n1,2,3\n", "runs.csv, line 1: two columns 'acc'"),
    ("Seed,acc\n1,2\n", "no column seed; --seed COLUMN names another; did you mean Seed?"),
    ("seed,a,b\n1,2,3\n", "which column is the metric? --metric with one of a and b"),
    ("seed,split\n1,2\n", "which column is the metric? --metric with one of none"),
    (f"{HEAD}a,1,2,0.\xe9\n".encode("latin-1"), "runs.csv, line 2: not UTF-8; save the file"),
    (HEAD.encode("utf-16"), "runs.csv, line 1: not UTF-8"),
    (f"{HEAD}a,1,2,\0\n", "runs.csv, line 2: a byte 0"),
    ('{"seed": 1, "x": 1}\n{"seed": 1', "runs.csv, line 2: not JSON"),
    ('{"seed": 1, "x": 1, "x": 2}', "runs.csv, line 1: not JSON (a name comes twice)"),
    ('{"seed": 1, "x": 1}\n3', "runs.csv, line 2: no JSON object"),
    ('{"seed": 1, "x": [1]}', "runs.csv, line 1: x [1]: no number"),
    ('{"seed": true, "x": 1}', "runs.csv, line 1: seed True: must be"),
    ('{"seed": 1e300, "x": 1}', "runs.csv, line 1: seed 1e+300: must be"),
    ('{"seed": 1, "x": 1}\n{"x": 1}', "runs.csv, line 2: seed is empty"),
    ('{"a":' * 100_000, "runs.csv, line 1: not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_names_file_line_and_value(file, text, fault):
    with pytest.raises(DataError) as error:
        read(file, text)
    assert fault in str(error.value).replace(str(file), "runs.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"metric": "val/acuracy"}, "--metric val/acuracy: .* did you mean val/accuracy?"),
        ({"arm": "optimizer"}, "--arm optimizer: .* it has arm, seed, split and val/accuracy"),
        ({"seed": "s"}, "--seed s: .* no such column"),
        ({"split": "fold"}, "--split fold: .* no such column"),
    ],
)
def test_a_column_that_is_not_there(file, columns, fault):
    with pytest.raises(ConfigError, match=fault):
        read(file, f"{HEAD}a,1,2,1\n", **columns)


def test_files_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no regular file"):
        rows_of(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        rows_of(tmp_path / "none.csv")
    monkeypatch.setattr(results, "MOST_ROWS", 1)
    with pytest.raises(DataError, match="a.csv: more than 1 rows"):
        read(tmp_path / "a.csv", f"{HEAD}a,1,2,1\na,2,2,1\n")
    monkeypatch.setattr(results, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="at most 64 MB are read"):
        read(tmp_path / "a.csv", f"{HEAD}a,1,2,1\n")


def test_a_hundred_thousand_rows(file):
    lines = "".join(f"a,{seed},0,0.5\n" for seed in range(100_000))
    assert len(read(file, HEAD + lines)["a"].values) == 100_000


def test_sizes_of_splits_are_read(file):
    arm = read(file, "seed,acc,validation_examples,training_examples\n0,1,360,1078\n1,1,360,1078\n")
    assert (arm[""].validation, arm[""].training) == (360, 1078)


def of(metric, *values):
    return arms_of([(i, {"seed": i, metric: v}) for i, v in enumerate(values)], "x", Columns())[""]


def test_the_direction_is_known_stated_or_asked_for():
    assert objective_of([of("val/loss", 1.0)], None).sign == -1
    assert objective_of([of("val/accuracy", 0.5)], None).in_points
    assert objective_of([of("words_per_second", 1.0)], "max").sign == 1
    with pytest.raises(ConfigError, match="--mode: is more words_per_second better"):
        objective_of([of("words_per_second", 1.0)], None)


def test_shares_and_percentages_do_not_mix():
    percent = of("accuracy", 97.0, 96.0)
    assert not objective_of([percent, percent], None).in_points
    with pytest.raises(DataError, match="shares of 1 and"):
        objective_of([percent, of("accuracy", 0.97)], None)
    with pytest.raises(DataError, match="-0.5 is no share of 1 and no percentage"):
        objective_of([of("accuracy", -0.5)], None)
    mixed = of("accuracy", 97.0, 0.96)
    with pytest.raises(DataError, match="x has 0.96 among percentages; use one unit"):
        objective_of([percent, replace(mixed, name="x")], None)


def test_metrics_do_not_mix():
    with pytest.raises(DataError, match="different metrics"):
        objective_of([of("accuracy", 0.5), of("loss", 0.5)], None)
