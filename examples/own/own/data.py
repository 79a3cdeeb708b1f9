"""Data sets."""

import numpy as np


def spirals(examples: int = 600, arms: int = 3, noise: float = 0.1) -> tuple:
    """Points (N, 2) on the arms of a spiral, and the arm of each: knobs splits and scales them."""
    random = np.random.default_rng(0)
    arm = np.arange(examples) % arms
    way = np.sqrt(random.uniform(0, 1, examples))
    angle = 4 * way + 2 * np.pi * arm / arms + noise * random.standard_normal(examples)
    return np.stack([way * np.cos(angle), way * np.sin(angle)], 1), arm
