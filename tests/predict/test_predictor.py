"""knobs.load(run).predict: raw rows of every kind get the answers that evaluation had of them."""

import gzip
import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from predict_cases import (
    table_words,
    train,
    write_table,
)
from safetensors.torch import load_file

import knobs
from knobs import build
from knobs.data import bundled
from knobs.errors import CheckpointError, ConfigError, DataError
from knobs.record import read_config, read_summary
from knobs.training import metrics
from knobs.training.predictions import FILE


@pytest.fixture(scope="module")
def run_of(home):
    """Words of a case -> the folder of its run, trained once."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = train(home / f"run{len(made)}", *words_of(case, home))
        return made[case]

    return get


def words_of(case, home):
    source, _, rest = case.partition(" ")
    more = rest.split()
    if source in ("cheap", "price", "rooms", "price,rooms", "big,old"):
        return table_words(home / "t.csv", source, *more)
    if source == "text":
        return ["data=text_csv", f"data.path={home / 'mail.csv'}", "data.text=body",
                "data.label=topic", "data.min_count=1", *(more or ["model=text_bag"])]  # fmt: skip
    if source == "pictures":
        return ["data=image_folder", f"data.root={home / 'pictures'}", "data.size=16", *more]
    return [f"data={source}", *more]


def raw_rows(case, home, rows):
    """The rows of a run's source, as its user has them."""
    source = case.split()[0]
    if source == "text":
        return pd.read_csv(home / "mail.csv")["body"].iloc[rows].tolist()
    if source == "pictures":
        files = sorted((home / "pictures").rglob("*.png"), key=lambda p: (p.parent.name, p))
        return [files[row] for row in rows]
    if source == "python_docs":
        from pydoc_data.topics import topics

        names = sorted(topics, key=lambda topic: (-len(topics[topic]), topic))[:20]
        passages = [p for name in names for p in bundled._passages(topics[name], 40)]
        return [passages[row] for row in rows]
    if source in bundled._FILES:
        return bundled._read(source)[0][rows]
    return pd.read_csv(home / "t.csv", dtype=str, keep_default_na=False).iloc[rows]


CASES = [
    *("cheap", "price", "price,rooms", "big,old", "text", "pictures"),
    *("digits", "wine", "diabetes", "breast_cancer"),
    "python_docs model=text_bag",
    "cheap training.members=3",
    "cheap loss=focal",
    "big,old loss=bce loss.pos_weight=balanced training.members=2",
    "rooms loss=poisson",
    "rooms loss=poisson training.members=2",
    "price,rooms loss=huber",
    "price loss=mae",
    "wine loss=cross_entropy loss.weight=balanced",
    "cheap training.ema=0.9",
    "pictures model=cnn",
    "text model=text_lstm",
    "price data.numbers=ple",
    "wine data.numbers=both model=tabular",
]


@pytest.mark.parametrize("case", CASES)
def test_raw_rows_get_the_answers_of_the_evaluation(case, home, run_of):
    run = run_of(case)
    kept, model = load_file(run / FILE), knobs.load(run)
    rows = kept["rows"].numpy()
    raw = raw_rows(case, home, rows)
    outputs = model.outputs(raw)
    split = build.data(read_config(run)["config"]).val
    with torch.no_grad():
        assert torch.equal(outputs, model(split.x))
    assert torch.allclose(outputs, kept["outputs"].float(), atol=2e-3, rtol=2e-3)
    frame = model.predict(raw)
    assert len(frame) == len(rows)
    target, best = model.preparation.target, read_summary(run)["metrics"]
    if target.task == "classification":
        assert list(frame) == ["prediction", *(f"p({c})" for c in target.classes)]
        truth = np.array(target.classes)[kept["targets"].numpy()]
        assert (frame["prediction"] == truth).mean() == pytest.approx(best["val/accuracy"])
        assert np.allclose(frame.iloc[:, 1:], outputs.double().softmax(1), atol=1e-12)
    elif target.task == "multilabel":
        assert list(frame) == ["big", "p(big)", "old", "p(old)"]
        right = (frame[["big", "old"]].to_numpy() == kept["targets"].numpy()).all(1)
        assert right.mean() == pytest.approx(best["val/accuracy"])
        assert np.allclose(frame[["p(big)", "p(old)"]], outputs.double().sigmoid(), atol=1e-12)
    else:
        single = len(target.names) == 1
        assert list(frame) == (["prediction"] if single else list(target.names))
        truth = kept["targets"].double().numpy().reshape(len(rows), -1) * target.std + target.mean
        errors = np.abs(frame.to_numpy() - truth)
        assert errors.mean(0).mean() == pytest.approx(best["val/mae"], rel=1e-4)
        if "poisson" in case:
            assert np.allclose(frame["prediction"], outputs[:, 0].double().exp(), rtol=1e-12)


