"""Texts: tokens of every script, the length and the vocabulary by the training split, what is told."""

import csv
import itertools
import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knobs import build
from knobs.config import command
from knobs.data import tokens
from knobs.data.preparation import Preparation
from knobs.data.texts import Counted, Texts, usual_length
from knobs.data.tokens import tokenize
from knobs.errors import ConfigError, DataError
from knobs.training.run import execute

LINES = ["the cat sat on the mat", "a dog barked at the cat", "the mat was red", "dogs like mats"]


def words_of_then(text):
    """Tokens as the first version of knobs made them."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def load(path, *overrides):
    base = ["data=text_csv", f"data.path={path}", "model=text_bag"]
    return build.data(command.checked([*base, *overrides]))


def write(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize(("text", "expected"), [
    # Marks stay with their letter: Hindi, Tamil, Arabic, Hebrew, and one that no letter has.
    ("हिन्दी में", ["हिन्दी", "में"]), ("தமிழ்", ["தமிழ்"]), ("مُحَمَّد", ["مُحَمَّد"]), ("שָׁלוֹם", ["שָׁלוֹם"]), ("x\u0302=y", ["x\u0302", "=", "y"]),
    ("می\u200cخواهم", ["می\u200cخواهم"]), ("क्\u200dष a\u200d", ["क्\u200dष", "a"]),
    # Composed or not, capital or not.
    ("caf\u00e9 cafe\u0301 CAF\u00c9", ["café"] * 3), ("\u212b \u00e5 a\u030a", ["\u00e5"] * 3),
    # Turkish dotted capital I; sharp s as it is written; the last sigma of a Greek word.
    ("İSTANBUL istanbul i\u0307stanbul", ["istanbul"] * 3), ("ISPARTA ısparta", ["isparta", "ısparta"]),
    ("Straße STRASSE", ["straße", "strasse"]), ("ΟΔΟΣ", ["οδος".replace("σ", "ς")]),
    # Scripts without blanks: a token a letter with its marks; numbers and Latin words stay whole.
    ("今日は、2020年。", ["今", "日", "は", "、", "2020", "年", "。"]), ("ラーメンABC", ["ラ", "ー", "メ", "ン", "abc"]),
    ("か\u3099", ["が"]), ("ｶﾞｷ", ["ｶﾞ", "ｷ"]), ("人々𠮷", ["人", "々", "𠮷"]), ("ㄅㄆ", ["ㄅ", "ㄆ"]),
    ("วันที่ ๑๒ ฿5", ["วั", "น", "ที่", "๑๒", "฿", "5"]), ("ລາວ", ["ລ", "າ", "ວ"]), ("ភាសា", ["ភា", "សា"]), ("မြန်မာ", ["မြ", "န်", "မာ"]),
    # Korean has blanks, and its decomposed syllables are the composed ones.
    ("안녕 세계", ["안녕", "세계"]), (unicodedata.normalize("NFD", "세계"), ["세계"]),
    # An emoji is one sign, with or without the selector that colours it.
    ("👍🏽👍", ["👍🏽", "👍"]), ("👩‍👩‍👧 🇩🇪🇫🇷", ["👩‍👩‍👧", "🇩🇪", "🇫🇷"]), ("❤️❤", ["❤", "❤"]), ("1️⃣ #️⃣", ["1\u20e3", "#\u20e3"]),
    ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", ["🏴󠁧󠁢󠁥󠁮󠁧󠁿"]), ("🏃🏽‍♀️.", ["🏃🏽\u200d♀", "."]), ("\U0001f1e9 x", ["\U0001f1e9", "x"]),
    # Nothing that no reader sees: soft hyphens, half a pair, marks of order and direction.
    ("co\u00adop", ["coop"]), ("a\ud83d b", ["a", "b"]), ("\ufeffa\u200eb\u200bc", ["ab", "c"]), ("a\u200d\u200c", ["a"]),
    # As ever.
    ("don't don\u2019t", ["don", "'", "t", "don", "\u2019", "t"]), ("well-known_x 3.5", ["well", "-", "known_x", "3", ".", "5"]), ("", []),
])  # fmt: skip
def test_tokens_of_every_script(text, expected):
    assert tokenize(text, 1) == expected
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(expected)]
    assert tokenize(text, 2) == expected + pairs


LATIN = [chr(c) for c in (*range(0x300), *range(0x1E00, 0x1F00)) if c not in (0xAD, 0x130)]


@settings(max_examples=300, deadline=None)
@given(st.text(LATIN + list("\u2019\u2014\u201c\u20acжЖλ")))
def test_latin_texts_have_the_tokens_of_ever(text):
    assert tokenize(text, 1) == words_of_then(text) == tokenize(text, 1, "words")


def test_the_short_cut_for_latin_texts_changes_no_token(monkeypatch):
    plain = [chr(c) for c in range(0x11000) if not tokens._OTHER.search(chr(c))]
    assert len(plain) > 1500
    assert all(unicodedata.is_normalized("NFC", c) for c in plain)
    texts = [f"ab{c}cd {c} A{c}{c}" for c in plain]
    short = [tokenize(text, 1) for text in texts]
    monkeypatch.setattr(tokens, "_OTHER", re.compile("[^\0-\x7f]"))
    assert [tokenize(text, 1) for text in texts] == short


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_has_tokens_that_are_canonical(text):
    """Composed and decomposed alike; none is empty, holds a blank, or is no more than a selector."""
    found = tokenize(text, 1)
    assert found == tokenize(unicodedata.normalize("NFD", text), 1)
    assert all(token and not re.search(r"\s", token) for token in found)
    assert not {*"".join(found)} & {*"\ufe0e\ufe0f\u00ad\ud800\udfff"}
    assert not {"\u200d", "\u200c"} & {*found}


def test_what_was_saved_before_goes_on_with_its_own_tokenizer():
    texts = ["हिन्दी में", "caf\u00e9 x"]
    now = Texts.fit([texts], np.arange(2), ngrams=1, max_length=9, max_vocabulary=99, min_count=1)
    assert now.saved()[0]["tokens_by"] == "unicode"
    document = {"tokens": sorted({*words_of_then(texts[0])}), "ngrams": 1, "length": 9}
    before = Texts.read(fields(document))
    assert before.tokens_by == "words"
    assert before.apply(texts)[0].tolist().count(1) == 0
    assert before.saved()[0] == document
    assert now.unlike(now) == ""
    assert now.unlike(before) == "a text had 2 tokens, and has 9 now"


def test_a_run_whose_texts_were_read_otherwise_is_not_resumed(tmp_path):
    path = write(tmp_path / "t.csv", [("हिन्दी " + LINES[i % 4], "ab"[i % 2]) for i in range(60)])
    base = ["data=text_csv", f"data.path={path}", "model=text_bag", "tracking=local"]
    config = command.checked([*base, "training.epochs=1", "training.batch_size=32"])
    execute(config, tmp_path / "run")
    made = build.data(config).preparation
    then = tuple(sorted({*words_of_then(" ".join(["हिन्दी", *LINES]))}))
    for earlier, fault in (
        (replace(made.inputs, tokens=then, tokens_by="words"), "the vocabulary is another one"),
        (replace(made.inputs, length=5), "a text had 5 tokens, and has 7 now"),
    ):
        for name, content in replace(made, inputs=earlier).save().items():
            (tmp_path / "run" / name).write_bytes(content)
        longer = config | {"resume": "yes", "training": config["training"] | {"epochs": 2}}
        with pytest.raises(DataError, match=f"read otherwise than when the run began .{fault}"):
            execute(longer, tmp_path / "run")
    for name, content in (
        replace(made, inputs=replace(made.inputs, tokens_by="words")).save().items()
    ):
        (tmp_path / "run" / name).write_bytes(content)
    assert execute(longer, tmp_path / "run").summary["epochs"] == 2


def fields(document):
    from knobs.data.stored import Fields

    return Fields(document, {})


@pytest.mark.parametrize(("lengths", "ngrams", "expected"), [
    ([1, 5, 63], 1, 64), ([100] * 95 + [400] * 5, 1, 100), ([100] * 94 + [400] * 6, 1, 400),
    ([900] * 10, 1, 512), ([900] * 10, 2, 900), ([5000], 3, 1536), ([0], 1, 64),
])  # fmt: skip
def test_the_usual_length_cuts_few(lengths, ngrams, expected):
    length = usual_length(np.array(lengths), ngrams)
    assert length == expected
    if length < 512 * ngrams:
        assert np.mean(np.array(lengths) > length) <= 0.05


def besides_repeats(notes):
    """Notes but that on texts that two splits have, as these sets of few texts do."""
    return [note for note in notes if "identical" not in note]


def test_the_length_is_of_the_training_texts(tmp_path):
    rows = [(" ".join(["word"] * (i % 100 + 1)) + " end", "ab"[i % 2]) for i in range(400)]
    path = write(tmp_path / "t.csv", rows)
    data = load(path)
    lengths = (data.train.x > 0).sum(1)
    full = [len(tokenize(rows[i][0], 1)) for i in data.train.rows]
    assert data.shape.input == (usual_length(np.array(full), 1),)
    assert 64 < data.shape.input[0] < 101
    assert (lengths == torch.tensor(full).clamp(max=data.shape.input[0])).all()
    assert besides_repeats(data.notes) == []
    short = load(path, "data.max_length=10")
    assert short.shape.input == (10,)
    assert besides_repeats(short.notes) == [
        "91% of training texts are cut at 10 tokens; the longest has 101"
    ]


def test_counts_are_of_the_rows_asked_for():
    counted = Counted.of([["a b", "c"], ["a", ""]], np.array([0, 2, 3]), 1)
    assert counted.tokens == {"a": 2, "b": 1}
    assert counted.lengths.tolist() == [2, 1, 0]


def test_empty_and_absent_texts_are_told(tmp_path):
    rows = [(LINES[i % 4], "ab"[i % 2]) for i in range(80)]
    rows += [("", "a"), ("  ", "b"), ("nan", "a"), ("N/A", "b"), ("\u200b", "a")]
    notes = load(write(tmp_path / "t.csv", rows)).notes
    assert besides_repeats(notes) == [
        "3 of 85 texts are empty", "text: 2 texts are no more than 'nan' or the like",
    ]  # fmt: skip


def test_unknown_words_are_told(tmp_path):
    rows = [(f"{LINES[i % 4]} only{i} once{i}", "ab"[i % 2]) for i in range(80)]
    assert load(write(tmp_path / "t.csv", rows)).notes == [
        "30% of validation tokens are not in the vocabulary"
    ]


@pytest.mark.parametrize(("text", "note"), [
    (lambda i: f"{i % 9}.5", "text: 100% of the texts are numbers; is it the column of texts?"),
    (lambda i: ["red", "green"][i % 2], "text: 100% of the texts are one word; is it the column of texts?"),
])  # fmt: skip
def test_a_column_of_something_else_is_told(text, note, tmp_path):
    path = write(tmp_path / "t.csv", [(text(i), "ab"[i % 3 // 2]) for i in range(80)])
    assert note in load(path).notes


@pytest.mark.parametrize(("text", "overrides", "message"), [
    (lambda i: "", [], r"t.csv: text: all 48 training texts are empty; fill them"),
    (lambda i: f"id{i}", ["data.min_count=2"], r"t.csv: text: 48 training texts have 48 different tokens; with data.min_count=2 .* keeps 0 of them, 0%"),
    (lambda i: f"id{i}", [], "t.csv: text: 100% of validation tokens are not in the vocabulary, as of names or ids; choose"),
    (lambda i: LINES[i % 4], ["data.min_count=500"], "with data.min_count=500 .* keeps 0 of them"),
    (lambda i: LINES[i % 4], ["data.max_vocabulary=1"], "data.max_vocabulary=1 the vocabulary keeps 0"),
    (lambda i: "same", [], "have 1 different tokens; with .* keeps 1 of them, 100% of the text"),
])  # fmt: skip
def test_a_vocabulary_of_nothing_is_an_error(text, overrides, message, tmp_path):
    path = write(tmp_path / "t.csv", [(text(i), "ab"[i % 2]) for i in range(80)])
    with pytest.raises(DataError, match=message) as error:
        load(path, *overrides)
    assert "\n" not in str(error.value)


def test_numbers_are_predicted_from_text(tmp_path, train):
    """Stars, with a decimal comma; the score is in their own unit."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        stars = draw.integers(1, 6)
        rows.append((" ".join(["good"] * stars + ["bad"] * (6 - stars)), f"{stars},5"))
    path = write(tmp_path / "t.csv", rows, ("text", "stars"))
    options = ["data.label=stars", "data.task=regression"]
    data = load(path, *options)
    assert (data.task, data.classes, data.shape.outputs) == ("regression", [], 1)
    values = data.preparation.target.decode(data.train.y.unsqueeze(1))
    assert {*values.round(4).flatten().tolist()} == {1.5, 2.5, 3.5, 4.5, 5.5}
    base = ["data=text_csv", f"data.path={path}", "model=text_bag", *options]
    metrics = train(*base, "training.epochs=30", "optimizer.lr=0.05").summary["objective"]
    assert metrics["metric"] == "val/r2"
    assert metrics["value"] > 0.9


