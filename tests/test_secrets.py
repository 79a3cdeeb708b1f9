"""Secrets: refused where they are typed, hidden where they come from elsewhere, nothing else is."""

import json
import os

import pytest
from trained import ENV
from trained import train_py as run

from knobs.config import command
from knobs.errors import ConfigError, first_line
from knobs.record import read_config
from knobs.secrets import HIDDEN, cleared, hidden_in, in_lines, public, public_lines

HEX = "0123456789abcdef0123456789abcdef01234567"
SECRET = [
    "+data.api_key=hunter2", "data.password=abc", "+x.accessToken=q", "+x.client_secret='a b'",
    "tracking.tags=[a,sk-proj-abcdefghijklmnop123]", "name=sk-abcdefghijklmnopqrstuvwxyz123456",
    "x=ghp_abcdefghijklmnopqrstuvwxyz0123456789", "data.path=s3://AKIAIOSFODNN7EXAMPLE/x",
    "+a.b=hf_abcdefghijABCDEFGHIJabcdefghij1234", f"+a.wandb_key={HEX}", f"tracking.key={HEX}",
    "+data.x={token:foobarbaz}", "data.path=https://x.y/z?token=abcdefgh",
    "+x.token=${oc.env:T,foobarbaz}", "+x.headers={Authorization:'Bearer abcdef123456abcd'}",
    "+x.url=postgres://me:pw123@host/db", "+x.pem='-----BEGIN RSA PRIVATE KEY-----'",
    "+x.slack=xoxb-123456789012-abcdef", ["-m", "seed=0,1", "optimizer.token=abcdef"][-1],
]  # fmt: skip
HARMLESS = [
    "seed=1", "optimizer.lr=1e-3", f"tracking.run_name={HEX}", f"name={HEX}", "model.width=64",
    "x=550e8400-e29b-41d4-a716-446655440000", "+data.key=550e8400-e29b-41d4-a716-446655440000",
    "x=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "data.path=/very/long/data/path/8f14e45fceea167a5a36dedd4bea2543/train.csv", "+data.key=id",
    "data.path=outputs/runs/2026-11-26/12-13-56-epochs1", "data.root=sk-learn-data-2024-housing",
    "data.max_tokens=100000", "+data.tokenizer=bert-base-uncased", "data.target=key",
    "+x.token=${oc.env:T}", "+x.api_key='${oc.decode:${oc.env:T}}'", "+x.token=null",
    "+x.header='Bearer ${oc.env:T}'", "+x.token=512", "data.split=group:session",
    "+data.secret_size=3", "tracking.tags=[key,token,secret]", "tracking.tags=[exp:baseline]",
    'data.columns=["Total Charges:number","note:drop"]', 'skip=["optimizer=sgd seed=1"]',
    "data.label=password", "zip={model.width:[64,128],optimizer.lr:[1e-2,3e-3]}",
    "data.text=auth_header", "tracking.group=2026-02-01T10:00:00Z", "data.path=ghp_notes.csv",
]  # fmt: skip


@pytest.mark.parametrize("line", SECRET)
def test_a_typed_secret_is_refused_and_not_shown(line):
    (fault,) = in_lines([line])
    key = line.partition("=")[0].lstrip("+")
    assert fault.startswith(f"{key}: holds a secret, which records would keep; export it")
    assert f"'{key}=${{oc.env:NAME}}'" in fault
    assert line.partition("=")[2] not in fault


@pytest.mark.parametrize("line", HARMLESS)
def test_what_is_no_secret_stays(line):
    assert list(in_lines([line])) == []
    assert public_lines([line]) == [line]


def test_the_value_of_a_variable_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "quiet-otter-97")
    _, faults = command.check_overrides(["seed=1", "tracking.group=x-quiet-otter-97"])
    assert len(faults) == 1
    assert "quiet-otter-97" not in faults[0]


def test_a_path_or_a_number_in_a_variable_is_no_secret(monkeypatch, tmp_path):
    """PWD is where one stands; hidden, every folder below it would be."""
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("SECRET_COUNT", "100000000000000")
    texts = [f"{tmp_path}/runs", f"{tmp_path}/key.json", "seed=100000000000000"]
    assert list(in_lines([f"data.root={text}" for text in texts])) == []
    assert public(texts) == texts