def test_every_kind_of_file_gives_the_same(home, run_of, tmp_path):
    model, frame = knobs.load(run_of("cheap")), pd.read_csv(home / "t.csv")
    expected = model.predict(home / "t.csv")
    text = (home / "t.csv").read_text()
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.csv", text)
    frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    frame[frame.columns[::-1]].to_csv(tmp_path / "turned.csv", index=False)
    frame.drop(columns=["id", "cheap", "price"]).to_csv(tmp_path / "fewer.csv", index=False)
    (tmp_path / "wide.csv").write_bytes(text.replace(",", ";").encode("utf-16"))
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    for file in sorted(tmp_path.iterdir()):
        pd.testing.assert_frame_equal(model.predict(file), expected)
        pd.testing.assert_frame_equal(model.predict(str(file)), expected)
    for given in (frame, frame.astype(object), frame.convert_dtypes(), frame.astype(str),
                  frame.assign(sold=pd.to_datetime(frame["sold"], format="%d.%m.%Y"))):  # fmt: skip
        given = given.replace("nan", "") if given["age"].dtype == object else given
        pd.testing.assert_frame_equal(model.predict(given), expected)
    shuffled = frame.sample(frac=1, random_state=0)
    again = model.predict(shuffled)
    assert again.index.equals(shuffled.index)
    pd.testing.assert_frame_equal(again.sort_index(), expected)
    row = frame.iloc[5]
    for single in (row, dict(row), [dict(row)]):
        assert model.predict(single).iloc[0]["prediction"] == expected.iloc[5]["prediction"]


def test_texts_come_as_lists_series_files_tables_or_one(home, run_of, tmp_path):
    model = knobs.load(run_of("text"))
    texts = pd.read_csv(home / "mail.csv")["body"]
    expected = model.predict(texts.tolist())
    assert (expected["prediction"] == pd.read_csv(home / "mail.csv")["topic"]).mean() > 0.8
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n", encoding="utf-16")
    (tmp_path / "b.txt").write_bytes("\r\n".join(texts).encode())
    (tmp_path / "c.txt").write_text(texts.to_csv(sep="\t", index=False))  # a header tells a table
    for given in (texts, tuple(texts), texts.to_frame(), tmp_path / "a.txt", str(tmp_path / "b.txt"),
                  tmp_path / "c.txt", home / "mail.csv"):  # fmt: skip
        pd.testing.assert_frame_equal(model.predict(given), expected, obj=str(given)[-20:])
    one = model.predict(texts[7])
    assert one.iloc[0]["prediction"] == expected.iloc[7]["prediction"]
    with pytest.raises(DataError, match=r"no\.csv: no such file"):
        model.predict("no.csv")
    with pytest.raises(DataError, match="row 1: an empty text"):
        model.predict(["late refund", " ", "thanks"])
    found = model.predict(["late refund", None, "thanks"], errors="column")
    assert found["error"].tolist() == ["", "an empty text", ""]
    assert found["prediction"].isna().tolist() == [False, True, False]
    found = model.predict(["late refund", np.int64(3), float("nan"), pd.NA], errors="column")
    assert found["error"].tolist() == ["", "3 is no text", "an empty text", "an empty text"]
    assert model.predict("", errors="column")["error"].tolist() == ["an empty text"]
    assert model.predict(".")["prediction"].notna().tolist() == [True]  # a text, not a folder


def test_pictures_come_as_folders_files_lists_or_pixels(home, run_of, tmp_path):
    model = knobs.load(run_of("pictures"))
    whole = model.predict(home / "pictures")
    assert whole.index[0] == "cat/0.png"
    assert (whole["prediction"] == [name[:3] for name in whole.index]).mean() > 0.8
    files = [home / "pictures" / name for name in whole.index]
    listed = model.predict(files)
    assert listed.index.equals(pd.RangeIndex(24))
    assert np.array_equal(listed.to_numpy(), whole.to_numpy())
    assert model.predict(str(files[3])).iloc[0]["prediction"] == whole.iloc[3]["prediction"]
    from knobs.data.images import read_image

    pixels = torch.stack([read_image(file, 16) for file in files]).numpy()
    for given in (pixels, pixels.transpose(0, 2, 3, 1)):
        assert np.array_equal(model.predict(given).to_numpy(), whole.to_numpy())
    (tmp_path / "half.png").write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(DataError, match="row 1: not a readable image"):
        model.predict([files[0], tmp_path / "half.png"])
    found = model.predict([files[0], tmp_path / "half.png"], errors="column")
    assert found["prediction"].isna().tolist() == [False, True]
    with pytest.raises(DataError, match="whole numbers from 0 to 255"):
        model.predict(pixels / 255)


