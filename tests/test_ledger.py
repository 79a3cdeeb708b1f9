"""sweep.json: what a resumed sweep believes, and what it does not."""

import json

import pytest

from knobs import ledger
from knobs.errors import LockedError
from knobs.identity import job_of
from knobs.ledger import Entry, Ledger

BOOK = Ledger("abc", {0: Entry(("seed=0",), "id0"), 7: Entry(("seed=1", "model=cnn"), "id7")})


def test_a_ledger_reads_back(tmp_path):
    BOOK.write(tmp_path)
    assert ledger.read(tmp_path) == BOOK
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.json"]


@pytest.mark.parametrize("text", [
    "", "null", "[]", "3", '"conf"', "{}", '{"conf": "a"}', '{"conf": "a", "jobs": []}', "\x00\xff",
    '{"conf": "a", "jobs": {"x": {"overrides": [], "identity": ""}}}',
    '{"conf": "a", "jobs": {"0": {"overrides": null, "identity": ""}}}',
    '{"conf": "a", "jobs": {"0": {"overrides": ["seed=0"]}}}',
    '{"conf": "a", "jobs": {"0": "seed=0"}}',
    '{"conf": 1, "jobs": {"0": {"overrides": ["seed=0"], "identity": 1}}}',
    '{"conf": "a", "jobs": {"0": {"overrides": [["seed"]], "identity": "a"}}}',
    '{"conf": "a", "jobs": {"-1": {"overrides": ["seed=0"], "identity": "a"}}}',
    "[" * 100_000,
])  # fmt: skip
def test_what_is_no_ledger_is_none(text, tmp_path):
    (tmp_path / "sweep.json").write_text(text, encoding="latin-1")
    assert ledger.read(tmp_path) is None
    assert ledger.done(tmp_path, "a", False) == set()


def test_a_ledger_cut_short_anywhere_is_none(tmp_path):
    BOOK.write(tmp_path)
    whole = (tmp_path / "sweep.json").read_text()
    for end in range(len(whole.rstrip())):
        (tmp_path / "sweep.json").write_text(whole[:end])
        assert ledger.read(tmp_path) is None, whole[:end]


@pytest.mark.parametrize(("text", "status"), [
    (None, ""), ("", ""), ("{", ""), ("[]", ""), ("null", ""), ("{}", ""), ("\xff\xfe", ""),
    ("[" * 100_000, ""), ('{"status": "finished"}', "finished"), ('{"status": "failed"}', "failed"),
])  # fmt: skip
def test_status_of_whatever_lies_there(text, status, tmp_path):
    if text is not None:
        (tmp_path / "summary.json").write_text(text, encoding="latin-1")
    assert ledger.status(tmp_path) == status


def test_what_is_settled():
    ends = ("finished", "stopped_early", "diverged", "failed", "interrupted", "")
    assert [e for e in ends if ledger.settled(e, False)] == list(ends[:4])
    assert [e for e in ends if ledger.settled(e, True)] == list(ends[:3])


def test_done_jobs_are_those_of_the_same_files(tmp_path):
    BOOK.write(tmp_path)
    for number, status in ((0, "finished"), (7, "failed")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "summary.json").write_text(f'{{"status": "{status}"}}')
    assert ledger.done(tmp_path, "abc", False) == {("seed=0",), ("seed=1", "model=cnn")}
    assert ledger.done(tmp_path, "abc", True) == {("seed=0",)}
    assert ledger.done(tmp_path, "other", False) == set()
    assert ledger.done(tmp_path / "nowhere", "abc", False) == set()


def test_what_makes_a_job():
    lines = ["+seed=0", "sweep=s", "hydra.launcher.width=3", "hydra/launcher=basic",
             "retry_failed=true", "sweeper=x", "~model.width", "tracking.group=a"]  # fmt: skip
    assert job_of(lines) == ("+seed=0", "sweeper=x", "~model.width", "tracking.group=a")


def test_the_digest_is_of_names_and_contents_below(tmp_path):
    one, two = tmp_path / "one" / "model", tmp_path / "two" / "model"
    for folder in (one, two):
        folder.mkdir(parents=True)
        (folder / "mlp.yaml").write_text("a: 1")
    assert ledger.digest([one.parent]) == ledger.digest([two.parent])
    (two / "readme.txt").write_text("no matter")
    assert ledger.digest([one.parent]) == ledger.digest([two.parent])
    seen = {ledger.digest([two.parent])}
    for change in (lambda: (two / "mlp.yaml").write_text("a: 2"),
                   lambda: (two / "mlp.yaml").rename(two / "cnn.yaml"),
                   lambda: (two / "new.yaml").touch()):  # fmt: skip
        change()
        seen.add(ledger.digest([two.parent]))
    assert len(seen) == 4


def test_a_folder_is_held_by_one(tmp_path):
    with ledger.held(tmp_path):
        with (
            pytest.raises(LockedError, match=r"held by process \d+ on \S+; wait for it"),
            ledger.held(tmp_path),
        ):
            pass
        assert (tmp_path / "sweep.lock").read_text().startswith(" process ")
    with ledger.held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_the_index_lacks_is_known_but_composed_again(tmp_path):
    """Nobody knows from which files it was composed, so its overrides alone do not settle it."""
    BOOK.write(tmp_path)
    for number, seed in ((0, 0), (3, 5)):
        run = tmp_path / str(number)
        run.mkdir()
        document = {"overrides": [f"seed={seed}"], "identity": f"id{number}", "config": {}}
        (run / "config.json").write_text(json.dumps(document))
        (run / "summary.json").write_text('{"status": "finished"}')
    book, found = ledger.known(tmp_path)
    assert (found, book.jobs[3]) == (1, Entry(("seed=5",), "id3"))
    assert book.jobs[0] == BOOK.jobs[0]
    assert ledger.done(tmp_path, "abc", False) == set()
    (tmp_path / "3" / "config.json").unlink()
    assert ledger.done(tmp_path, "abc", False) == {("seed=0",)}
