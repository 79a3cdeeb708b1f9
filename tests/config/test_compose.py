"""Composing a job from what was composed before gives what Hydra composes, to the last key."""

import inspect
import itertools
import re
import shutil

import pytest
from conftest import REPO
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from knobs.config import command, overrides, resolvers
from knobs.config.check import check
from knobs.config.compose import Composer

CONF = REPO / "conf"


class Spy:
    """Hydra's compose, and how often it was asked."""

    def __init__(self):
        self.count = 0

    def __call__(self, overrides):
        self.count += 1
        return compose("config", overrides, return_hydra_config=True)


@pytest.fixture
def spy():
    return Spy()


@pytest.fixture
def composer(spy):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield Composer(spy, [CONF])


def own_conf(tmp_path, **files):
    """A copy of conf/ with files of one's own: path with `__` for `/` -> text."""
    folder = tmp_path / "conf"
    shutil.copytree(CONF, folder)
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def resolved(cfg):
    """Everything resolved, with stand-ins for what the clock and a job's start fill in."""
    with open_dict(cfg):
        cfg.hydra.run.dir = cfg.hydra.sweep.dir = cfg.hydra.runtime.output_dir = "there"
        cfg.hydra.job.num = cfg.hydra.job.id = 0
    HydraConfig.instance().set_config(cfg)
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    finally:
        HydraConfig.instance().cfg = None


def assert_same(got, wanted):
    """Equal values, types, order of keys, and flags; raw and resolved."""
    assert OmegaConf.to_container(got, resolve=False) == OmegaConf.to_container(
        wanted, resolve=False
    )
    assert OmegaConf.to_yaml(got) == OmegaConf.to_yaml(wanted)
    assert OmegaConf.is_struct(got)
    for path in ("hydra", "hydra.overrides", "hydra.runtime.choices", "optimizer", "scheduler"):
        one, other = OmegaConf.select(got, path), OmegaConf.select(wanted, path)
        assert (type(one), OmegaConf.get_type(one)) == (type(other), OmegaConf.get_type(other))
        assert OmegaConf.is_readonly(one) == OmegaConf.is_readonly(other)
    assert resolved(got) == resolved(wanted)


SAME = [
    "",
    "seed=3",
    "optimizer.lr=3e-3 seed=1",
    "seed=1 optimizer.lr=3e-3",
    "optimizer.betas=[0.8,0.9]",
    "model.width=[8,4] model.bias=false",
    "resume=null",
    "name='a b, c=d'",
    'name="${data.name}-x"',
    "optimizer={lr:0.5}",
    "+optimizer={extra:[1,2]}",
    "optimizer.weight_decay=${regularization.l1}",
    "training.early_stopping={patience:3}",
    "optimizer=sgd",
    "optimizer='sgd'",
    "optimizer=sgd optimizer.lr=0.5",
    "optimizer.lr=0.5 optimizer=sgd",
    "scheduler=one_cycle optimizer=momentum",
    "scheduler=one_cycle scheduler.max_lr=1 optimizer.lr=2",
    "optimizer=sgd optimizer=adamw",
    "data=python_docs model=text_bag regularization=dropout",
    "experiment=fashion_mlp",
    "experiment=fashion_mlp optimizer=sgd optimizer.lr=0.1",
    "+foo=1",
    "+foo={a:{b:1}} foo.a.b=2",
    "~seed",
    "seed=4 ~seed=4",
    "~optimizer.eps optimizer.lr=2",
    "~experiment",
    "++seed=7",
    "seed=2 ++seed=8 seed=9",
    "++foo=1 foo=2",
    "seed=1 seed=2",
    "seed=1 optimizer=sgd seed=2",
    "hydra.run.dir=there seed=1",
    "seed=1 hydra.run.dir=there",
    "seed=1 hydra.mode=MULTIRUN optimizer=sgd",
    "seed=1 +hydra.job.env_set.A=b",
    "hydra.job.env_copy=[HOME] seed=2",
    "hydra.overrides.task=[odd] seed=2",
    "hydra.job.config.override_dirname.exclude_keys=[seed] seed=2 optimizer.lr=1",
    "hydra/launcher=basic seed=2",
    "tracking.project=a:b tracking.tags=[a,b]",
    "objective.metric=val/loss task=preview",
]