def test_cells_that_cannot_be_read_are_told_or_left_out(home, run_of, caplog):
    model, frame = knobs.load(run_of("price")), pd.read_csv(home / "t.csv").head(30)
    expected = model.predict(frame)
    frame["size"], frame["kind"] = frame["size"].astype(object), frame["kind"].astype(object)
    frame.loc[4, "size"], frame.loc[9, "sold"] = "wide", "31.31.2020"
    frame.loc[7, "size"], frame.loc[8, "size"] = np.inf, 1e300
    frame.loc[[1, 2], "kind"] = ["castle", ""]
    frame.loc[3, "size"] = 5000.0
    with pytest.raises(DataError, match=r"row 4: size='wide': is not a number \(4 rows of a block"):
        model.predict(frame)
    caplog.clear()
    found = model.predict(frame, errors="column")
    assert found.index[found["error"] != ""].tolist() == [4, 7, 8, 9]
    assert found["prediction"].isna().tolist() == (found["error"] != "").tolist()
    same = found.index.difference([1, 2, 3, 4, 7, 8, 9])
    assert np.allclose(found.loc[same, "prediction"], expected.loc[same, "prediction"])
    told = caplog.text
    assert "4 of 30 rows not predicted (row 4: size='wide': is not a number)" in told
    assert "3 % of size outside the training range" in told
    assert "3 % of kind never seen in training" in told
    assert re.search(r"missing: .*1 of kind", told)


def test_numbers_that_are_no_texts_are_not_read_by_a_decimal_sign(tmp_path):
    """1.234 of a spreadsheet is no 1234, where the training file had decimal commas."""
    frame = write_table(tmp_path / "t.csv")
    written = frame.assign(size=[f"{v:.{2 + i % 2}f}".replace(".", ",") for i, v in enumerate(frame["size"])],
                           rate=[f"{v % 7} %" for v in frame["id"]])  # fmt: skip
    written.to_csv(tmp_path / "comma.csv", sep=";", index=False)
    run = train(tmp_path / "run", *table_words(tmp_path / "comma.csv", "cheap"))
    model = knobs.load(run)
    assert model.preparation.inputs.columns.columns["size"].form == "comma"
    expected = model.predict(written)
    for numbers in (frame["size"], frame["size"].astype(object)):
        given = written.assign(size=numbers)
        pd.testing.assert_frame_equal(model.predict(given), expected)
    given["age"] = pd.to_numeric(given["age"])
    given.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(model.predict(tmp_path / "t.parquet"), expected)
    with pytest.raises(DataError, match="rate='0.05': is not a number"):
        model.predict(written.assign(rate=0.05))
    with pytest.raises(DataError, match="sold='20240131': is not a date"):
        model.predict(written.assign(sold=20240131))


def test_numbers_with_the_other_decimal_sign_are_refused_as_a_whole(home, run_of):
    """1,234 could be read as 1234; a single odd cell is a fault of its row."""
    model, frame = knobs.load(run_of("cheap")), pd.read_csv(home / "t.csv", dtype=str)
    turned = frame.assign(size=frame["size"].str.replace(".", ","))
    with pytest.raises(DataError, match=r"size='72,51': numbers have a decimal comma here, a "
                       "point in training; write them as there"):  # fmt: skip
        model.predict(turned, errors="column")
    frame.loc[3, "size"] = "72,51"
    assert model.predict(frame, errors="column")["error"].tolist()[3].startswith("size='72,51'")


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: f.drop(columns=["size", "age"]), "no column size, age; it has id, kind, sold"),
    (lambda f: f.rename(columns={"size": "Size"}), "no column size; .*did you mean Size"),
    (lambda f: f[["size", "size", "kind", "age", "sold"]], "more than one column size"),
    (lambda f: f.to_numpy(), r"ndarray \(240, 10\) of object: this model takes a data frame or a"),
    (lambda f: [1, 2], r"list '\[1, 2\]': this model takes a data frame"),
    (lambda f: f.head(0), "no rows to predict"),
    (lambda f: "none.csv", "none.csv: no such file or folder"),
    (lambda f: torch.zeros(3, 5), "predict takes raw rows; tensors that are prepared go to model"),
])  # fmt: skip
def test_what_is_no_row_of_the_table_is_refused(change, message, home, run_of):
    model, frame = knobs.load(run_of("cheap")), pd.read_csv(home / "t.csv")
    with pytest.raises(DataError, match=message):
        model.predict(change(frame))


