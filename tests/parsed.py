"""What Hydra reads, once a process: it composes a run three times, and looks for each file in turn.

The forks of a process have what it has parsed. What a text holds depends on nothing else; the
files of conf/ and of Hydra stay as they are while tests run.
"""

import copy
import functools
from pathlib import Path
from types import SimpleNamespace

import yaml
from hydra import conf
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, _utils, basecontainer, omegaconf

CONF = Path(__file__).parents[1] / "conf"
STAYS = {str(CONF), conf.__name__}  # as sources name them
kept = {}


def load(stream, Loader):  # yaml's name
    """yaml.load, for texts that are new; a text at fault is read again, for its message."""
    text = stream if isinstance(stream, str | bytes) else stream.read()
    if text not in kept:
        if text is not stream:
            stream.seek(0)
        kept[text] = yaml.load(stream, Loader)
    return copy.deepcopy(kept[text])


def looked(look):
    """A source's is_config or is_group, asked once of each file in a folder that stays as it is."""

    def once_each(source, config_path):
        if source.path not in STAYS:
            return look(source, config_path)
        key = look, source.path, config_path
        if key not in kept:
            kept[key] = look(source, config_path)
        return kept[key]

    return once_each


def once():
    """Let OmegaConf parse each text once, and Hydra look for each file of conf/ and its own once."""
    for kind in (FileConfigSource, ImportlibResourcesConfigSource):
        for name in ("is_config", "is_group"):
            setattr(kind, name, looked(getattr(kind, name)))
    loader = functools.cache(_utils.get_yaml_loader)
    for module in (_utils, basecontainer):
        module.get_yaml_loader = loader
    for module in (basecontainer, omegaconf):
        module.yaml = SimpleNamespace(**vars(yaml) | {"load": load})


def ahead():
    """Parse what most commands read: the files of conf/ and of Hydra, and words of a command line."""
    for folder in (CONF, Path(conf.__path__[0])):
        for path in folder.rglob("*.yaml"):
            OmegaConf.load(path)
    OverridesParser.create().parse_overrides(["optimizer.lr=1e-3,2", "+a.b=[c,'d']", "a={b:c}"])
    OmegaConf.to_container(OmegaConf.create({"a": "${b}-1", "b": 1}), resolve=True)
