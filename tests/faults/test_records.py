"""Damaged records: every command ends in its exit code and names the file, and no number is made up."""

import contextlib
import io
import json
import random
import shutil
from argparse import Namespace

import pytest
from injected import command, faults

import knobs
from knobs import again, ledger, listing, record, storage
from knobs.compare import __main__ as compare
from knobs.config import command as configs
from knobs.data.stored import ARRAYS, JSON
from knobs.ensemble import __main__ as ensemble
from knobs.ensemble.folder import candidate, members
from knobs.errors import CheckpointError, UserError
from knobs.report import __main__ as report
from knobs.report.read import read_run, read_runs, read_sweep
from knobs.report.run.read import read_files
from knobs.search.space import Range, Space
from knobs.search.trials import JOURNAL, Search
from knobs.tracking import sync
from knobs.training import predictions
from knobs.training.run import execute

CODES = {0, 1, 2, 3, 4, 20, 21, 22}  # documented ones; 1: a newer knobs wrote it
OF_A_RUN = (record.CONFIG, record.SUMMARY, record.METRICS, JSON, ARRAYS, predictions.FILE)
KNOB = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep of three runs with their ensemble; a search's journal."""
    home = tmp_path_factory.mktemp("made")
    (home / "t.csv").write_text(
        "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 3}\n" for i in range(90))
    )
    sweep, jobs = home / "s", {}
    for n in range(3):
        lines = ["data=csv", f"data.path={home / 't.csv'}", f"seed={n}", "tracking=local",
                 "training.epochs=3", "model.width=8", "data.target=y",
                 "data.task=regression"]  # fmt: skip
        config = configs.checked(lines)
        about = {"overrides": lines, "choices": {"data": "csv"}, "run": {"number": n}}
        execute(config, sweep / str(n), None, about)
        jobs[n] = ledger.Entry(tuple(lines), record.read_config(sweep / str(n))["identity"])
    ledger.Ledger("abc", jobs).write(sweep)
    study = {"schema": record.SCHEMA, "question": "?", "scientific": [], "fixed": [],
             "arms": {"": {"overrides": [], "space": KNOB}}, "runs": {"0": {"role": "default", "arm": ""}}}  # fmt: skip
    storage.write(sweep / record.STUDY, record.sealed(study))
    with contextlib.redirect_stdout(io.StringIO()):
        assert ensemble.main([str(sweep)]) == 0
    return home


