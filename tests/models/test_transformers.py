"""Networks of transformers: their own tokens and answers, weights kept, padding without effect."""

import json
import shutil

import pytest
import tiny_networks
import torch
from safetensors.torch import load_file, save_file

import knobs
from knobs import build, hub, optimizers
from knobs.config import command
from knobs.data.pieces import Pieces
from knobs.errors import ConfigError, DataError
from knobs.export import graphs
from knobs.identity import computed
from knobs.models import frozen
from knobs.stack import proof
from knobs.training import checkpoint
from knobs.training.run import execute
from knobs.weights import imported

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
KINDS = ("bert", "gpt")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with a table of texts and two networks."""
    path = tmp_path_factory.mktemp("networks")
    tiny_networks.table(path / "texts.csv")
    for kind in KINDS:
        tiny_networks.network(kind, path / kind)
    return path


@pytest.fixture
def copied(base, tmp_path):
    """Return a BERT that a test may change."""
    shutil.copytree(base / "bert", tmp_path / "bert")
    return tmp_path / "bert"


def checked(base, folder, *overrides):
    lines = ["data=text_csv", f"data.path={base / 'texts.csv'}", "model=transformers"]
    lines += [f"model.folder={folder}", "tracking=local"]
    return command.checked([*lines, *overrides])


def made(base, folder, *overrides):
    config = checked(base, folder, *overrides)
    data = build.data(config)
    return config, data, build.untrained(config, data.shape)


def edited(folder, name, **changes):
    """Change fields of a JSON file; None takes one out."""
    fields = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def library():
    return imported("transformers")


TEXTS = ["the day was Lovely", "", "zebra food", "a cruel film very dull rather cold the"]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_answers_are_those_of_transformers(base, kind):
    config, data, net = made(base, base / kind)
    build.initialize(config, net, torch.zeros(1))
    coder = library().AutoTokenizer.from_pretrained(base / kind)
    if coder.pad_token is None:
        coder.pad_token = coder.eos_token
    texts = [text for text in TEXTS if text or kind == "bert"]
    encoded = coder(texts, padding="max_length", max_length=data.shape.input[0], truncation=True,
                    return_tensors="pt")  # fmt: skip
    mine = data.preparation.apply(texts)
    real = encoded["attention_mask"].bool()
    assert torch.equal(mine > 0, real)
    assert torch.equal(mine[real] - 2, encoded["input_ids"][real].int())
    torch.testing.assert_close(net.eval()(mine), net.network(**encoded).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_folder_are_kept_and_the_head_is_new(base, kind):
    config, _, net = made(base, base / kind)
    build.initialize(config, net, torch.zeros(1))
    given = load_file(base / kind / "model.safetensors")
    state = net.state_dict()
    kept = [n for n in given if f"network.{n}" in state]
    assert len(kept) == len(net.loaded) >= 28
    assert all(torch.equal(state[f"network.{n}"], given[n]) for n in kept)
    new = {n for n, _ in net.named_parameters()} - net.loaded
    assert new == {*frozen.of_head(net)}
    assert all(n.split(".")[-2] == "head" for n in new)


def test_weights_of_a_file_and_none_at_all(base, tmp_path):
    state = load_file(base / "bert" / "model.safetensors")
    key = "bert.encoder.layer.0.output.dense.weight"
    state[key] = state[key] + 1
    save_file(state, tmp_path / "other.safetensors")
    line = f"model.weights={tmp_path / 'other.safetensors'}"
    _, _, net = made(base, base / "bert", line)
    assert torch.equal(net.get_parameter(f"network.{key}"), state[key])
    _, _, net = made(base, base / "bert", "model.weights=null")
    assert net.loaded == frozenset()
    assert not torch.equal(net.get_parameter(f"network.{key}"), state[key] - 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("bert.embeddings.word_embeddings.weight"), "it lacks bert.embeddings"),
        (lambda s: s.update({"bert.more.weight": torch.zeros(1)}), "it has besides bert.more"),
        (lambda s: s.update({"bert.pooler.dense.bias": torch.zeros(3)}), "another shape bert.pool"),
        (lambda s: s["bert.pooler.dense.bias"].fill_(torch.nan), "pooler.dense.bias holds values"),
    ],
)
def test_weights_that_do_not_fit_are_named(base, copied, change, says):
    state = load_file(copied / "model.safetensors")
    change(state)
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=says):
        made(base, copied)


def test_a_pooler_without_weights_is_new_and_is_not_frozen_as_it_was_drawn(base, copied):
    state = load_file(copied / "model.safetensors")
    state = {name: value for name, value in state.items() if ".pooler." not in name}
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    _, _, net = made(base, copied)
    assert "network.bert.pooler.dense.weight" not in net.loaded
    with pytest.raises(ConfigError, match="pooler.dense.weight came without weights"):
        made(base, copied, "model.freeze=backbone")
    _, _, net = made(base, copied, "model.freeze=[network.bert.encoder]")
    assert net.network.bert.pooler.dense.weight.requires_grad


def test_rates_by_layer_and_of_the_head(base):
    _, _, net = made(base, base / "gpt")
    own = optimizers.options_by_name(net, {"lr": 0.1, "layer_decay": 0.5, "head_lr": 1.0})
    rates = {name.removeprefix("network.transformer."): o["lr"] for name, o in own.items()}
    assert rates["wte.weight"] == rates["wpe.weight"] == pytest.approx(0.1 / 8)
    assert rates["h.0.ln_1.weight"] == pytest.approx(0.1 / 4)
    assert rates["h.1.mlp.c_fc.weight"] == pytest.approx(0.1 / 2)
    assert rates["ln_f.weight"] == pytest.approx(0.1)
    assert rates["network.score.head.weight"] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_and_padding_change_no_other_answer(base, kind):
    _, data, net = made(base, base / kind)
    x = data.preparation.apply(TEXTS)
    with torch.no_grad():
        together = net.eval()(x)
        alone = torch.cat([net(row[row > 0][None] if row.any() else row[None]) for row in x])
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_network_whose_answer_depends_on_padding_is_refused(base, tmp_path):
    hf = library()
    size = tiny_networks.tokenizer("bert", tmp_path)
    config = hf.XLNetConfig(vocab_size=size, d_model=16, n_layer=1, n_head=2, d_inner=16)
    torch.manual_seed(0)
    hf.XLNetLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="changes by .* with the padding behind it"):
        made(base, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_predicts_texts_and_goes_on_without_its_folder(base, kind, tmp_path):
    shutil.copytree(base / kind, tmp_path / "net")
    lines = ["training.epochs=2", "training.batch_size=16", "optimizer.lr=3e-3"]
    config = checked(base, tmp_path / "net", *lines, "model.freeze=backbone", "model.thaw=1")
    execute(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    shutil.rmtree(tmp_path / "net")
    predictor = knobs.load(tmp_path / "run")
    found = predictor.predict(["the day was lovely", "a cruel film"])
    assert list(found.columns) == ["prediction", "p(bad)", "p(good)"]
    net = checkpoint.load(tmp_path / "run")
    assert isinstance(predictor.preparation.inputs, Pieces)
    with torch.no_grad():
        expected = net(predictor.preparation.apply(["a cruel film"])).softmax(-1)[0]
    assert found["p(good)"].iloc[1] == pytest.approx(expected[1].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "the folder has no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "its tokenizer cannot be read"),
        (lambda f: edited(f, "tokenizer_config.json", auto_map={"a": "b"}), "code of its own"),
        (lambda f: edited(f, "config.json", auto_map={"a": "b"}), "code of its own"),
        (lambda f: edited(f, "config.json", model_type="bart0"), "did you mean bart"),
        (lambda f: edited(f, "config.json", model_type="clip_vision_model"), "no clip_vision"),
        (lambda f: edited(f, "config.json", quantization_config={}), "are quantized"),
        (lambda f: edited(f, "config.json", vocab_size=20), "has 32 tokens, the network 20"),
        (lambda f: edited(f, "config.json", hidden_size=33), "cannot be built|is refused"),
        (lambda f: (f / "config.json").write_text("[1"), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickles alone"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_as_it_must_be_is_named(base, copied, spoil, says):
    spoil(copied)
    with pytest.raises(ConfigError, match=says):
        made(base, copied)


def test_shards_are_read_by_their_index_and_nothing_beside_the_folder(base, copied):
    state = load_file(copied / "model.safetensors")
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, value) in enumerate(state.items()):
        parts[list(parts)[i % 2]][name] = value
    for file, part in parts.items():
        save_file(part, copied / file, {"format": "pt"})
    (copied / "model.safetensors").unlink()
    names = {name: file for file, part in parts.items() for name in part}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    _, _, net = made(base, copied)
    assert len(net.loaded) == 39
    edited(copied, "model.safetensors.index.json", weight_map={"a": "../b.safetensors"})
    with pytest.raises(ConfigError, match="no file of tensors beside it"):
        made(base, copied)


def test_a_folder_that_is_not_there_and_a_hub_that_is_not_reached(base, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no such folder; give a folder"):
        made(base, "/no/such/folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        made(base, tmp_path / "file")
    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="from the hub it could not be had"):
        made(base, "some-one/some-network")


def test_what_does_not_go_together_is_refused(base):
    for lines, says in (
        (["data.tokenizer=null"], "model.folder=.* knows its own"),
        (["data.ngrams=2"], "data.ngrams=2: is of words"),
        (["data.min_count=3"], "data.min_count=3: is of words"),
        (["activation=gelu"], "transformers' networks keep their own activation"),
    ):
        with pytest.raises(ConfigError, match=says):
            made(base, base / "bert", *lines)
    with pytest.raises(ConfigError, match="reads text, and data=digits is image"):
        command.checked(["data=digits", "model=transformers", f"model.folder={base}"])
    for length, says in ((25, "from 3 to 24"), (2, "from 3 to 24")):
        with pytest.raises(DataError, match=says):
            made(base, base / "bert", f"data.max_length={length}")


def test_texts_are_cut_as_the_tokenizer_cuts_and_it_is_told(base):
    _, data, _ = made(base, base / "bert", "data.max_length=6")
    coder = library().AutoTokenizer.from_pretrained(base / "bert")
    text = "the day was very lovely quite warm"
    ids = coder(text, truncation=True, max_length=6)["input_ids"]
    assert data.preparation.apply([text]).tolist() == [[i + 2 for i in ids]]
    lengths = [len(coder(t)["input_ids"]) for t in tiny_networks.table(base / "texts.csv")]
    rows = data.train.rows.tolist()
    share = sum(lengths[row] > 6 for row in rows) / len(rows)
    assert data.notes[0].endswith(
        f"6 tokens a text, {share:.1%} of the training texts cut, "
        f"{1 - sum(min(6, lengths[row]) for row in rows) / 6 / len(rows):.0%} padding"
    )


def test_no_text_of_words_has_another_identity(base):
    assert "data.tokenizer" not in computed(command.checked(["data=python_docs", "model=text_bag"]))
    assert "data.tokenizer" in computed(checked(base, base / "bert"))


@pytest.mark.parametrize("kind", KINDS)
def test_they_train_alone_in_a_sweep_and_the_reason_is_named(base, kind):
    _, data, net = made(base, base / kind)
    with pytest.raises(proof.CannotStack, match="decides by what it computes"):
        proof.check(net, data.train.x, 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_computes_what_the_network_does(base, kind):
    _, data, net = made(base, base / kind)
    found = graphs.exported(net, "classification", data.shape)  # which compares the two
    assert len(found) > 10_000
