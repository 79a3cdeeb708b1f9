"""Data sets: examples as tensors (or a stream of them), in training, validation and test splits."""

from knobs.data.dataset import Augment, Batch, Data, Stream, Tensors, take

__all__ = ["Augment", "Batch", "Data", "Stream", "Tensors", "take"]
