"""Signals before the first step, between two steps, and twice: a record that tells the truth."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import processes
import pytest
from injected import assert_clean, assert_no_orphans, bits, command, faults
from trained import ENV, TRAIN

from knobs import build, ledger, record
from knobs.errors import ended
from knobs.signals import STOPPED, Stopped, stop_signals
from knobs.stack import loop as stack
from knobs.sweep import jobs, launch
from knobs.training import loop, session
from knobs.training import run as running

SMALL = ["model.width=4", "training.batch_size=512", "training.epochs=3"]  # 3 steps an epoch
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


def test_exit_codes_are_128_and_the_number():
    assert {130, 143, 129, 138} == STOPPED


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_noted_a_second_one_ends_what_runs(number):
    before = signal.getsignal(number)
    with stop_signals() as received:
        signal.raise_signal(number)
        assert received == [number]
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.code == 128 + number
        signal.raise_signal(number)  # while what is left is written down
    assert signal.getsignal(number) is before
    with stop_signals(at_once=True), pytest.raises(SystemExit) as stopped:
        signal.raise_signal(number)
    assert stopped.value.code == 128 + number


@pytest.mark.parametrize("number", NUMBERS)
def test_every_command_ends_with_its_number_whatever_an_error_on_the_way_says(number, capfd):
    def command():
        try:
            signal.raise_signal(number)
        finally:
            raise TypeError("of a library that was about to end its own work")

    before = signal.getsignal(number)
    assert ended(command) == 128 + number
    assert capfd.readouterr().err == "\ninterrupted\n"
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_is_still_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_during_an_import_waits_for_its_end(tmp_path, monkeypatch):
    """As torch does: it imports numpy in C, drops what that raises, and goes on with half of it."""
    inside = "import signal\nsignal.raise_signal(signal.SIGTERM)\nwhole = True\n"
    (tmp_path / "half_a_module.py").write_text(inside)
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGALRM)
    with stop_signals(at_once=True) as received:
        with contextlib.suppress(BaseException):
            import half_a_module
        assert half_a_module.whole
        assert received == [signal.SIGTERM]
        with pytest.raises(Stopped) as stopped:
            time.sleep(10)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def raising(real, *numbers):
    """The same function, after these signals."""

    def call(*arguments, **named):
        for number in numbers:
            signal.raise_signal(number)
        return real(*arguments, **named)

    return call


def ended_with(run):
    """The exit code of a run, which a signal may end at once."""
    try:
        return run().exit_code
    except Stopped as stopped:
        return stopped.code


@faults("a signal before the first step", "nothing, or a record to resume; 128 + number", 12)
def test_a_signal_before_the_first_step(cases, train, tmp_path, monkeypatch, tried):
    places = [(build, "data"), (session, "assemble"), (running, "mirror"), (loop, "train_epoch")]
    for case in range(cases):
        (module, name), number = places[case % 4], NUMBERS[case // 4]
        folder = tmp_path / str(case)
        with monkeypatch.context() as patched:
            patched.setattr(module, name, raising(getattr(module, name), number))
            code = ended_with(lambda name=folder.name: train(*SMALL, folder=name))
        assert code == 128 + number
        begun = (folder / "config.json").exists()
        assert begun == (case % 4 >= 2)  # once the record begins
        assert not begun or record.read_summary(folder)["status"] == "interrupted"
        assert begun or [*folder.glob("*")] == []
        again = [f"resume={folder}"] * begun
        assert train(*SMALL, *again, folder=folder.name).status == "finished"
        assert record.read_summary(folder)["epochs"] == 3
        tried()


@faults("a second signal", "summary.json says interrupted; it can be resumed", 6)
def test_a_second_signal_still_leaves_a_summary(cases, train, tmp_path, monkeypatch, tried):
    places = [
        (loop, "train_step"), (session.Session, "save"), (session, "_summary"),
        (session.Session, "_keep_predictions"), (record, "as_json"), (session, "summarized"),
    ]  # fmt: skip
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    for case, (module, name) in enumerate(places[:cases]):
        folder, real, done, loops = tmp_path / str(case), getattr(module, name), [], []
        watch = session.Screen.step

        def twice(*arguments, real=real, done=done, loops=loops, **named):
            if not done and loops:
                done.append(1)
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            return real(*arguments, **named)

        def step(screen, run, watch=watch, loops=loops):
            watch(screen, run)
            if run.progress.step == 4:
                loops.append(1)

        with monkeypatch.context() as patched:
            patched.setattr(module, name, twice)
            patched.setattr(session.Screen, "step", step)
            with pytest.raises(Stopped) as stopped:
                train(*SMALL, folder=folder.name)
        assert stopped.value.code == 143
        summary = record.read_summary(folder)
        assert summary["status"] in ("interrupted", "finished")
        assert not record.held(folder)
        assert train(*SMALL, f"resume={folder}", folder=folder.name).status == "finished"
        assert [row["epoch"] for row in record.read_metrics(folder)] == [1, 2, 3]
        assert sorted(folder.rglob("*.partial")) == []
        tried()


def saved_every_step(monkeypatch, after):
    """Make every step's checkpoint due; `after` gets the session when one is saved in an epoch."""
    monkeypatch.setattr(session, "STEP_SECONDS", -1.0)
    monkeypatch.setattr(session, "SAVE_SHARE", 0)
    keep = session.Session.keep

    def kept(self, run):
        keep(self, run)
        after(self)

    monkeypatch.setattr(session.Session, "keep", kept)