def test_several_labels_are_predicted_from_text(tmp_path):
    rows = [(LINES[i % 4], i % 2, int(i % 4 == 3), i / 7) for i in range(80)]
    path = write(tmp_path / "t.csv", rows, ("text", "u", "v", "w"))
    labels = load(path, "data.label=[u,v]", "data.task=multilabel")
    assert (labels.classes, labels.shape.outputs, labels.train.y.shape) == (["u", "v"], 2, (48, 2))
    values = load(path, "data.label=[w,u]", "data.task=regression")
    assert values.target_mean.shape == (2,)
    again = Preparation.load(values.preparation.save())
    assert torch.equal(again.apply([LINES[0]]), values.preparation.apply([LINES[0]]))


@pytest.mark.parametrize(("overrides", "message"), [
    ("data.label=[u,v]", "data.label=.u, v.: a classification has one target"),
    ("data.label=[u] data.task=regression", "a list is of two columns or more"),
    ("data.label=[u,u] data.task=regression", "u twice"),
    ("data.label=text", "data.text=text: is what is predicted too"),
    ("data.label=u data.task=multilabel", "data.task=multilabel: needs a list"),
    ("data.max_length=0", "data.max_length=0: must be auto, or a whole number >= 1"),
    ("data.max_length=long", "data.max_length=long: must be auto, or"),
])  # fmt: skip
def test_options_that_contradict_each_other(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "t.csv", *overrides.split())


@pytest.mark.parametrize(("rows", "message"), [
    ([("a b", "1"), ("c d", "")], "t.csv: 1 rows have no label .*line 3"),
    ([("a b", "1"), ("c d", "five")], "t.csv: label is not a column of numbers .*line 3: 'five'"),
    ([("a b", "1"), ("c d", "1")] * 9, "t.csv: label is 1 in every training row"),
])  # fmt: skip
def test_faults_of_numbers_to_predict(rows, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "t.csv", rows), "data.task=regression")


def test_names_are_no_numbers():
    with pytest.raises(DataError, match="a regression needs numbers, and the targets are names"):
        build.data(command.checked(["data=python_docs", "model=text_bag", "data.task=regression"]))
