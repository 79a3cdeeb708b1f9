"""Hydra's own suites for launchers, against hydra/launcher=stack."""

import os
import sys
from types import SimpleNamespace

import processes
import pytest
from hydra import version
from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from hydra.test_utils import test_utils
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

from knobs.config import command
from knobs.errors import ConfigError


@pytest.fixture(autouse=True)
def no_version_base(monkeypatch):
    """As in the apps of the suites, which name none, whatever other tests have set."""
    base = version.VersionBase.instance()
    monkeypatch.setattr(base, "version_base", version.__compat_version__)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("stack", [])])
class TestStackLauncher(LauncherTestSuite):
    """Sweeps of an app that is not knobs."""


@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [
    ({}, ["-m", "hydra/launcher=stack", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled"])
])  # fmt: skip
class TestStackLauncherIntegration(IntegrationTestSuite):
    """Apps as processes: names, folders, working directories."""

    @pytest.fixture(autouse=True)
    def forked(self, monkeypatch):
        """The apps are forked from a process that has imported torch, 3 s each otherwise."""

        def check_call(command, env):
            done = processes.run(command, os.getcwd(), env)
            assert done.returncode == 0, done.stderr

        monkeypatch.setattr(test_utils, "subprocess", SimpleNamespace(check_call=check_call))


@pytest.mark.parametrize(("launcher_name", "overrides"), [
    ("stack", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])
])  # fmt: skip
class TestStackLauncherInBatches(BatchedSweeperTestSuite):
    """Numbers go on from batch to batch."""


class Ends(Callback):
    """Collects how jobs end."""

    jobs: list = []  # noqa: RUF012

    def on_job_end(self, config, job_return, **_):
        self.jobs.append((job_return.status, repr(job_return._return_value)))


def test_a_job_that_raises_or_exits_ends_alone(
    hydra_sweep_runner, hydra_restore_singletons, tmpdir, monkeypatch
):
    def task(cfg):
        if cfg.a == 1:
            raise ValueError("one")
        if cfg.a == 2:
            sys.exit(3)
        return cfg.a

    monkeypatch.setattr(command.LAST, "composer", None)  # as in an app that is not knobs
    monkeypatch.setattr(Ends, "jobs", [])
    sweep = hydra_sweep_runner(
        None, "hydra.test_utils.a_module", task, "configs", "compose.yaml",
        ["hydra/launcher=stack", "hydra/sweeper=grid", "+a=0,1,2,3",
         f"+hydra.callbacks.ends._target_={__name__}.Ends"], tmpdir,
    )  # fmt: skip
    with pytest.raises(SystemExit) as end, sweep:
        pass
    assert end.value.code == 10
    assert Ends.jobs == [
        (JobStatus.COMPLETED, "0"),
        (JobStatus.FAILED, "ValueError('one')"),
        (JobStatus.FAILED, "SystemExit(3)"),
        (JobStatus.COMPLETED, "3"),
    ]


# Of the suites, what runs an app that is not knobs.
OTHER_APPS = {
    *("test_sweep_1_job", "test_sweep_2_jobs", "test_not_sweeping_hydra_overrides"),
    *("test_sweep_1_job_strict", "test_sweep_2_optimizers", "test_sweep_and_override"),
    *("test_sweep_over_unspecified_mandatory_default", "test_sweep_with_custom_resolver"),
}


@pytest.mark.parametrize(("launcher_name", "overrides"), [
    ("slurm", ["hydra.launcher.cluster=debug"]),
    pytest.param("ray", [], marks=pytest.mark.slow),
])  # fmt: skip
class TestWorkersLauncher(LauncherTestSuite):
    """What of the suite does not run the jobs of another app."""

    @pytest.fixture(autouse=True)
    def of_knobs(self, request):
        name = request.node.originalname
        if name in OTHER_APPS:
            pytest.skip(
                f"{name} runs another app: a worker runs train.py's function alone, by name"
            )


def test_workers_refuse_jobs_of_another_app(
    hydra_sweep_runner, hydra_restore_singletons, tmpdir, monkeypatch
):
    monkeypatch.setattr(command.LAST, "composer", None)
    monkeypatch.setattr(command.LAST, "source", None)
    sweep = hydra_sweep_runner(
        None, "hydra.test_utils.a_module", lambda cfg: 1, "configs", "compose.yaml",
        ["hydra/launcher=slurm", "hydra.launcher.cluster=debug", "hydra/sweeper=basic", "+a=0,1"],
        tmpdir,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"runs jobs of knobs' train\.py alone"), sweep:
        pass