@pytest.mark.parametrize("line", SAME)
def test_equal_to_hydras_compose(line, composer, spy):
    overrides = line.split() if "'a b" not in line else [line]
    wanted = spy(overrides)
    for _ in range(2):  # composed, then from what was kept
        assert_same(composer(overrides), wanted.copy())


@pytest.mark.parametrize("lines", [[], ["optimizer=sgd", "seed=2"], [command.MULTIRUN, "~seed"]])
def test_what_tests_compose_once_is_what_hydra_composes(
    lines, composed_once, tmp_path, monkeypatch
):
    def composed():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", lines, return_hydra_config=True)

    composed()["name"] = "changed"
    monkeypatch.chdir(tmp_path)
    kept = composed()
    with monkeypatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "_load_configuration_impl", composed_once)
        assert_same(kept, composed())


def test_a_job_leaves_nothing_in_the_next(composer):
    first = composer(["optimizer.lr=5", "+optimizer.extra=1"])
    with open_dict(first):
        first.scheduler.interval = "changed"
        first.hydra.runtime.choices.optimizer = "changed"
    again = composer(["seed=1"])
    assert "extra" not in again.optimizer
    assert (again.optimizer.lr, again.scheduler.interval) == (1e-3, "epoch")
    assert again.hydra.runtime.choices.optimizer == "adam"
    assert again.hydra.overrides.task == ["seed=1"]


