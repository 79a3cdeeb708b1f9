"""Copies of configs are OmegaConf's own, node for node."""

import copy

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from knobs.config import command
from knobs.config.copies import copied, part, plain, resolved


@pytest.fixture(scope="module")
def composed():
    command.check_overrides(["optimizer=adam", "seed=1,2"], grid=True)
    with initialize_config_dir(str(command.CONF), version_base="1.3"):
        config = command.LAST.composer([command.MULTIRUN, "optimizer=adam", "seed=1"])
    OmegaConf.set_readonly(config.hydra, True)
    return config


def described(node, parent=None, path=""):
    """Yield what a node is: its class, its flags and the rest of its metadata, its value."""
    state = dict(node.__dict__)
    assert state.pop("_parent") is parent, path
    state.pop("_flags_cache", None)  # filled in where it is asked for
    inner = state.pop("_content", None)
    yield path, type(node), sorted((k, str(v)) for k, v in state.items())
    if isinstance(node, DictConfig) and isinstance(inner, dict):
        for key, child in inner.items():
            yield from described(child, node, f"{path}.{key}")
    elif isinstance(node, ListConfig) and isinstance(inner, list):
        for index, child in enumerate(inner):
            yield from described(child, node, f"{path}.{index}")
    else:
        yield path, inner


def test_a_copy_is_that_of_deepcopy_and_shares_no_node(composed):
    twin = copied(composed)
    assert list(described(twin)) == list(described(copy.deepcopy(composed)))
    before = OmegaConf.to_container(composed, resolve=False)
    with open_dict(twin):
        twin.seed, twin.optimizer.lr, twin.new = 7, 0.5, {"a": [1]}
    assert OmegaConf.to_container(composed, resolve=False) == before
    assert (twin.seed, twin.optimizer.lr, twin.new.a[0]) == (7, 0.5, 1)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_part_is_that_of_masked_copy(composed, hidden):
    keys = ["hydra"] if hidden else [key for key in composed if key != "hydra"]
    mine, theirs = part(composed, keys), OmegaConf.masked_copy(composed, keys)
    assert list(described(mine)) == list(described(theirs))
    flags = [(c._get_flag("struct"), c._get_flag("readonly")) for c in (mine, theirs)]
    assert flags[0] == flags[1]


def test_plain_data_are_those_of_to_container(composed):
    theirs = OmegaConf.to_container(composed, resolve=False, enum_to_str=True)
    assert repr(plain(composed)) == repr(theirs)
    assert plain(OmegaConf.create({"a": None, "b": "${a}", "c": [1, "???"], "d": {}})) == {
        "a": None, "b": "${a}", "c": [1, "???"], "d": {},
    }  # fmt: skip


def test_resolved_data_are_those_of_to_container(composed, monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)
    config = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
    with open_dict(config):
        config.odd = {"n": None, "list": [1, "${seed}", ["${..0}"]], "whole": "${optimizer}"}
        config.odd.text = r"\${seed} and ${seed}"
        config.alias = "${odd.list}"
    theirs = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert repr(resolved(config)) == repr(theirs)
    assert theirs["odd"]["text"] == "${seed} and 1"
    twice = resolved(config)
    twice["odd"]["whole"]["lr"] = 7
    assert resolved(config) == theirs


@pytest.mark.parametrize("value", ["???", "${nowhere}", "${a}", ["???"], "${no_such:1}"])
def test_what_does_not_resolve_is_told_as_omegaconf_tells_it(value):
    config, told = OmegaConf.create({"a": value}), []
    for way in (resolved, lambda c: OmegaConf.to_container(c, resolve=True, throw_on_missing=True)):
        with pytest.raises((OmegaConfBaseException, RecursionError)) as error:
            way(config)
        told.append((type(error.value), str(error.value)))
    assert told[0] == told[1]
