"""Networks of transformers that classify texts, with a new last layer."""

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knobs import hub
from knobs.errors import ConfigError, did_you_mean, first_line
from knobs.models.layers import Activation
from knobs.models.pretrained import keeps_its_own, last_layer, put_dropout, read
from knobs.shape import OFFSET, Shape
from knobs.weights import imported

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CLOSE = 1e-3  # of answers with and without padding, of their size where that is above 1
_NUMBER = re.compile(r"\.\d+\.")


class TextNetwork(nn.Module):
    """A network of transformers on knobs' token ids (N, L): 0 is padding, the others + OFFSET.

    Args:
        network: ...ForSequenceClassification.
        pad: its id for padding, which its attention mask hides.
    """

    def __init__(self, network: nn.Module, pad: int):
        super().__init__()
        self.network, self.pad = network, pad

    def forward(self, ids: Tensor) -> Tensor:
        """Map (N, L) -> (N, outputs)."""
        real = ids >= OFFSET
        empty = ~real.any(-1, keepdim=True)  # such a text attends to its padding
        tokens = torch.where(real, ids - OFFSET, self.pad).long()
        return self.network(input_ids=tokens, attention_mask=(real | empty).long()).logits


def transformers(
    shape: Shape,
    *,
    activation: Activation,
    norm: str | None,
    dropout: float,
    folder: str,
    weights: str | None,
    config: dict[str, Any] | None = None,
) -> nn.Module:
    """Return (N, tokens) -> (N, outputs): a network of transformers that classifies.

    Its last layer is new, called `head`, behind knobs' dropout; all else is as transformers has it.
    `loaded` names the parameters that came with weights, `head_names` what the names of those
    begin with that stand behind its backbone; `layer_numbers` counts its layers from the
    embeddings on, and `described` is its config.json, by which it can be built anew.

    Args:
        activation, norm: the network's own; others are refused.
        folder: of config.json and safetensors, or a name of the hub.
        weights: None; DEFAULT, the folder's; or a file of tensors.
        config: its config.json, of a run that has been trained: the folder is not read.

    Raises:
        ConfigError: what is not there, names code of its own, or does not fit.
    """
    imported("transformers")
    asked = f"model.folder={folder}"
    keeps_its_own(activation, norm, asked, "transformers'")
    place = None if config else hub.folder_of(folder, asked)
    described = config or _described(place, asked)
    with _quiet():
        kind, settings = _kind(described, asked)
        if shape.vocabulary - OFFSET > settings.get_text_config().vocab_size:
            has = f"{shape.vocabulary - OFFSET:,} tokens, the network {settings.vocab_size:,}"
            raise ConfigError(f"{asked}: data.tokenizer has {has}; give the tokenizer of the same")
        net, loaded, heads = _built(kind, settings, shape, place, weights, asked)
    settings = net.config.get_text_config()
    last = last_layer(lambda n: _bare(kind, settings_with(net.config, n)), asked)
    put_dropout(net, last, dropout)
    made = TextNetwork(net, _padding(settings))
    made.loaded = frozenset(f"network.{name}" for name in loaded)
    made.head_names = tuple(f"network.{name}." for name in heads)
    made.layer_numbers = _numbered(made, heads)
    made.described = described
    _try(made, shape, asked)
    return made.train()


def _described(folder: Path, asked: str) -> dict[str, Any]:
    """Return config.json of a folder."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise ConfigError(f"{asked}: has no config.json; save_pretrained writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{asked}: config.json cannot be read ({first_line(error)})") from None
    return found


def _kind(described: dict[str, Any], asked: str) -> tuple[type, Any]:
    """Return the class of a config.json that classifies texts, and its settings.

    Raises:
        ConfigError: it names code of its own, is quantized, or transformers has none for it.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if "auto_map" in described:
        code = "config.json names code of its own (auto_map), which knobs never runs"
        raise ConfigError(f"{asked}: {code}; give a network of transformers itself")
    if "quantization_config" in described:
        raise ConfigError(
            f"{asked}: its weights are quantized, which do not train; give plain ones"
        )
    name = described.get("model_type")
    known = CONFIG_MAPPING.keys()
    if name not in known:
        hint = did_you_mean(str(name), known)
        raise ConfigError(f"{asked}: model_type={name} is none that transformers has{hint}")
    try:
        settings = CONFIG_MAPPING[name].from_dict(copy.deepcopy(described))
        kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(settings), None)
    except Exception as error:  # whatever its checks raise
        raise ConfigError(f"{asked}: config.json is refused ({first_line(error)})") from None
    if kind is None:
        raise ConfigError(f"{asked}: transformers has no {name} that classifies texts")
    return kind, settings


def settings_with(settings: Any, outputs: int) -> Any:
    """Return a copy of a network's settings with another number of outputs."""
    made = copy.deepcopy(settings)
    made.num_labels, made.use_cache, made.problem_type = outputs, False, None
    return made


def _bare(kind: type, settings: Any) -> nn.Module:
    return kind._from_config(settings, dtype=torch.float32)