class Killed(Stopped):
    """The end of a process, of which nothing is written down: `abandon` is to do nothing."""

    def __init__(self):
        super().__init__(signal.SIGKILL)


@pytest.mark.parametrize("members", [1, 2])
def test_a_run_killed_within_an_epoch_goes_on_from_the_last_step(
    members, train, tmp_path, monkeypatch
):
    words = [*SMALL, "training.batch_size=200", f"training.members={members}"]
    train(*words, folder="whole")
    saves = []

    def kill(under_way):
        saves.append(1)
        if len(saves) == 9:
            under_way.record.release()  # as the system does
            raise Killed

    with monkeypatch.context() as patched:
        saved_every_step(patched, kill)
        patched.setattr(session.Session, "abandon", lambda *_: None)
        with pytest.raises(Killed):
            train(*words)
    state = session.checkpoint.load_last(tmp_path / "run" / "checkpoints")
    assert state["progress"]["step"] == 9
    assert state["progress"]["batch"] > 0
    train(*words, f"resume={tmp_path / 'run'}")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_stack_killed_within_an_epoch_goes_on_from_the_last_step(sweep, tmp_path, monkeypatch):
    words = ["seed=0,1,2", *SMALL, "training.batch_size=200"]
    assert sweep("sweep=whole", *words)[0] == 0
    saves, under_way = [], set()
    with monkeypatch.context() as patched:
        patched.setattr(session, "STEP_SECONDS", -1.0)
        patched.setattr(session, "SAVE_SHARE", 0)
        patched.setattr("knobs.sweep.together.SAVE_SECONDS", -1.0)
        save = session.Session.save

        def count(self, *arguments, **named):
            save(self, *arguments, **named)
            saves.append(self.run.progress.step)
            under_way.add(self)
            if len(saves) == 3 * 9:  # a checkpoint a step, and one more at an epoch's end
                for one in under_way:
                    one.record.release()
                raise Killed

        patched.setattr(session.Session, "save", count)
        patched.setattr(session.Session, "abandon", lambda *_: None)
        assert sweep("sweep=s", *words)[0] == 128 + signal.SIGKILL
    folder = tmp_path / "outputs" / "sweeps"
    assert saves[-1] == 8
    code, told = sweep("sweep=s", *words)
    assert code == 0, told
    assert "3 runs begun before, continued" in told
    for k in range(3):
        assert bits(folder / "s" / str(k)) == bits(folder / "whole" / str(k))


@pytest.mark.parametrize("search", [False, True], ids=["grid", "search"])
def test_a_signal_between_two_stacks_is_heeded(search, sweep, monkeypatch):
    """Where no job is under way that could say so."""
    words = ["sweep=s", "hydra.launcher.width=1", *SMALL, "training.epochs=1"]
    words += ["optimizer.lr=tag(log,interval(1e-3,1e-1))"] if search else ["seed=0,1,2"]
    words += ["hydra/sweeper=search", "search.runs=3"] if search else []
    whole, runs = launch.Launch.run, []

    def once(self, jobs):
        whole(self, jobs)
        runs.extend(jobs)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(launch.Launch, "run", once)
        code, told = sweep(*words)
    assert code == 143, told
    assert "interrupted; go on with: " in told
    assert len(runs) == 1
    code, told = sweep(*words)
    assert code == 0, told
    found = sorted(path.name for path in Path("outputs/sweeps/s").glob("[0-9]*"))
    assert found == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("place", "left"), [((jobs.Job, "begin"), 3), ((launch, "Session"), 4)], ids=["begin", "open"]
)
def test_after_a_signal_no_further_job_of_a_stack_begins(place, left, sweep, monkeypatch):
    """Of a stack of thousands they would take a minute."""
    words, made = ["sweep=s", *SMALL, "training.epochs=1", "seed=range(0,8)"], []
    real = getattr(*place)

    def fourth(*arguments):
        made.append(1)
        if len(made) == 4:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(*place, fourth)
        code, told = sweep(*words)
    assert code == 143, told
    assert "interrupted; go on with: " in told
    assert len(made) == 4
    folder = Path("outputs/sweeps/s")
    assert len(list(folder.glob("[0-9]"))) == left
    code, told = sweep(*words)
    assert code == 0, told
    assert [ledger.status(folder / str(run)) for run in range(8)] == ["finished"] * 8


