"""A run's identity: the same as ever for the same run, whatever knobs came after it."""

import json

import pytest
from conftest import REPO

from knobs import identity, record
from knobs.config import command
from knobs.identity import DEFAULTS_BEFORE, KEYS, RENAMED, computed, differences
from knobs.record import migrate, renamed

PINNED = json.loads((REPO / "tests" / "identity.json").read_text())
# What keeps the defaults of then, of options that have others now.
THEN = {
    "data=python_docs model=text_bag": ["model.pool=mean", "model.embedding_std=1.0"],
    "model=cnn regularization=batchnorm": ["model.own_norm=null"],
}


@pytest.mark.parametrize("words", PINNED["identities"], ids=str)
def test_identities_are_those_of_schema_1(words):
    """Computed by the code of commit 681e2c3."""
    lines = [*map(renamed, words.split()), *THEN.get(words, [])]
    config = command.checked([*lines, "tracking=local"])
    assert identity.identity(config) == PINNED["identities"][words]


def test_the_frozen_keys_are_those_of_schema_2():
    assert json.loads(KEYS.read_text()) == {"schema": 2, "keys": PINNED["keys"]}


def test_every_value_of_then_still_counts():
    config = command.checked(["tracking=local"])
    kept = computed(config)
    assert set(kept) <= set(PINNED["keys"])
    for path, value in PINNED["defaults"].items():
        assert kept[path] == value, path


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of conf/ that identity looks at."""
    import shutil

    copy = tmp_path / "conf"
    shutil.copytree(identity.CONF, copy)
    monkeypatch.setattr(identity, "CONF", copy)
    identity._stated.cache_clear()
    yield copy
    identity._stated.cache_clear()


def test_a_new_key_counts_where_it_is_not_at_its_default(conf):
    plain = command.checked(["tracking=local"])
    before = identity.identity(plain)
    path = conf / "training" / "default.yaml"
    path.write_text(path.read_text() + "noise: 1e-3\nmixer: null\n")
    (conf / "config.yaml").write_text((conf / "config.yaml").read_text() + "\ncolour: blue\n")

    def with_new(noise, mixer=None, colour="blue"):
        section = plain["training"] | {"noise": noise, "mixer": mixer}
        return plain | {"training": section, "colour": colour}

    assert identity.identity(with_new(1e-3)) == before
    others = [with_new(2e-3), with_new(1e-3, 0), with_new(1e-3, False), with_new(1e-3, None, "red")]
    hashes = {identity.identity(config) for config in others}
    assert len(hashes - {before}) == 4
    assert differences(plain, with_new(1e-3)) == []
    assert differences(plain, with_new(2e-3)) == ["training.noise"]


def test_a_new_key_that_options_state_otherwise_always_counts(conf):
    plain = command.checked(["tracking=local"])
    for name, value in (("cosine", 1), ("step", 2)):
        path = conf / "scheduler" / f"{name}.yaml"
        path.write_text(path.read_text() + f"\nextra: {value}\n")
    section = plain["scheduler"]
    hashes = {
        identity.identity(plain | {"scheduler": section | {"extra": value}}) for value in (1, 2)
    }
    assert len({*hashes, identity.identity(plain)}) == 3


def test_a_changed_default_keeps_the_identity_of_the_first_one(conf, monkeypatch):
    """A key that came with 1 and whose default schema 3 changed to 2: 1 still is what changes nothing."""
    plain = command.checked(["tracking=local"])
    path = conf / "training" / "default.yaml"
    path.write_text(path.read_text() + "extra: 2\n")
    monkeypatch.setitem(DEFAULTS_BEFORE, 3, {"training.extra": 1})
    section = plain["training"]
    same, other = (plain | {"training": section | {"extra": value}} for value in (1, 2))
    assert identity.identity(same) == identity.identity(plain) != identity.identity(other)


def test_what_began_under_an_older_schema_keeps_its_defaults(tmp_path, monkeypatch):
    monkeypatch.setitem(DEFAULTS_BEFORE, 3, {"training.epochs": 40, "seed": 0})
    monkeypatch.setitem(DEFAULTS_BEFORE, 4, {"training.epochs": 50})
    monkeypatch.setattr(record, "SCHEMA", 4)
    for schema, lines in (
        (2, ["training.epochs=40", "seed=0"]), (3, ["training.epochs=50"]), (4, []),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps({"schema": schema}))
        assert sorted(record.defaults_since(tmp_path)) == sorted(lines)
    (tmp_path / "config.json").write_text("{}")
    assert sorted(record.defaults_since(tmp_path)) == ["seed=0", "training.epochs=40"]
    assert record.defaults_since(tmp_path / "nowhere") == []


def test_a_default_of_one_option_is_kept_where_the_record_tells_it(tmp_path):
    """Its value then, which an experiment may have set; mlp has no such key, nor has every job."""
    config = {"data": {"max_length": 9}, "model": {"name": "text_bag"}}
    for choices, lines in (
        ({"data": "text_csv", "model": "text_bag"},
         ["data.max_length=9", "data.min_count=2", 'model.pool="mean"', "model.embedding_std=1.0"]),
        ({"data": "text_csv", "model": "text_cnn"}, ["data.max_length=9", "data.min_count=2"]),
        ({"data": "python_docs", "model": "mlp"}, []), ({}, []),
    ):  # fmt: skip
        document = {"schema": 2, "choices": choices, "config": config}
        (tmp_path / "config.json").write_text(json.dumps(document))
        found = record.defaults_since(tmp_path)
        assert [line for line in found if line.startswith(("data.", "model."))] == lines
        other = record.defaults_since(tmp_path, ["model=mlp", "data=digits"])
        assert not [line for line in other if line.startswith(("data.", "model."))]
        (tmp_path / "config.json").write_text(json.dumps(document | {"schema": 3}))
        assert record.defaults_since(tmp_path) == []


def test_the_last_layer_at_zero_is_a_default_of_schema_3(tmp_path):
    """Where it came to be on, a run is another than it was; off, it is the one of before."""
    on, off = (
        command.checked(["data=diabetes", "tracking=local", *more])
        for more in ([], ["training.zero_head=false"])
    )
    assert on["training"]["zero_head"] is True
    assert differences(on, off) == ["training.zero_head"]
    older = off | {"training": {k: v for k, v in off["training"].items() if k != "zero_head"}}
    assert differences(older, off) == []
    (tmp_path / "config.json").write_text(json.dumps({"schema": 2}))
    assert record.defaults_since(tmp_path) == ["objective.rare=0.0", "training.zero_head=false"]


def test_a_rename_is_applied_to_overrides_and_configs():
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        moved = migrate({section: {key: 3, "other": 1}, "seed": 0})
        assert moved == {section: {new.partition(".")[2]: 3, "other": 1}, "seed": 0}
        assert migrate(moved) == moved
        assert [renamed(p + old + "=3") for p in ("", "+", "++")] == [
            p + new + "=3" for p in ("", "+", "++")
        ]
        assert renamed(f"~{old}") == f"~{new}"
    assert renamed("optimizer.lr=training.accumulate=2") == "optimizer.lr=training.accumulate=2"


def test_a_rename_is_applied_to_studies(tmp_path):
    [(old, new), *_] = RENAMED.items()
    study = {
        "scientific": [old], "fixed": ["seed", old],
        "arms": {"a": {"overrides": [f"{old}=2", "seed=1"], "space": {old: {"low": 1, "high": 4}}}},
        "runs": {"0": {"arm": "a", "role": "search"}},
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(study))
    read = record.read_study(tmp_path)
    assert json.dumps(read) == json.dumps(study).replace(old, new)