@pytest.mark.parametrize(("axes", "most"), [
    (["optimizer.lr=1,2,3,4", "seed=0,1,2"], 1),
    (["optimizer=adam,sgd,momentum", "scheduler=constant,one_cycle,step", "optimizer.lr=1,2,3,4"], 5),
    (["scheduler=step,cosine", "regularization=none,l2,dropout", "optimizer=sgd,adamw", "+foo=1,2"], 5),
    (["data=wine", "model=linear", "optimizer=sgd,adam", "activation=relu,tanh"], 3),
    (["experiment=fashion_mlp,california", "optimizer=adam,sgd", "scheduler=constant,linear"], 6),
])  # fmt: skip
def test_a_grid_is_composed_once_a_choice(axes, most, composer, spy):
    split = [axis.partition("=") for axis in axes]
    grid = [[f"{key}={value}" for value in values.split(",")] for key, _, values in split]
    jobs = [list(job) for job in itertools.product(*grid)]
    got = [composer(job) for job in jobs]
    assert spy.count == most
    for job, mine in list(zip(jobs, got, strict=True))[:: max(1, len(jobs) // 8)]:
        assert_same(mine, spy(job))


def test_options_of_several_groups_are_composed_side_by_side(composer, spy):
    axes = [
        [f"optimizer={name}" for name in ("adam", "sgd", "lbfgs", "muon")],
        [f"scheduler={name}" for name in ("constant", "one_cycle", "wsd")],
        ["regularization=none", "regularization=dropout"],
        ["seed=0", "seed=1"],
    ]
    jobs = [list(job) for job in itertools.product(*axes)]
    composer.expect([*jobs, ["not an override"]])
    assert spy.count == 4
    got = [composer(job) for job in jobs]
    assert spy.count == 4
    for job, mine in list(zip(jobs, got, strict=True))[::5]:
        assert_same(mine, spy(job))


REACHES_OUT = {
    "optimizer__wide": "# @package _global_\noptimizer:\n  lr: 7\nseed: 9\n",
    "optimizer__pulls": "defaults:\n  - adam\n  - override /scheduler: step\n",
    "optimizer__nested": "defaults:\n  - /scheduler@inner: step\nlr: 1\n",
    "scheduler__also": "# @package _global_\noptimizer:\n  lr: 1e-3\nscheduler:\n  x: 1\n",
}


@pytest.mark.parametrize("name", REACHES_OUT)
def test_options_that_reach_further_are_composed_whole(name, tmp_path, spy):
    folder = own_conf(tmp_path, **REACHES_OUT)
    group, _, option = name.partition("__")
    other = "optimizer=sgd,momentum" if group == "scheduler" else "scheduler=linear,step"
    key, _, values = other.partition("=")
    jobs = [
        [f"{group}={mine}", f"{key}={value}", "seed=1"]
        for mine in ("adam" if group == "optimizer" else "constant", option)
        for value in values.split(",")
    ]
    with initialize_config_dir(str(folder), version_base="1.3"):
        composer = Composer(spy, [folder])
        composer.expect(jobs)
        for job in jobs:
            try:
                wanted = spy(job)
            except HydraException as error:
                with pytest.raises(type(error)):
                    composer(job)
            else:
                assert_same(composer(job), wanted)


def test_defaults_that_look_at_another_choice_are_composed_whole(tmp_path, spy):
    root = (CONF / "config.yaml").read_text()
    root = root.replace(
        "  - _self_\n", "  - optional pair: ${optimizer}_${scheduler}\n  - _self_\n"
    )
    folder = own_conf(tmp_path, config=root, pair__sgd_step="# @package optimizer\nboth: 1\n")
    with initialize_config_dir(str(folder), version_base="1.3"):
        composer = Composer(spy, [folder])
        axes = ("optimizer=adam", "optimizer=sgd"), ("scheduler=linear", "scheduler=step")
        jobs = [list(job) for job in itertools.product(*axes)]
        composer.expect(jobs)
        for job in jobs:
            assert_same(composer(job), spy(job))
        assert composer(["optimizer=sgd", "scheduler=step"]).optimizer.both == 1


def test_a_section_that_another_group_copies_is_composed_whole(tmp_path, spy):
    tail = "\ndata:\n  sub:\n    own: 1\n"
    folder = own_conf(
        tmp_path,
        data__copies="name: a\ntask: x\nsub: ${optimizer}\n",
        data__plain="name: b\ntask: x\nsub: {}\n",
        config=(CONF / "config.yaml").read_text() + tail,
    )
    axes = ("data=plain", "data=copies"), ("optimizer=adam", "optimizer=sgd", "optimizer=lbfgs")
    jobs = [list(job) for job in itertools.product(*axes)]
    with initialize_config_dir(str(folder), version_base="1.3"):
        composer = Composer(spy, [folder])
        composer.expect(jobs)
        for job in jobs:
            assert_same(composer(job), spy(job))
        assert "betas" in composer(["data=copies", "optimizer=adam"]).data.sub
        assert "max_iter" in composer(["data=copies", "optimizer=lbfgs"]).data.sub


def test_folders_that_the_composer_does_not_know_are_left_to_hydra(tmp_path, spy):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("lr: 5\n")
    overrides = [f"hydra.searchpath=[file://{tmp_path}]", "optimizer=mine", "seed=3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = Composer(spy, [CONF, tmp_path])
        assert_same(known(overrides), spy(overrides))
        spy.count = 0
        known([*overrides[:2], "seed=4"])
        assert spy.count == 0
        unknown = Composer(spy, [CONF])
        for _ in range(2):
            assert_same(unknown(overrides), spy(overrides))


WRONG = [
    "experiment=null", "~optimizer=adam", "+at=${hydra.job} at.name=1",
    "+at=${optimizer} at.lr=5", "foo.a=2 +foo={a:1}", "+at=${hydra.runtime.cwd} ~at", "data.root=/a",
    "sed=1", "optimizer.lrr=1", "seed.x=1", "+seed=1", "~nothing", "~seed=5", "optimizer=nope",
    "optimizer=[a,b]", "optimizer=3", "optimizer@x=adam", "++optimizer=adam", "seed=1,2", "seed",
    "hydra.nope=1", "hydra={}", "seed@x=1", "+optimizer=adam", "hydra.job.num=x", "model.width.0=1",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_refused_as_hydra_refuses(wrong, composer, spy):
    def outcome(make):
        try:
            return OmegaConf.to_yaml(make(["seed=1", *wrong.split()]))
        except Exception as error:
            return type(error), str(error)

    composer(["seed=1"])
    assert outcome(composer) == outcome(spy)


# ------------------------------------------------------------------ the check that uses it
def test_the_check_composes_a_grid_once_a_choice(monkeypatch):
    count = 0

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return compose(*args, **kwargs)

    monkeypatch.setattr(command, "compose", counted)
    grid = ["optimizer=adam,sgd", "scheduler=constant,one_cycle", "seed=0,1,2", "training.epochs=2"]
    configs, faults = command.check_overrides(grid, grid=True)
    assert faults == []
    assert count == 2  # each group's first option, then each group's second
    assert len(configs) == 12
    for plain, job in zip(configs, overrides.jobs(grid), strict=True):
        alone = command.checked(job)
        assert {name: node for name, node in plain.items() if name != "hydra"} == alone


def test_the_check_resolves_what_may_name_code_in_every_job():
    axes = [
        "+hydra.callbacks.x._target_=${objective.metric}",
        "objective.metric=hydra.experimental.callback.Callback,os.system",
    ]
    _, faults = command.check_overrides(axes, grid=True)
    assert any("hydra.callbacks.x._target_=os.system: not allowed" in fault for fault in faults)


def test_a_vanished_file_is_seen_by_the_second_check(tmp_path):
    path = tmp_path / "weights.pt"
    path.touch()
    plain = command.checked(["init=tensor", f"init.path={path}"])
    path.unlink()
    assert check(plain) == [f"init.path={path}: no such file"]


def test_faults_of_a_dry_build_come_back_every_time():
    overrides = ["optimizer=nesterov", "optimizer.momentum=0"]
    first = command.check_overrides(overrides)[1]
    assert first == command.check_overrides(overrides)[1]
    assert first[0].startswith("optimizer: Nesterov momentum requires a momentum")


# ------------------------------------------------------------------ what a launcher asks for
def test_a_checked_job_is_composed_again_without_hydra():
    grid = ["optimizer=adam,sgd", "scheduler=constant,one_cycle", "seed=0,1", "hydra.job.name=here"]
    command.check_overrides(grid, grid=True)
    assert not GlobalHydra.instance().is_initialized()
    for job in overrides.jobs(grid):
        hydra = [o for o in job if o.startswith("hydra.")]
        asked = [*hydra, command.MULTIRUN, *(o for o in job if o not in hydra)]
        mine = command.LAST.compose(asked)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert_same(mine, compose("config", asked, return_hydra_config=True))


def test_what_was_not_composed_is_not_made_up(monkeypatch):
    command.check_overrides(["optimizer=adam,sgd"], grid=True)
    assert command.LAST.compose(["optimizer=momentum", command.MULTIRUN]) is None
    assert command.LAST.compose(["experiment=california", command.MULTIRUN]) is None
    assert command.LAST.compose(["optimizer=sgd", command.MULTIRUN]) is not None
    monkeypatch.setattr(command.LAST, "composer", None)
    assert command.LAST.compose(["optimizer=sgd", command.MULTIRUN]) is None


def test_the_jobs_of_a_command_line():
    assert overrides.jobs(["optimizer=adam,sgd", "seed=range(2)", "name=x"]) == [
        ["optimizer=adam", "seed=0", "name=x"],
        ["optimizer=adam", "seed=1", "name=x"],
        ["optimizer=sgd", "seed=0", "name=x"],
        ["optimizer=sgd", "seed=1", "name=x"],
    ]
    with pytest.raises(
        command.ConfigError,
        match="optimizer.lr: has no value; write optimizer.lr=VALUE, a number > 0",
    ):
        overrides.jobs(["optimizer.lr"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert ["tracking=wandb"] in overrides.jobs(["tracking=glob(*)"])


# ------------------------------------------------------------------ jobs that differ in plain values
@pytest.mark.parametrize("axes", [
    ["optimizer=adam,sgd", "optimizer.lr=1e-3,1e-2", "seed=0,1"],
    ["scheduler=one_cycle,cyclic", "optimizer.lr=1e-3,1e-2", "regularization.l2=1e-4,1e-3"],  # ${...lr}
    ["data.val=0.1,0.2", "model.width=8,[8,16]", "objective.metric=val/loss,val/accuracy"],
    ["scheduler=warmup_cosine", "training.epochs=2,3", "scheduler.lr_lambda.warmup=10%,20%"],
    ["+metrics.own.mine.mode=max", "metrics.extra=[],[mcc]", "seed=1,2"],
])  # fmt: skip
def test_a_value_in_its_place_is_what_hydra_composes(axes):
    configs, _ = command.check_overrides(axes, grid=True)
    jobs = overrides.jobs(axes)
    assert len(configs) == len(jobs) > 1
    for config, job in zip(configs, jobs, strict=True):
        (alone,), _ = command.check_overrides(job)
        assert without(config) == without(alone)


def without(config):
    return {name: node for name, node in config.items() if name != "hydra"}


def test_every_key_that_a_resolver_looks_up_is_known():
    """Else a grid over it would give the first job's answer to all."""
    looked_up = {}
    for name, function in vars(resolvers).items():
        if inspect.isfunction(function) and "_root_" in inspect.signature(function).parameters:
            keys = re.findall(r'_root_, f?"([^"]+)"', inspect.getsource(function))
            looked_up[name.lstrip("_")] = {key.rpartition(".")[2] for key in keys}
    assert looked_up.keys() == resolvers.READS.keys()
    for name, keys in looked_up.items():
        assert keys <= resolvers.READS[name], name


FOLLOWING = [
    (["data=image_folder", "data.root=x", "model=torchvision", "data.normalize=weights"],
     ["model.weights=DEFAULT,IMAGENET1K_V1", "model.architecture=resnet18,resnet50"],
     "data.statistics", 4),
    (["data=image_folder", "data.root=x", "model=torchvision", "model.weights=DEFAULT"],
     ["data.normalize=weights,true"], "data.size", 2),
    (["data=text_csv", "data.path=x.csv", "model=transformers"], ["model.folder=a,b"],
     "data.tokenizer", 2),
    ([], ["optimizer=adam,adamw", "regularization.l2=null,0.1"], "optimizer.weight_decay", 3),
    (["data=csv", "data.path=x.csv", "data.target=y"], ["data.task=classification,regression"],
     "training.zero_head", 2),
]  # fmt: skip


@pytest.mark.parametrize(("base", "axes", "key", "values"), FOLLOWING)
def test_what_follows_from_a_value_follows_in_a_grid(base, axes, key, values):
    section, _, name = key.partition(".")
    choices = [[f"{axis.partition('=')[0]}={value}" for value in axis.partition("=")[2].split(",")]
               for axis in axes]  # fmt: skip
    jobs = [[*base, *job] for job in itertools.product(*choices)]
    alone = [command.check_overrides(job)[0][0] for job in jobs]
    grid = command.check_overrides([*base, *axes], grid=True)[0]
    assert [c[section][name] for c in grid] == [c[section][name] for c in alone]
    assert len({c[section][name] for c in grid}) == values
    aside = "hydra", "name"
    for one, its in zip(grid, alone, strict=True):
        assert {k: v for k, v in one.items() if k not in aside} == {
            k: v for k, v in its.items() if k not in aside
        }
