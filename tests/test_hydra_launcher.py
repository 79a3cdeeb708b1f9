"""Hydra's own suites for launchers, against hydra/launcher=stack."""

import pytest
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("stack", [])])
class TestStackLauncher(LauncherTestSuite):
    """Sweeps of an app that is not knobs."""


@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [
    ({}, ["-m", "hydra/launcher=stack", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled"])
])  # fmt: skip
class TestStackLauncherIntegration(IntegrationTestSuite):
    """Apps as processes: names, folders, working directories."""


@pytest.mark.parametrize(("launcher_name", "overrides"), [
    ("stack", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])
])  # fmt: skip
class TestStackLauncherInBatches(BatchedSweeperTestSuite):
    """Numbers go on from batch to batch."""