# ------------------------------------------------------------------ damage
def flipped(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


def digit(data, draw):
    """Another digit: what no parser can notice."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57] or [0]
    place = draw.choice(places)
    return data[:place] + (b"%d" % ((data[place] - 47) % 10)) + data[place + 1 :]


def edited(data, draw, value):
    """Another value in the place of one, or none; of a file that is no JSON, a foreign one."""
    try:
        lines = [json.loads(line) for line in data.splitlines()]
        node = whole = draw.choice(lines)
    except ValueError:
        try:
            node = whole = json.loads(data)
            lines = None
        except ValueError:
            return b"{}" if value is missing else json.dumps(value).encode()
    while True:
        key = draw.choice([*node] if isinstance(node, dict) else [*range(len(node))])
        child = node[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.7:
            node = child
            continue
        break
    if value is missing:
        del node[key]
    else:
        node[key] = value
    if lines is None:
        return json.dumps(whole, indent=1).encode() + b"\n"
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


missing = object()
DAMAGE = {
    "empty": lambda data, draw: b"",
    "cut": lambda data, draw: data[: draw.randrange(len(data))],
    "a bit": flipped,
    "a digit": digit,
    "zeros": lambda data, draw: bytes(len(data)),
    "noise": lambda data, draw: draw.randbytes(len(data)),
    "nested": lambda data, draw: b"[" * 10_000 + b"]" * 10_000,
    "nested objects": lambda data, draw: b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "foreign": lambda data, draw: draw.choice([b"{}", b"[]", b"null", b'{"a": 1}\n', b"<html>", b"3"]),
    "twice": lambda data, draw: data + data,
    "missing": lambda data, draw: edited(data, draw, missing),
    **{f"value {value!r:.9}": lambda data, draw, value=value: edited(data, draw, value)
       for value in ("x", None, [], {}, -1, True, float("nan"), 1e308, 10**400, "\0" * 9, [[[]]])},
}  # fmt: skip


def unsealed(data):
    """A document as older versions wrote it: it carries no checksum."""
    document = json.loads(data)
    document.pop("sha256", None)
    return json.dumps(document).encode()


def mutations(files, cases, seed):
    """(file, kind of damage, damaged content): so many, over all files and kinds in turn."""
    draw, n = random.Random(seed), 0
    while n < cases:
        for kind, damage in DAMAGE.items():
            for path, data in files.items():
                if n < cases and (after := damage(data, draw)) != data:
                    n += 1
                    yield path, kind, after


# ------------------------------------------------------------------ what is refused
@faults("damaged document", "refused, naming the file: exit 4", quick=600, whole=8000)
def test_no_damage_of_a_document_is_believed(cases, made, tmp_path, tried):
    """Of those that carry their own checksum, whatever the damage: no value of it is read."""
    places = ["s/0/config.json", "s/0/summary.json", "s/sweep.json", "s/study.json",
              "s/ensemble/ensemble.json"]  # fmt: skip
    files = {made / place: (made / place).read_bytes() for place in places}
    for path, kind, data in mutations(files, cases, 0):
        new = tmp_path / path.name
        new.write_bytes(data)
        document, error = attempt(record.read_json, new)
        if error:
            assert isinstance(error, CheckpointError)
            assert str(error).startswith(f"{new}: ")
        else:  # what lost its checksum is as an older version wrote it
            assert "sha256" not in json.loads(data), (kind, document)
        tried()


def attempt(call, *arguments):
    """(value, None), or (None, the refusal); any other exception is a fault of the command."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return call(*arguments), None
        except UserError as error:
            return None, error


def fit(folder):
    """A model's answers to raw rows."""
    return knobs.load(folder).predict([{"a": 1, "b": 2}, {"a": 3, "b": 4}]).to_numpy().tolist()


def asked(word, folder):
    """What `resume=` and `rerun=` go by."""
    if word == "rerun":
        return len(
            again.rerun(
                str(folder),
                [],
                configs.LAST and [record.Path(configs.__file__).parents[3] / "conf"],
            )
        )
    return again.resume(str(folder), Namespace(overrides=[], multirun=False))


def sent(folder):
    """What `knobs sync` takes a record for."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return sync._recorded(folder)  # sync._mirrored says these


READERS = {
    "load": fit,
    "resume": lambda folder: asked("resume", folder),
    "ended": record.ended,
    "report": lambda folder: (read_run(folder).status, read_run(folder).value, read_run(folder).curve),
    "page": lambda folder: read_files(folder).faults and None,
    "ensemble": lambda folder: candidate(folder).value,
    "sync": sent,
    "status": ledger.status,
}  # fmt: skip


def outcome(reader, folder):
    """Return what a reader returns, or the message of its refusal, of a documented exit code."""
    found, error = attempt(reader, folder)
    assert error is None or error.exit_code in CODES
    return found, str(error or "")


@faults("damaged file of a run", "refused or left out, and said; no number is made of it",
        quick=200, whole=2500)  # fmt: skip
def test_no_number_is_made_of_a_damaged_run(cases, made, tmp_path, tried):
    """Each reader of a run's folder gives what it gave before, or says which file is damaged."""
    run = tmp_path / "run"
    shutil.copytree(made / "s" / "0", run)
    files = {run / name: (run / name).read_bytes() for name in OF_A_RUN}
    truth = {name: outcome(reader, run)[0] for name, reader in READERS.items()}
    rows = truth["report"][2]
    for path, kind, data in mutations(files, cases, 1):
        path.write_bytes(data)
        for name, reader in READERS.items():
            found, said = outcome(reader, run)
            if said or found == truth[name]:
                continue
            about = path.name, kind, name, found
            lost = b"sha256" not in data and path.suffix == ".json"  # as an older version's
            if name == "report":
                _, value, curve = found
                assert value in (None, truth["report"][1]) or lost, about
                assert all(row in rows for row in curve) or lost, about
                assert len(curve) == 3 or read_run(run).fault or read_files(run).faults, about
            else:
                assert found in (None, "") or lost or path.name == JSON, about
        path.write_bytes(files[path])
        tried()


@faults("damaged older file of a run", "read as far as it goes, or refused in one line",
        quick=100, whole=1000)  # fmt: skip
def test_an_older_record_of_wrong_types_stops_nothing(cases, made, tmp_path, tried, capsys):
    """Without checksums types alone are checked: no command ends in a traceback."""
    sweep = tmp_path / "s"
    shutil.copytree(made / "s", sweep)
    names = [f"0/{record.CONFIG}", f"0/{record.SUMMARY}", record.LEDGER, record.STUDY]
    files = {sweep / name: unsealed((sweep / name).read_bytes()) for name in names}
    for path, kind, data in mutations(files, cases, 2):
        path.write_bytes(unsealed(data) if kind.startswith("value") else data)
        for reader in READERS.values():
            outcome(reader, sweep / "0")
        outcome(ledger.known, sweep)
        outcome(lambda folder: ledger.done(folder, "abc", False), sweep)
        outcome(record.defaults_since, sweep)
        outcome(lambda folder: read_sweep([folder]), sweep)
        assert listing.main([str(sweep)]) == 0
        path.write_bytes(files[path])
        capsys.readouterr()
        tried()


# ------------------------------------------------------------------ whole commands
def run_main(main, *words):
    """A command's exit code and what it printed, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(word) for word in words])
    return code, out.getvalue()


@faults("damaged file and a command", "one line that names the file; the documented exit code",
        quick=24, whole=150)  # fmt: skip
def test_every_command_says_which_file_is_damaged(cases, made, tmp_path, tried):
    sweep = tmp_path / "s"
    shutil.copytree(made / "s", sweep)
    names = [f"0/{name}" for name in OF_A_RUN]
    names += [record.LEDGER, record.STUDY, f"ensemble/{record.ENSEMBLE}"]
    files = {sweep / name: (sweep / name).read_bytes() for name in names}
    values = {run.id: run.value for run in read_runs(sweep)}
    for n, (path, kind, data) in enumerate(mutations(files, cases, 3)):
        path.write_bytes(data)
        commands = {
            "ls": lambda: run_main(listing.main, sweep, "--json"),
            "compare": lambda: run_main(compare.main, sweep / "0", sweep / "1"),
            "page": lambda: run_main(report.main, sweep / "0", "--out", tmp_path / "out"),
            "report": lambda: run_main(report.main, sweep, "--out", tmp_path / "out"),
            "ensemble": lambda n=n: run_main(ensemble.main, sweep, "--out", tmp_path / f"e{n}"),
        }
        name = [*commands][n % len(commands)]
        code, told = commands[name]()
        about = path.name, kind, name, told
        assert code in CODES, about
        assert "Traceback" not in told, about
        if name == "ls" and code == 0:
            shown = json.loads(told[told.index("[") : told.rindex("]") + 1])
            lost = b"sha256" not in data
            assert all(
                line["value"] in (None, values.get(line["run"])) or lost for line in shown
            ), about
        path.write_bytes(files[path])
        tried()


@faults("damaged members of an ensemble", "refused, naming the file: exit 4", quick=60, whole=1000)
def test_a_damaged_ensemble_is_refused(cases, made, tmp_path, tried):
    shutil.copytree(made / "s" / "ensemble", tmp_path / "e")
    path = tmp_path / "e" / record.ENSEMBLE
    whole = path.read_bytes()
    truth = members(tmp_path / "e")
    for _, kind, data in mutations({path: whole}, cases, 4):
        path.write_bytes(data)
        found, said = outcome(members, tmp_path / "e")
        assert found == truth or said.startswith(f"{path}: "), (kind, found)
        tried()


@faults("damaged journal of trials", "noticed, with its line; a search makes it anew from its runs",
        quick=100, whole=1500)  # fmt: skip
def test_a_damaged_journal_is_refused_or_what_it_was(cases, tmp_path, tried):
    """Trials as they were told, the last line or those after a cut left out; else a refusal."""
    space = Space({"": {"lr": Range(1e-4, 1.0, True)}})

    def opened():
        return Search(tmp_path, space, method="random", budget=9, seed=0)

    with opened() as search:
        for value in (0.5, 0.7, 0.6):
            (trial,) = search.ask()
            search.tell(trial, value)
        truth = {t.number: (t.params, t.value) for t in search.trials("")}
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    for _, kind, data in mutations({path: whole}, cases, 5):
        path.write_bytes(data)
        found, error = attempt(lambda: told(opened()))
        if error:
            assert error.exit_code in (2, 4)
            assert JOURNAL in str(error)
        elif data.count(b'"crc"') == data.count(b"\n"):  # no older line, as Optuna writes it
            for number, (params, value) in found.items():
                assert params == truth[number][0], kind
                assert value in (None, truth[number][1]), kind
        tried()


def told(search):
    with search:
        return {t.number: (t.params, t.value) for t in search.trials("")}


def test_hydras_own_files_are_never_read(made, tmp_path):
    """Whatever stands in .hydra/: a resume goes by config.json alone."""
    shutil.copytree(made / "s" / "0", tmp_path / "run")
    (tmp_path / "run" / ".hydra").mkdir()
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (tmp_path / "run" / ".hydra" / name).write_bytes(b"\0[" * 100)
    told = command(tmp_path, "resume=run", "training.epochs=4", "tracking=local")
    assert "finished" in told
    assert [row["epoch"] for row in record.read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_damaged_study_is_made_anew_from_its_runs(sweep, tmp_path, monkeypatch):
    """The same command says so, and every run keeps its place."""
    words = ["hydra/sweeper=search", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "search.width=2",
             "training.epochs=1", "tracking=local", "sweep=s", "model.width=8"]  # fmt: skip
    assert sweep(*words, "search.runs=2")[0] == 0
    path = tmp_path / "outputs" / "sweeps" / "s" / record.STUDY
    before = record.read_study(path.parent)["runs"]
    path.write_bytes(path.read_bytes().replace(b'"default"', b'"defauld"', 1))
    (fault,) = read_sweep([path.parent]).faults
    assert fault.startswith("study.json: damaged, its SHA-256 is another")
    code, told = sweep(*words, "search.runs=3")
    assert code == 0, told
    assert "! study.json: damaged" in told
    assert "it is made anew from what its runs recorded" in told
    after = record.read_study(path.parent)["runs"]
    assert {n: place["role"] for n, place in before.items()} == {"0": "default", "1": "search"}
    assert before.items() <= after.items()
    assert len(after) == 3
