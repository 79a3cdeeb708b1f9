"""sweep.json and study.json, lost or damaged in every way: the runs' own records say what they are."""

import json
import random

import pytest
from injected import faults

from knobs import ledger
from knobs.identity import identity
from knobs.record import LEDGER, STUDY, read_study, sealed
from knobs.sweep import places

JOBS = {n: (f"optimizer.lr={10.0**-n}", f"seed={n}") for n in range(6)}


def config(number):
    return {"seed": number, "optimizer": {"lr": 10.0**-number}}


def grid(folder):
    """A grid whose jobs have all ended, as far as its index looks at it."""
    book = ledger.Ledger("conf")
    for number, lines in JOBS.items():
        run = folder / str(number)
        run.mkdir()
        name = identity(config(number))
        document = {"overrides": list(lines), "identity": name, "config": config(number)}
        (run / "config.json").write_text(json.dumps(document | {"run": {"number": number}}))
        (run / "summary.json").write_text('{"status": "finished"}')
        book.jobs[number] = ledger.Entry(lines, name)
    book.write(folder)
    return book


def changes(text, count, seed):
    """The text cut short, with flipped bits, and with bytes taken out; so many times."""
    draw = random.Random(seed)
    for kind in range(count):
        place = draw.randrange(len(text))
        flipped = bytes([text[place] ^ (1 << draw.randrange(8))])
        yield (
            text[:place],
            text[:place] + flipped + text[place + 1 :],
            text[:place] + text[place + 1 :],
        )[kind % 3]


@faults(
    "a sweep's index cut, with a flipped bit or a lost byte, anywhere",
    "rebuilt from the runs' own config.json: the same jobs, none runs again",
    quick=200,
    whole=3000,
)
def test_a_damaged_index_is_known_and_rebuilt(tmp_path, tried, cases):
    goal = grid(tmp_path).jobs
    whole = (tmp_path / LEDGER).read_bytes()
    for text in changes(whole, cases, 0):
        (tmp_path / LEDGER).write_bytes(text)
        book, _ = ledger.known(tmp_path)
        assert book.jobs == goal
        book.conf = "conf"
        assert ledger.over(book, tmp_path, "conf", False) == set(JOBS.values())
        tried()


@faults(
    "a sweep's index of other runs: another sweep's, an older one, numbers exchanged",
    "each run is known by what it recorded, none is taken for another",
    quick=3,
)
def test_an_index_of_other_runs_gives_none_anothers_name(tmp_path, tried, cases):
    goal = grid(tmp_path).jobs
    others = ledger.Ledger("conf", {n: ledger.Entry((f"seed={n + 50}",), f"{n:016}") for n in JOBS})
    older = ledger.Ledger("conf", {n: goal[n] for n in range(3)})
    exchanged = ledger.Ledger("conf", {n: goal[5 - n] for n in JOBS})
    for book in (others, older, exchanged)[:cases]:
        book.write(tmp_path)
        assert ledger.known(tmp_path)[0].jobs == goal
        tried()


@pytest.mark.parametrize("name", ["run.lock", "summary.json", "checkpoints"])
def test_a_folder_that_lost_its_config_takes_no_other_run(name, tmp_path):
    assert not ledger.holds_a_run(tmp_path)
    (tmp_path / name).mkdir() if name == "checkpoints" else (tmp_path / name).touch()
    assert ledger.holds_a_run(tmp_path) == (name != "run.lock")


@faults(
    "a study's study.json cut, with a flipped bit or a lost byte, anywhere",
    "no place of a run is read from it; each run says its own",
    quick=100,
    whole=2000,
)
def test_a_damaged_study_is_not_believed(tmp_path, tried, cases):
    roles = {0: "default", 1: "search", 10_000: "confirm", 10_001: "step", 10_002: "test"}
    for number, role in roles.items():
        (tmp_path / str(number)).mkdir()
        run = {"number": number, "role": role, "arm": "a", "phase": "gp", "step": 2, "knob": "k"}
        document = json.dumps({"run": run, "config": {"seed": 7}})
        (tmp_path / str(number) / "config.json").write_text(document)
    goal = {
        0: {"arm": "a", "role": "default", "phase": "gp"},
        1: {"arm": "a", "role": "search", "phase": "gp"},
        10_000: {"arm": "a", "role": "confirm", "seed": 7},
        10_001: {"arm": "a", "role": "step", "seed": 7, "step": 2, "knob": "k"},
        10_002: {"arm": "a", "role": "test"},
    }
    assert places.recorded(tmp_path) == goal
    assert places.kind(tmp_path) == "study"  # although study.json is lost
    study = {"schema": 4, "runs": {str(n): place for n, place in goal.items()}}
    whole = sealed(study)
    for text in changes(whole, cases, 1):
        (tmp_path / STUDY).write_bytes(text)
        try:
            found = read_study(tmp_path)
        except (ValueError, OSError):  # of which a search takes the runs' own word
            found = study
        assert found["runs"] == study["runs"]
        tried()
