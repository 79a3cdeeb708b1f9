"""Rank knobs: the search space, a Gaussian process of the runs, effects drawn from it."""
