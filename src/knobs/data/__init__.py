"""Data sets: examples as tensors (or a stream of them), in training, validation and test splits."""

from knobs.data.dataset import Augment, Data, Stream, Tensors

__all__ = ["Augment", "Data", "Stream", "Tensors"]
