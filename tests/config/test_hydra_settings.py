"""What of Hydra's own section a config may choose: nothing that runs code, or writes elsewhere."""

import pytest

from knobs.config import command, hydra_settings
from knobs.config.rules import CONF

REFUSED = [
    ("hydra.job.env_set.PATH=/x", "hydra.job.env_set.PATH: not allowed; a config may set OMP_NUM"),
    ("+hydra.job.env_set={GIT_CONFIG_COUNT:1}", "hydra.job.env_set.GIT_CONFIG_COUNT: not allowed"),
    ("+hydra.job.env_set.WANDB_BASE_URL=http://x", "hydra.job.env_set.WANDB_BASE_URL: not allowed"),
    ("++hydra.job.env_set.LD_LIBRARY_PATH=x", "hydra.job.env_set.LD_LIBRARY_PATH: not allow"),
    ("+hydra.job.env_set.omp_num_threads=1", "hydra.job.env_set.omp_num_threads: not allowed"),
    ("+hydra.job.env_set.KNOBS_ALLOW=os.", "a config cannot admit code; export it instead"),
    ("hydra.job.env_copy=[WANDB_API_KEY]", "hydra.job.env_copy.WANDB_API_KEY: not allowed"),
    ("hydra.job.env_copy=HOME", "hydra.job.env_copy.HOME: not allowed"),
    ("hydra.job={env_set:{PATH:x}}", "of hydra a config may set hydra.run.dir, hydra.sweep.dir"),
    ("hydra/env=mine", "of hydra a config may set"),
    ("hydra.job.config.override_dirname.item_sep=/", "of hydra a config may set"),
    ("hydra.runtime.choices.model=cnn", "of hydra a config may set"),
    ("hydra.overrides.task=[x]", "of hydra a config may set"),
    ("hydra.help.template=x", "of hydra a config may set"),
    ("hydra.job_logging.handlers.file.filename=/x", "choose hydra/job_logging=knobs|default|"),
    ("hydra.hydra_logging.root.level=DEBUG", "choose hydra/hydra_logging=knobs|default|"),
    ("hydra/hydra_logging=hydra_debug", "choose hydra/hydra_logging=knobs|default|"),
    ("hydra.job.name=../x", "hydra.job.name=../x: must be a name of letters, digits"),
    ("hydra.job.name=/tmp/x", "hydra.job.name=/tmp/x: must be a name of letters, digits"),
    ("hydra.output_subdir=../x", "hydra.output_subdir=../x: must be .hydra or null"),
    ("hydra.searchpath=[pkg://antigravity]", "pkg://antigravity: not allowed; must be local fold"),
    ("hydra.searchpath=[structured://x]", "structured://x: not allowed; must be local folders"),
    ("+hydra.callbacks.x._target_=hydra.experimental.callbacks.PickleJobInfoCallback", "not allowe"),
    ("+hydra.callbacks.x._target_=hydra_plugins.knobs_launcher.StackLauncher", "KNOBS_ALLOW admit"),
    ("hydra.launcher._target_=hydra_plugins.other.Launcher", "not allowed here; targets of hydra"),
]  # fmt: skip
ALLOWED = [
    "hydra.run.dir=here", "hydra.verbose=true", "hydra.verbose=[knobs]", "hydra.job.name=log",
    "+hydra.job.env_set.OMP_NUM_THREADS=1", "+hydra.job.env_set={WANDB_MODE:offline,TZ:UTC}",
    "hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/job_logging=default",
    "hydra/hydra_logging=none", "hydra/launcher=joblib", "hydra/sweeper=basic",
    "hydra.job.chdir=true",
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), REFUSED)
def test_refused_by_name_with_what_is_allowed(line, told):
    _, faults = command.check_overrides([line])
    assert len(faults) == 1
    assert told in faults[0]


@pytest.mark.parametrize("line", ALLOWED)
def test_what_does_no_harm_is_allowed(line):
    assert command.check_overrides([line])[1] == []


HYDRA = {
    "env_set: {PYTHONPATH: /x}": "",
    "job: {env_set: {PYTHONPATH: /x}}": "hydra.job.env_set.PYTHONPATH: not allowed",
    "job: {env_set: {LD_PRELOAD: /x}}": "hydra.job.env_set.LD_PRELOAD: not allowed",
    "job: {env_copy: [LD_PRELOAD]}": "",
    "job: {config: {override_dirname: {item_sep: /}}}": "override_dirname=",
    "output_subdir: /tmp/x": "hydra.output_subdir=/tmp/x: must be",
    "job: {name: ../x}": "hydra.job.name=../x: must be",
    "callbacks: {x: {_target_: os.system}}": "hydra.callbacks.x._target_=os.system: not allowed",
    "job_logging: {handlers: {file: {filename: /x}}}": "hydra.job_logging.handlers.file.",
    "job_logging: {handlers: {x: {class: os.system}}}": "choose hydra/job_logging=",
    "hydra_logging: {filters: {x: {(): os.system}}}": "choose hydra/hydra_logging=",
    "sweeper: {params: {hydra.job.env_set.PATH: x}}": "hydra.sweeper.params.hydra.job.env_set.PATH",
}


@pytest.mark.parametrize(("yaml", "told"), HYDRA.items())
def test_a_yaml_of_ones_own_may_do_no_more(yaml, told, tmp_path, monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\n# Mine.\nhydra:\n  {yaml}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    _, faults = command.check_overrides(["experiment=mine"], [CONF, tmp_path])
    assert len(faults) == 1
    assert told in faults[0]


def test_a_primary_config_of_ones_own_searches_folders_alone(tmp_path, monkeypatch):
    (tmp_path / "evilpkg").mkdir()
    mark = tmp_path / "ran"
    (tmp_path / "evilpkg" / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for place, says in (("pkg://evilpkg", 1), (f"file://{CONF}", 0), (str(CONF), 0)):
        text = f"defaults:\n  - _self_\n\nhydra:\n  searchpath: ['{place}']\n"
        (tmp_path / "mine.yaml").write_text(text)
        _, faults = command.check_overrides([], [tmp_path], "mine")
        assert len([fault for fault in faults if "hydra.searchpath=pkg://" in fault]) == says
    assert not mark.exists()


def test_a_study_may_do_no_more(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(
        "# Mine.\nquestion: Which?\nscientific: {activation: [relu, gelu]}\n"
        "space: {optimizer.lr: {low: 1e-3, high: 1e-2, scale: log}}\nruns: 4\nseeds: 1\n"
        "set: [+hydra.job.env_set.PATH=/x]\n"
    )
    _, faults = command.check_overrides(["+study=mine"], [CONF, tmp_path], grid=True)
    assert "hydra.job.env_set.PATH: not allowed" in faults[0]


def test_no_variable_on_the_list_holds_a_secret_or_names_code():
    for name in hydra_settings.VARIABLES:
        assert not name.endswith(("_KEY", "_TOKEN", "_URL", "PATH", "_DIR"))
        assert not name.startswith(("PYTHON", "LD_", "GIT_", "DYLD_"))
