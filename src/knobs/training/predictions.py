"""predictions.safetensors: what a run's best weights say of its validation split, row by row.

Reports, ensembles and comparisons read it, and need neither the model nor the data.
"""

import json

import torch
from torch import Tensor

from knobs import rng, storage
from knobs.data import Stream, Tensors

FILE = "predictions.safetensors"
MOST_BYTES = 5_000_000
HEADER = 1000  # bytes, at most
SAMPLED = 20_000  # rows of a split that is larger


def encode(split: Tensors | Stream, outputs: Tensor, epoch: int) -> bytes:
    """Return the file: rows, targets and outputs of a split.

    `rows` (n,) int64 are numbers of the source's rows, ascending; `targets` (n,) or (n, T);
    `outputs` (n, C) float16, logits or standardised values. Of a split beyond MOST_BYTES the rows
    with the smallest hash, the same in every run on these data.

    Args:
        outputs: (N, C) float16 of the split's examples in order.
        epoch: whose weights they are of.
    """
    from safetensors.torch import save

    rows = torch.arange(len(split)) if split.rows is None else split.rows
    kept = outputs.cpu()
    a_row = rows.element_size() + split.y[:1].nbytes + kept[:1].nbytes
    most = (MOST_BYTES - HEADER) // a_row
    if len(rows) > most:
        chosen = sampled(rows, min(SAMPLED, most))
    else:
        chosen = rows.argsort()
    tensors = {"rows": rows[chosen], "targets": split.y.cpu()[chosen], "outputs": kept[chosen]}
    # One JSON text: safetensors writes several in an order that changes from run to run.
    told = json.dumps({"digest": storage.UNSIGNED, "epoch": str(epoch)})
    return storage.signed(save({n: t.contiguous() for n, t in tensors.items()}, {"knobs": told}))


def sampled(rows: Tensor, count: int) -> Tensor:
    """Return the places of the `count` rows with the smallest hash, by ascending row."""
    return torch.from_numpy(rng.sampled(rows.numpy(), count))


def decode(content: bytes) -> dict[str, Tensor]:
    """Return `rows`, `targets` and `outputs` of what `encode` returned.

    Raises:
        ValueError: not such a file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        storage.about(content)
        found = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{FILE}: cannot be read ({error})") from None
    rows, outputs = found.get("rows"), found.get("outputs")
    sound = (
        found.keys() == {"rows", "targets", "outputs"}
        and (rows.dtype, rows.ndim, outputs.dtype, outputs.ndim)
        == (torch.int64, 1, torch.float16, 2)
        and len(rows) == len(found["targets"]) == len(outputs)
        and bool(outputs.isfinite().all())
    )
    if not sound:
        raise ValueError(f"{FILE}: is not what a run writes")
    return found
