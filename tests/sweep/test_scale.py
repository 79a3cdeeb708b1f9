"""Costs that must not grow with a sweep, as counts: never as times."""

import random

import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState, create_trial

from knobs import record, storage
from knobs.config import check, command
from knobs.errors import CheckpointError
from knobs.search import journal, methods, minutes
from knobs.search.pruning import Pruner
from knobs.search.space import Range, Space
from knobs.search.trials import Search
from knobs.sweep import jobs

LR = Range(1e-4, 1e-1, log=True)


def test_25_seeds_are_one_check(monkeypatch):
    built = []
    monkeypatch.setattr(check, "dry_build", lambda config: built.append(1) or [])
    jobs, faults = command.check_overrides(["seed=range(0,25)"], grid=True)
    assert (len(jobs), faults, len(built)) == (25, [], 1)


def test_each_job_of_a_large_grid_is_checked():
    """There is no number of jobs from which on they run unchecked."""
    lines = ["training.epochs=1,0", "seed=range(0,4100)"]  # the first 4,100 are sound
    _, faults = command.check_overrides(lines, grid=True)
    assert len(faults) == 1
    assert "training.epochs=0" in faults[0]
    assert "4100, 4101" in faults[0]


@pytest.mark.parametrize(
    "config",
    [
        {"a": {"b": [1, {"c": None}], "s": "yes", "t": "é \u2028 x", "n": "1e3"}, "d": []},
        {"a": 1, "b": True, "c": 1.0, "d": "1", "e": {}, "f": "two\nlines", "g": "x" * 200},
        ["a=1", "b='x y'"],
        {},
        [],
    ],
)
def test_configs_are_written_as_omegaconf_writes_them(tmp_path, config):
    for _ in range(2):  # its sections are known by the second time
        jobs._write(tmp_path / "config.yaml", OmegaConf.create(config))
        wanted = OmegaConf.to_yaml(OmegaConf.create(config))
        assert (tmp_path / "config.yaml").read_text() == wanted


def test_sections_that_differ_in_a_type_alone_are_written_apart(tmp_path):
    for value in (1, 1.0, True, "1"):
        jobs._write(tmp_path / "config.yaml", OmegaConf.create({"a": {"b": value}}))
        read = OmegaConf.load(tmp_path / "config.yaml").a.b
        assert (type(read), read) == (type(value), value)


def test_a_job_s_config_is_checked_by_content(monkeypatch):
    built = []
    monkeypatch.setattr(check, "dry_build", lambda config: built.append(1) or [])
    for seed in range(5):  # each resolved anew, as each job of a sweep does
        config, _ = command.check_overrides([f"seed={seed}"])
        mine = {name: node for name, node in config[0].items() if name != "hydra"}
        built.clear()
        assert check.check_job(mine) == []
        assert len(built) == (seed == 0)
    wrong = mine | {"training": mine["training"] | {"epochs": True}}  # 1 == True
    assert "training.epochs" in str(check.check_job(wrong))


def filled(folder, count):
    """Return a search of which so many trials have ended."""
    search = Search(folder, Space({"": {"lr": LR}}), method="random", budget=10 * count)
    drawn = random.Random(0)
    for run in range(count):
        about = {"phase": "random", "run": run, "process": "x", "status": "finished", "epochs": 1}
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=drawn.random(),
            params=methods.to_optuna({"lr": LR}, {"lr": LR.from_unit(drawn.random())}),
            distributions={"lr": methods.distribution(LR)},
            user_attrs=about | {"spans": minutes.begun([])},
        )
        search._storage.create_new_trial(search._arms[""], template_trial=trial)
    search.tell(search.ask()[0], 0.5)  # which looks at all of them
    return search


def test_an_ask_reads_what_is_new_alone(tmp_path, monkeypatch):
    counts = []
    for n in (20, 200):
        (folder := tmp_path / str(n)).mkdir()
        with filled(folder, n) as search:
            lines, seen = [], []
            read, values = journal._Checked.read_logs, methods.from_optuna

            def logs(self, start, read=read, lines=lines):
                for line in read(self, start):
                    lines.append(line)
                    yield line

            monkeypatch.setattr(journal._Checked, "read_logs", logs)
            monkeypatch.setattr(
                methods, "from_optuna", lambda *a, v=values, s=seen: s.append(1) or v(*a)
            )
            before = (folder / record.JOURNAL).stat().st_size
            for _ in range(3):
                search.tell(search.ask()[0], 0.5)
            monkeypatch.undo()
            counts.append((len(lines), len(seen)))
            assert (folder / record.JOURNAL).stat().st_size - before < 10_000
    assert counts[0] == counts[1]


def test_places_are_appended_and_read_with_study_json(tmp_path):
    storage.write(tmp_path / record.STUDY, record.sealed({"schema": 4, "runs": {"0": {"arm": ""}}}))
    whole, sizes = (tmp_path / record.STUDY).read_bytes(), []
    for run in (1, 2, 3):
        record.append_places(tmp_path, {run: {"arm": "a", "role": "search", "phase": "sobol"}})
        sizes.append((tmp_path / record.PLACES).stat().st_size)
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0]
    with (tmp_path / record.PLACES).open("ab") as file:
        file.write(b'{"run": 4, "arm"')  # a killed process
    record.append_places(tmp_path, {5: {"arm": "a", "role": "search", "phase": "gp"}})
    runs = record.read_study(tmp_path)["runs"]
    assert [*runs] == ["0", "1", "2", "3", "5"]
    assert runs["5"]["phase"] == "gp"
    assert (tmp_path / record.STUDY).read_bytes() == whole


def test_a_rung_reads_each_line_once_and_ranks_as_before(tmp_path, monkeypatch):
    parsed, of_line = [], storage.of_line
    monkeypatch.setattr(storage, "of_line", lambda line: parsed.append(1) or of_line(line))
    pruner, values, drawn = Pruner("asha", tmp_path), {}, random.Random(1)
    for run in range(60):
        values[run] = drawn.random()
        best = sorted(values.values(), reverse=True)[max(0, len(values) // 3 - 1)]
        stops = pruner.stops({run: values[run]}, 2, 40)
        assert stops == ({run} if len(values) >= 3 and values[run] < best else set())
    assert len(parsed) == 59


@pytest.mark.parametrize("keep", ["all", "best"])
def test_keep_best_leaves_the_best_weights_alone(tmp_path, keep):
    from knobs.config.command import checked
    from knobs.training.checkpoint import load
    from knobs.training.run import execute

    lines = ["tracking=local", "model.width=4", "training.epochs=2", f"training.keep={keep}"]
    outcome = execute(checked(lines), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert outcome.status == "finished"
    assert ("last.safetensors" in names) == (keep == "all")
    if keep == "best":
        fault = "trained with training.keep=best, which removes what a resume needs.*keep=all"
        with pytest.raises(CheckpointError, match=fault):
            execute(checked([*lines, f"resume={tmp_path / 'run'}"]), tmp_path / "run")
        assert names == {"best.safetensors", "manifest.json"}
        assert not record.resumable(tmp_path / "run")
    assert sum(p.numel() for p in load(tmp_path / "run").parameters()) > 0
