"""YAML as OmegaConf reads it, each text parsed once a process: Hydra composes a run three times.

The forks of a process have what it has parsed. What a text holds depends on nothing else.
"""

import copy
import functools
from pathlib import Path
from types import SimpleNamespace

import yaml
from hydra import conf
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, _utils, basecontainer, omegaconf

CONF = Path(__file__).parents[1] / "conf"
kept = {}


def load(stream, Loader):  # yaml's name
    """yaml.load, for texts that are new; a text at fault is read again, for its message."""
    text = stream if isinstance(stream, str | bytes) else stream.read()
    if text not in kept:
        if text is not stream:
            stream.seek(0)
        kept[text] = yaml.load(stream, Loader)
    return copy.deepcopy(kept[text])


def once():
    """Let OmegaConf parse each text once."""
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
