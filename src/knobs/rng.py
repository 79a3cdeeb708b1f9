"""Named random streams, each a function of (seed, name, epoch, step).

No draw depends on how many draws came before it, so a run that resumes at any step
goes on with the numbers it would have had.
"""

import hashlib

import numpy as np
import torch


def key(seed: int, name: str, epoch: int = 0, step: int = 0) -> int:
    """Return a 63-bit seed for one moment of one stream."""
    text = f"{seed}/{name}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def member(seed: int, number: int) -> int:
    """Return the seed of a run's member: of the first one, 0, the run's own."""
    return key(seed, "member", number) if number else seed


def generator(seed: int, name: str, epoch: int = 0, step: int = 0) -> torch.Generator:
    """Return a CPU generator of its own for draws that can name one, such as the data's order."""
    return torch.Generator().manual_seed(key(seed, name, epoch, step))


def seed_global(value: int, device: torch.device) -> None:
    """Seed the generators that dropout and torch.nn.init draw from: the CPU's and `device`'s.

    Cheaper than torch.manual_seed, which visits every backend; this runs at every step.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


def sampled(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` rows with the smallest hash, by ascending row.

    Source: splitmix64, Steele et al. 2014.
    """
    z = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes = z ^ (z >> np.uint64(31))
    places = np.argsort(hashes, kind="stable")[:count]
    return places[np.argsort(rows[places])]