@faults("a signal to a sweep or a search", "interrupted; the same command goes on", 3, 12)
def test_a_sweep_stopped_twice_goes_on(cases, sweep, tmp_path, monkeypatch, tried):
    search = ["hydra/sweeper=search", "search.runs=3", "optimizer.lr=tag(log,interval(1e-3,1e-1))"]
    kinds = [["seed=0,1"], ["seed=0,1", "hydra/launcher=basic"], search]
    for case in range(cases):
        words = [f"sweep=s{case}", *kinds[case % 3], *SMALL]
        first, done = NUMBERS[1 + case // 3 % 3], []
        folder = tmp_path / "outputs" / "sweeps" / f"s{case}"

        def twice(real, first=first, done=done, folder=folder):
            def call(*arguments):
                if not done and any(folder.glob("*/config.json")):  # else a plan is timed
                    done.append(1)
                    signal.raise_signal(first)
                    signal.raise_signal(signal.SIGTERM)
                return real(*arguments)

            return call

        with monkeypatch.context() as patched:
            patched.setattr(loop, "train_step", twice(loop.train_step))
            patched.setattr(stack, "train_step", twice(stack.train_step))
            code, told = sweep(*words)
        assert code == 128 + first, told
        assert "Traceback" not in told
        assert "go on with" in told
        runs = sorted(folder.glob("[0-9]*/config.json"))
        assert runs
        for path in runs:
            assert record.ended(path.parent).status == "interrupted"
        code, told = sweep(*words)
        assert code == 0, told
        for path in runs:
            assert record.ended(path.parent).status == "finished"
        tried()


@faults("a signal to the process", "nothing or an interrupted record; 128 + number", 2, 40)
def test_a_process_stopped_at_any_moment(cases, tmp_path, tried):
    """From its start to its steps: the exit code, no traceback, and the same command or resume."""
    for case in range(cases):
        number, folder = NUMBERS[case % 4], tmp_path / str(case)
        words = ["model.width=4", "training.epochs=100000", f"hydra.run.dir={folder}",
                 "training.early_stopping.patience=3", "tracking=local"]  # fmt: skip
        process = processes.start([*TRAIN, *words], tmp_path, ENV)
        place, late = (folder, folder / "config.json")[case % 2], time.monotonic() + 60
        while not place.exists() and time.monotonic() < late and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.05 * (case // 4))
        os.kill(process.pid, number)
        told = "".join(process.communicate(timeout=60))
        assert process.returncode in (128 + number, 0), told
        assert_clean(told, tmp_path)
        assert_no_orphans(process.pid)
        if (folder / "config.json").exists():
            assert record.ended(folder).status in ("interrupted", "stopped_early")
            told = command(tmp_path, f"resume={folder}")
        else:
            told = command(tmp_path, *words)
        assert record.ended(folder).status == "stopped_early", told
        tried()


@faults("Ctrl-C while the program is imported", "no word, ended by SIGINT (130)", 3)
def test_ctrl_c_before_anything_is_imported(cases, tmp_path, tried):
    """From train.py's first lines on: before them Python itself answers."""
    for name in ("hydra", "omegaconf", "knobs")[:cases]:
        place = tmp_path / name / name
        place.mkdir(parents=True)
        slow = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
        (place / "__init__.py").write_text(slow)
        path = os.pathsep.join([str(place.parent), ENV.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [*TRAIN, "tracking=local"], cwd=tmp_path, env=ENV | {"PYTHONPATH": path}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout.readline() == "importing\n"
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=30)
        assert told == ("", "")
        assert process.returncode == -signal.SIGINT  # which a shell calls 130
        tried()


def test_an_error_that_comes_of_a_signal_is_that_signal():
    """As OmegaConf raises one of its own where it puts a config back together."""

    def put_back():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")

    with pytest.raises(Stopped) as stopped, stop_signals(at_once=True):
        put_back()
    assert stopped.value.code == 143
    with pytest.raises(AttributeError), stop_signals(at_once=False):
        put_back()  # noted, and not raised: the error is one

    def told():
        try:
            signal.raise_signal(signal.SIGINT)
        except Stopped as error:
            raise SystemExit(error.code) from None

    with pytest.raises(SystemExit) as ended, stop_signals(at_once=True):
        told()
    assert (type(ended.value), ended.value.code) == (SystemExit, 130)


def test_a_run_whose_step_raises_as_it_is_stopped_is_interrupted(train, tmp_path, monkeypatch):
    def step(*_):
        try:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise AttributeError("half of it")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", step)
        with pytest.raises(Stopped) as stopped:
            train(*SMALL)
    assert stopped.value.code == 143
    assert record.read_summary(tmp_path / "run")["status"] == "interrupted"
    assert train(*SMALL, f"resume={tmp_path / 'run'}").status == "finished"
