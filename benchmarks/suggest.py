"""What `task=suggest` would say of each task of the prior, had it been made without that task.

    python benchmarks/suggest.py

Of a kind of model each task is left out with those of its source. By the others: the setting that
they like best and its expected rank, as the command finds them. By the task itself: the ranks of
that setting and of the default config among its own settings, 0 the best and 1 the worst; both are
scored by the task's smooth function, as neither is among them. Printed: means over the tasks, and
of how many tasks the suggestion is the better one.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from knobs.config import command
from knobs.search import coordinates
from knobs.search.prior import Group, Prior, learned
from knobs.training.suggest import liked

LINES = {"mlp": ["data=digits"], "cnn": ["data=digits", "model=cnn"]}  # an example of each kind
TEXTS = ["data=python_docs", "model=text_bag"]


def ranks(prior: Prior, group: Group, number: int, config: dict, chosen: dict) -> np.ndarray:
    """Return the expected rank of a task's suggestion, its rank there, and that of the default."""
    task = group.tasks[number]
    left = [j for j, other in enumerate(group.tasks) if other["source"] != task["source"]]
    tasks = [group.tasks[j] for j in left]
    others = replace(prior, groups=[replace(group, tasks=tasks, scores=group.scores[left])])
    alone = replace(group, tasks=[task], scores=group.scores[[number]])
    own = replace(prior, groups=[alone])
    config = config | {"data": config["data"] | {"task": task["type"]}}
    fixed = coordinates.described(config, chosen)
    expected, values, _, context, _ = liked(others, config, fixed, [*coordinates.FAMILIES], [])

    def rank(context: dict[str, Any], setting: dict[str, Any]) -> float:
        point = coordinates.coordinates(coordinates.context(context), [setting])
        score = own.functions(point, group.kind)[0, 0]
        return float(np.mean(group.scores[number].astype(float) < score))

    return np.array([expected, rank(context, values), rank(fixed, {})])


def main() -> None:
    """Print a row for each kind of model."""
    prior = learned()
    print("| model | tasks | expected rank | rank of the suggestion | of the default | better |")
    print("|---|---|---|---|---|---|")
    for group in prior.groups:
        config = command.checked(LINES.get(group.kind, TEXTS))
        options = {"optimizer": "adam", "scheduler": "constant", "init": "common"}
        chosen = options | {"activation": "relu", "regularization": "none", "model": group.kind}
        many = range(len(group.tasks))
        rows = np.array([ranks(prior, group, number, config, chosen) for number in many])
        expected, suggested, default = rows.mean(0)
        better = f"{(rows[:, 1] < rows[:, 2]).sum()} of {len(rows)}"
        print(
            f"| {group.kind} | {len(rows)} | {expected:.3f} | {suggested:.3f} | {default:.3f} | "
            f"{better} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