def _built(
    kind: type, settings: Any, shape: Shape, place: Path | None, weights: str | None, asked: str
) -> tuple[nn.Module, set[str], list[str]]:
    """Return a network, the names of the parameters that came with weights, and its heads.

    Raises:
        ConfigError: weights that lack something, hold something else, or do not fit.
    """
    settings = settings_with(settings, shape.outputs)
    try:
        if weights is None:
            net, info = _bare(kind, settings), None
        else:
            source = asked if weights == "DEFAULT" else f"model.weights={weights}"
            state = _stored(place, asked) if weights == "DEFAULT" else read(weights)
            net, info = kind.from_pretrained(
                None, config=settings, state_dict=state, dtype=torch.float32,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except ConfigError:
        raise
    except Exception as error:  # what constructors of others raise
        raise ConfigError(f"{asked}: cannot be built ({first_line(error)})") from None
    base = net.base_model_prefix
    heads = [name for name, part in net.named_children() if name != base and [*part.parameters()]]
    if info is None:
        return net, set(), heads
    new = tuple(f"{name}." for name in heads)
    _refuse_misfits(net, info, new, base, source)
    lacking = {name for name in info["missing_keys"]} | _names(info["mismatched_keys"])
    loaded = {n for n, _ in net.named_parameters() if n not in lacking and not n.startswith(new)}
    for name in loaded:
        if not net.get_parameter(name).isfinite().all():
            raise ConfigError(f"{source}: {name} holds values that are not finite")
    return net, loaded, heads


def _names(entries: Any) -> set[str]:
    """Return the names of transformers' list of weights, each alone or with its shapes."""
    return {entry if isinstance(entry, str) else entry[0] for entry in entries}


def _refuse_misfits(
    net: nn.Module, info: dict, new: tuple[str, ...], base: str, source: str
) -> None:
    """Refuse weights that are not those of the backbone, but for a pooler, which may be new."""
    wrong = (
        ("lacks", {n for n in _names(info["missing_keys"]) if ".pooler." not in f".{n}"}),
        ("has besides", {n for n in _names(info["unexpected_keys"]) if n.startswith(f"{base}.")}),
        ("has of another shape", _names(info["mismatched_keys"])),
    )
    for what, keys in wrong:
        if keys := sorted(key for key in keys if not key.startswith(new)):
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            listed = ", ".join(keys[:5])
            whose = type(net).__name__
            raise ConfigError(f"{source}: not weights of {whose}; it {what} {listed}{more}")


def _stored(folder: Path, asked: str) -> dict[str, Tensor]:
    """Return the weights of a folder: safetensors, of one file or of several with an index.

    Raises:
        ConfigError: there are none, or only pickles.
    """
    if (folder / WEIGHTS).is_file():
        return read(str(folder / WEIGHTS))
    if not (folder / INDEX).is_file():
        pickled = any(folder.glob("pytorch_model*.bin"))
        has = "has pickles alone, which can run code" if pickled else f"has no {WEIGHTS}"
        fix = "save_pretrained(FOLDER) writes it; model.weights=null begins without weights"
        raise ConfigError(f"{asked}: {has}; {fix}")
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{asked}: {INDEX} cannot be read ({first_line(error)})") from None
    found: dict[str, Tensor] = {}
    for name in sorted(map(str, names)):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(
                f"{asked}: {INDEX} names {name}, which is no file of tensors beside it"
            )
        found |= read(str(folder / name))
    return found


def _padding(settings: Any) -> int:
    """Return the id that stands for padding; of a network that has none, that of an end of text.

    Its settings say so afterwards: a decoder answers at the last token that is no padding.
    """
    pad, size = settings.pad_token_id, settings.vocab_size
    if type(pad) is not int or not 0 <= pad < size:
        ends = getattr(settings, "eos_token_id", None)
        end = ends[0] if isinstance(ends, list) and ends else ends
        pad = end if type(end) is int and 0 <= end < size else size - 1
        settings.pad_token_id = pad
    return pad


def _numbered(net: nn.Module, heads: list[str]) -> dict[str, int]:
    """Return name -> number of its layer: embeddings 0, then each block, then what is behind."""
    numbers: dict[str, int] = {}
    blocks: dict[str, int] = {}
    starts = tuple(f"network.{name}." for name in heads)
    names = [name for name, _ in net.named_parameters()]
    for name in names:
        match = None if name.startswith(starts) else _NUMBER.search(name)
        if match:
            numbers[name] = blocks.setdefault(name[: match.end()], len(blocks) + 1)
    first = next((i for i, name in enumerate(names) if name in numbers), len(names))
    for i, name in enumerate(names):
        numbers.setdefault(name, 0 if i < first else len(blocks) + 1)
    return numbers


@torch.no_grad()
def _try(net: TextNetwork, shape: Shape, asked: str) -> None:
    """Refuse texts that a network cannot take, and one whose answer padding changes.

    Raises:
        ConfigError: saying which.
    """
    length, most = shape.input[0], min(net.network.config.get_text_config().vocab_size, 200)
    text = torch.arange(OFFSET, OFFSET + length).remainder(most).clamp(min=OFFSET)[None]
    end = getattr(net.network.config.get_text_config(), "eos_token_id", None)
    if type(end) is int:  # some read a text by its end
        text[:, -1] = end + OFFSET
    short = text[:, max(0, length - max(1, length // 2)) :]
    padded = torch.zeros_like(text)
    padded[:, : short.shape[1]] = short
    try:
        net.eval()(text)
        alone, among = net(short), net(torch.cat([padded, text]))[:1]
    except Exception as error:  # what networks of others raise
        raise ConfigError(
            f"{asked}: cannot take texts of {length:,} tokens ({first_line(error)}); a smaller "
            "data.max_length, or another network"
        ) from None
    off = ((alone - among).abs() / alone.abs().clamp(min=1)).max().item()
    if not off <= CLOSE:
        raise ConfigError(
            f"{asked}: its answer to a text changes by {off:.1e} with the padding behind it, so "
            "that it would depend on the batch; choose another network"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and its reports of weights off the screen."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
