"""timm's networks: weights that are kept, channels and sizes that are fitted, layers as numbered."""

import math

import pytest
import torch
from safetensors.torch import save_file

from knobs import build, hub, optimizers
from knobs.config import command
from knobs.errors import ConfigError
from knobs.models import frozen
from knobs.shape import Shape
from knobs.stack import proof
from knobs.torchvision_shim import torchvision  # noqa: F401  which timm imports
from knobs.weights import imported, of_weights

pytest.importorskip("timm", reason="the extra `timm` is not installed")
timm = imported("timm")
SHAPE = Shape((3, 32, 32), 5)


def checked(*overrides):
    return command.checked(["data=digits", "model=timm", "tracking=local", *overrides])


def saved(architecture, path, **options):
    """Save random weights of 1,000 classes; return them."""
    torch.manual_seed(3)
    state = timm.create_model(architecture, **options).state_dict()
    save_file(state, path)
    return state


@pytest.mark.parametrize(
    ("name", "head"),
    [("test_resnet", "fc"), ("test_vit", "head"), ("test_convnext", "head.fc"),
     ("test_efficientnet", "classifier"), ("mobilenetv3_small_050", "classifier")],
)  # fmt: skip
def test_weights_of_a_file_are_kept_and_the_last_layer_is_new(name, head, tmp_path):
    given = saved(name, tmp_path / "net.safetensors")
    config = checked(f"model.architecture={name}", f"model.weights={tmp_path / 'net.safetensors'}")
    side = timm.get_pretrained_cfg(name).input_size[-1]
    net = build.untrained(config, Shape((3, side, side), 5))
    build.initialize(config, net, torch.zeros(1))
    state = net.state_dict()
    kept = [key for key in given if not key.startswith(f"{head}.")]
    assert all(torch.equal(state[key], given[key]) for key in kept)
    assert net.get_submodule(f"{head}.head").out_features == 5
    last = {f"{head}.head.weight", f"{head}.head.bias"}
    assert {*frozen.of_head(net)} == last == {n for n, _ in net.named_parameters()} - net.loaded
    assert net(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_what_is_computed_is_what_timm_computes(tmp_path):
    saved("test_convnext", tmp_path / "net.safetensors")
    line = f"model.weights={tmp_path / 'net.safetensors'}"
    net = build.model(checked("model.architecture=test_convnext", line), Shape((3, 64, 64), 5))
    its = timm.create_model("test_convnext", num_classes=5)
    names = {key: key.replace("head.fc.head.", "head.fc.") for key in net.state_dict()}
    its.load_state_dict({names[key]: value for key, value in net.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.eval()(x), its.eval()(x))


def test_one_channel_is_what_three_equal_ones_would_give(tmp_path):
    saved("test_resnet", tmp_path / "net.safetensors")
    lines = ["model.architecture=test_resnet", f"model.weights={tmp_path / 'net.safetensors'}"]
    three, one = (build.model(checked(*lines), Shape((c, 32, 32), 5)).eval() for c in (3, 1))
    one.fc.load_state_dict(three.fc.state_dict())
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(one(x), three(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="of 3 channels, and the images have 2; 1 and 3 fit"):
        build.model(checked(*lines), Shape((2, 32, 32), 5))


def test_a_convolution_that_standardises_its_weights_takes_no_sum_of_channels(tmp_path):
    saved("test_nfnet", tmp_path / "net.safetensors")
    line = f"model.weights={tmp_path / 'net.safetensors'}"
    with pytest.raises(ConfigError, match="the images have 1; 3 fit"):
        build.model(checked("model.architecture=test_nfnet", line), Shape((1, 96, 96), 5))


def test_positions_are_fitted_to_the_images_as_timm_does(tmp_path):
    given = saved("test_vit", tmp_path / "net.safetensors")
    line = f"model.weights={tmp_path / 'net.safetensors'}"
    net = build.model(checked("model.architecture=test_vit", line), Shape((3, 64, 64), 5))
    its = timm.create_model("test_vit", num_classes=5, img_size=64)
    fitted = timm.models.vision_transformer.checkpoint_filter_fn(dict(given), its)
    assert torch.equal(net.pos_embed, fitted["pos_embed"])
    assert net.pos_embed.shape == its.pos_embed.shape != given["pos_embed"].shape


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("conv1.0.weight"), "it lacks conv1.0.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "it has besides extra"),
        (lambda s: s.update({"bn1.bias": torch.zeros(3)}), r"bn1.bias \(3,\)"),
        (lambda s: s["bn1.bias"].fill_(math.inf), "bn1.bias holds values"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, says):
    state = timm.create_model("test_resnet").state_dict()
    change(state)
    save_file(state, tmp_path / "net.safetensors")
    lines = ["model.architecture=test_resnet", f"model.weights={tmp_path / 'net.safetensors'}"]
    with pytest.raises(ConfigError, match=says):
        build.model(checked(*lines), SHAPE)


@pytest.mark.parametrize(
    ("overrides", "shape", "says"),
    [
        (["model.architecture=resnet19"], SHAPE, "did you mean resnet18"),
        (["model.architecture=resnet18.a9_in1k"], SHAPE, "no weights a9_in1k; it has a1_in1k, "),
        (["model.architecture='hf-hub:some/one'"], SHAPE, "timm has none of this name"),
        (["model.architecture='local-dir:/tmp'"], SHAPE, "timm has none of this name"),
        (["model.architecture=deit_tiny_distilled_patch16_224"], SHAPE, "has 2 last layers"),
        (["model.architecture=test_vit"], Shape((3, 8, 8), 5), "cannot take images of 3x8x8"),
        (["activation=gelu"], SHAPE, "timm's networks keep their own activation"),
        (["model.architecture=vgg11", "model.drop_path=0.1"], SHAPE, "no stochastic depth; use 0"),
        (["model.weights=/no/such.safetensors"], SHAPE, "no such file"),
    ],
)
def test_what_does_not_fit_is_named(overrides, shape, says):
    with pytest.raises(ConfigError, match=says):
        build.model(checked("model.architecture=test_resnet", *overrides), shape)


def test_a_missing_library_is_named_with_the_commands_that_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install timm .*or make train EXTRA=timm"):
        build.model(checked(), SHAPE)


def test_a_model_of_images_is_refused_for_texts():
    with pytest.raises(ConfigError, match="reads image, and data=python_docs is text"):
        command.checked(["data=python_docs", "model=timm"])


def test_weights_that_cannot_be_downloaded_are_one_error_at_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(hub, "_reachable", lambda url: asked.append(url))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="DEFAULT: timm's weights of test_resnet could not be"):
        build.model(checked("model.architecture=test_resnet", "model.weights=DEFAULT"), SHAPE)
    assert len(asked) == 1


def test_the_layers_are_those_of_timm():
    net = build.model(checked("model.architecture=test_vit"), SHAPE)
    own = optimizers.options_by_name(net, {"lr": 0.1, "layer_decay": 0.5})
    its = timm.create_model("test_vit", num_classes=5, img_size=32)
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(its, layer_decay=0.5)
    rates = {id(p): 0.1 * group["lr_scale"] for group in groups for p in group["params"]}
    for name, parameter in its.named_parameters():
        mine = name.replace("head.", "head.head.")
        assert own[mine]["lr"] == pytest.approx(rates[id(parameter)]), name
    rates = optimizers.options_by_name(net, {"lr": 0.1, "head_lr": 1.0})
    assert {*rates} == {"head.head.weight", "head.head.bias"}


def test_the_statistics_are_those_of_the_weights():
    said, found = timm.get_pretrained_cfg("test_vit"), of_weights("timm/test_vit/DEFAULT")
    assert (found.mean, found.std, found.size) == (said.mean, said.std, said.input_size[-1])
    assert (found.resize, found.resample) == (int(found.size / said.crop_pct), said.interpolation)
    with pytest.raises(ConfigError, match="no statistics of pictures"):
        of_weights("timm/no_such_network/DEFAULT")


def test_what_stacks_is_proved_and_what_does_not_says_why():
    x = torch.randn(8, 3, 16, 16)
    net = build.model(checked("model.architecture=test_resnet"), Shape((3, 16, 16), 5))
    assert proof.check(net, x, 4) == {}  # no dropout of torch's own, whose draws have an order
    net = build.model(
        checked("model.architecture=test_convnext", "model.drop_path=0.5"), Shape((3, 32, 32), 5)
    )
    with pytest.raises(proof.CannotStack, match="draws random numbers"):
        proof.check(net, torch.randn(8, 3, 32, 32), 4)