def test_without_a_preparation_the_network_loads_and_predict_says_why(home, run_of, tmp_path):
    shutil.copytree(run_of("wine"), tmp_path / "run")
    (tmp_path / "run" / "preparation.json").unlink()
    model = knobs.load(tmp_path / "run")
    assert model(torch.zeros(2, 13)).shape == (2, 3)
    with pytest.raises(ConfigError, match=r"has no preparation\.json, as runs of older versions"):
        model.predict(np.zeros((2, 13)))
    config = read_config(tmp_path / "run")
    config["config"]["data"]["_target_"] = "mylab.data.rings"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"mylab\.data\.rings tells no preparation.*Table\.fit"):
        knobs.load(tmp_path / "run").predict(np.zeros((2, 13)))


def test_a_preparation_of_another_run_is_refused(run_of, tmp_path):
    shutil.copytree(run_of("wine"), tmp_path / "run")
    for name in ("preparation.json", "preparation.safetensors"):
        shutil.copy(run_of("diabetes") / name, tmp_path / "run" / name)
    with pytest.raises(CheckpointError, match=r"preparation\.json: not of this checkpoint"):
        knobs.load(tmp_path / "run")
    (tmp_path / "run" / "preparation.json").write_text("{}")
    with pytest.raises(ConfigError, match="its preparation cannot be used"):
        knobs.load(tmp_path / "run").predict(np.zeros((2, 13)))


def test_a_config_that_says_what_cannot_be_is_refused(run_of, tmp_path):
    shutil.copytree(run_of("cheap"), tmp_path / "run")
    config = read_config(tmp_path / "run")
    config["config"]["data"]["sep"] = {"_target_": "os.system"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: .*data\.sep"):
        knobs.load(tmp_path / "run")


def test_older_checkpoints_take_what_they_lack_from_the_config(run_of, tmp_path, monkeypatch):
    run = run_of("rooms loss=poisson")
    from knobs.predict import predictor

    network, shape, about = predictor.read_best(run)
    assert (about["task"], about["log_rates"]) == ("regression", True)
    older = {k: v for k, v in about.items() if k not in ("task", "log_rates")}
    monkeypatch.setattr(predictor, "read_best", lambda folder: (network, shape, older))
    assert predictor.load(run).log_rates
    assert not predictor.load(run_of("price")).log_rates


def test_it_is_the_network_under_its_own_names(run_of):
    from knobs.training import checkpoint

    run = run_of("cheap training.members=3")
    model, bare = knobs.load(run), checkpoint.load(run)
    assert [name for name, _ in model.named_parameters()] == [n for n, _ in bare.named_parameters()]
    assert list(model.state_dict()) == list(bare.state_dict())
    assert len(model.members) == 3
    model.load_state_dict({name: torch.zeros_like(w) for name, w in bare.state_dict().items()})
    assert not any(p.any() for p in model.parameters())
    assert not model.training
    single = knobs.load(run_of("wine"))
    assert single.head.out_features == 3
    assert single[-1] is single.head
    assert not hasattr(single, "no_such_thing")
    x = torch.zeros(4, 13, dtype=torch.float64)
    assert single.double()(x).dtype == torch.float64


def test_networks_of_several_runs_answer_by_their_mean(run_of, home):
    from knobs.predict.predictor import Predictor

    one, other = knobs.load(run_of("cheap")), knobs.load(run_of("cheap loss=focal"))
    both = Predictor([one.network, other.network], one.preparation, one.task, one.shape)
    frames = [model.predict(home / "t.csv")[["p(no)", "p(yes)"]] for model in (one, other, both)]
    assert np.allclose(frames[2], (frames[0] + frames[1]) / 2, atol=1e-6)


def test_predict_leaves_the_mode_and_draws_nothing(run_of, home):
    model = knobs.load(run_of("cheap training.ema=0.9"))
    model.train()
    assert model.predict(home / "t.csv").equals(model.predict(home / "t.csv"))
    assert model.training
    assert model.network.training


def test_metrics_of_predictions_are_those_of_evaluation(run_of, home):
    """Of all losses: R2 of the values that predict gives, in their own unit."""
    for case in ("rooms loss=poisson", "price loss=mae", "price,rooms loss=huber"):
        run = run_of(case)
        kept, model = load_file(run / FILE), knobs.load(run)
        target = model.preparation.target
        found = model.predict(raw_rows(case, home, kept["rows"].numpy())).to_numpy()
        z = torch.from_numpy((found - target.mean) / target.std).unsqueeze(0)
        again = metrics.regression(z, kept["targets"].double(), torch.from_numpy(target.std))
        assert again["r2"][0] == pytest.approx(read_summary(run)["metrics"]["val/r2"], abs=1e-5)
