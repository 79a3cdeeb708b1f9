"""hydra/sweeper=grid, a grid that resumes and ends in a leaderboard, and hydra/sweeper=search."""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """A thin adapter: knobs.sweep.grid does the work, with any launcher.

    Args:
        params: of a grid written down in a file; knobs.config.files has made overrides of them.
    """

    def __init__(self, params: dict[str, Any] | None = None):
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from knobs.sweep.grid import sweep

        return sweep(arguments, self.launcher, self.context, self.config)


class SearchSweeper(GridSweeper):
    """A thin adapter: knobs.sweep.study does the work, with any launcher."""

    def sweep(self, arguments: list[str]) -> Any:
        from knobs.sweep.study import search

        return search(arguments, self.launcher, self.context, self.config)


# What varies stands on the command line or in `params`, what is tried in `search` and a study.
for _name, _class in (("grid", GridSweeper), ("search", SearchSweeper)):
    _node = {"_target_": f"{__name__}.{_class.__name__}", "params": None}
    ConfigStore.instance().store(group="hydra/sweeper", name=_name, node=_node, provider="knobs")