def test_what_a_variable_is_read_by_stays_and_its_value_does_not():
    assert public({"token": "${oc.env:T}", "a": [HEX]}) == {"token": "${oc.env:T}", "a": [HEX]}
    assert public({"token": HEX, "n": 3, "key": HEX}) == {"token": HIDDEN, "n": 3, "key": HIDDEN}
    assert public_lines(["data.token=abc"]) == [HIDDEN]
    assert hidden_in(["x.token=abc: no such key"], {"x": {"token": "abc"}}) == [
        f"x.token={HIDDEN}: no such key"
    ]


MESSAGES = {
    "x.api_key=hunter2: no such key": f"x.api_key={HIDDEN}: no such key",
    "cannot read postgres://me:pw123@host/db": f"cannot read postgres://{HIDDEN}@host/db",
    "GET https://x.y/z?token=abcdefgh&a=1": f"GET https://x.y/z?token={HIDDEN}&a=1",
    "bad key sk-proj-abcdefghijklmnop123, ghp_abcdefghijklmnopqrst": f"bad key {HIDDEN}, {HIDDEN}",
    "'quiet otter/97+x\\n' is no folder": f"'{HIDDEN}' is no folder",
    "data.token='${oc.env:T}' and +x.token=512": "data.token='${oc.env:T}' and +x.token=512",
    "data.label=password: no such column": "data.label=password: no such column",
    f"commit {HEX}, seed=1": f"commit {HEX}, seed=1",
}


@pytest.mark.parametrize(("text", "shown"), MESSAGES.items())
def test_a_message_is_cleared_of_secrets_alone(text, shown, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "quiet otter/97+x\n")
    assert cleared(text) == str(ConfigError(text)) == first_line(OSError(text)) == shown


# ------------------------------------------------------------------ canaries
OWN = """
from knobs.data import bundled

def digits(api_key, note, **rest):
    assert api_key in ("canary-in-yaml", "canary-of-variable"), api_key
    return bundled.scikit_learn(**rest)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A data set of one's own that takes a key, from its YAML or from a variable."""
    home = tmp_path_factory.mktemp("own")
    (home / "mylab.py").write_text(OWN)
    (home / "conf" / "data").mkdir(parents=True)
    for name, key in (("here", "canary-in-yaml"), ("there", "${oc.env:MYLAB_TOKEN}")):
        text = "# Mine.\ndefaults: [digits, _self_]\n\n_target_: mylab.digits\n"
        text += f"api_key: {key}\nnote: ''\n"
        (home / "conf" / "data" / f"{name}.yaml").write_text(text)
    return home


def holding(folder, *words):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(word.encode() in path.read_bytes() for word in words)]


@pytest.mark.parametrize("many", [False, True])
def test_no_file_and_no_screen_tells_a_secret(own, tmp_path, many):
    env = ENV | {"KNOBS_ALLOW": "mylab", "MYLAB_TOKEN": "canary-of-variable"}
    env["PYTHONPATH"] = os.pathsep.join([str(own), os.environ.get("PYTHONPATH", "")])
    words = ["--config-dir", str(own / "conf"), "training.epochs=1", "tracking=local"]
    words += ["-m", "data=here,there", "sweep=s"] if many else ["data=here", "hydra.run.dir=r"]
    note = "data.note=${oc.env:MYLAB_TOKEN}" if not many else "seed=0"
    done = run(tmp_path, *words, note, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "canary-" not in done.stdout + done.stderr
    assert holding(tmp_path, "canary-") == []
    folder = tmp_path / ("outputs/sweeps/s/0" if many else "r")
    assert read_config(folder)["config"]["data"]["api_key"] == HIDDEN
    if not many:
        assert "data.note=${oc.env:MYLAB_TOKEN}" in read_config(folder)["overrides"]
        assert "${oc.env:MYLAB_TOKEN}" in (folder / ".hydra" / "config.yaml").read_text()


def test_a_typed_secret_leaves_nothing(tmp_path):
    done = run(tmp_path, "tracking.tags=[sk-proj-canary0canary0canary0]", "optimizer.lr=x")
    assert done.returncode == 2
    assert "tracking.tags: holds a secret" in done.stderr
    assert "canary" not in json.dumps([done.stdout, done.stderr])
    assert list(tmp_path.iterdir()) == []
