"""Files and runs of every kind of data, for tests of what is done with a trained model."""

import numpy as np
import pandas as pd
from PIL import Image

from knobs.config import command
from knobs.training.run import execute

WORDS = ["broken late refund angry", "great fast thanks lovely", "where when how password"]


def write_table(path, rows=240, seed=0):
    """A table of every kind of column: numbers, categories, dates, missing cells, an id."""
    draw = np.random.default_rng(seed)
    size, kind = draw.normal(70, 20, rows), draw.choice(["flat", "house", "boat"], rows)
    age = draw.integers(0, 90, rows).astype(object)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(draw.integers(0, 900, rows), "D")
    price = 900 * size + 20_000 * (kind == "house") + 1e6 + draw.normal(0, 5_000, rows)
    age[draw.random(rows) < 0.1] = ""
    rooms = np.clip(np.rint(size / 20), 1, None).astype(int)
    frame = pd.DataFrame({
        "id": range(rows), "size": np.round(size, 2), "kind": kind, "age": age,
        "sold": day.strftime("%d.%m.%Y"), "price": np.round(price, 1), "rooms": rooms,
        "cheap": np.where(price < np.median(price), "yes", "no"),
        "big": (size > 75).astype(int), "old": draw.integers(0, 2, rows),
    })  # fmt: skip
    frame.to_csv(path, index=False)
    return frame


def write_texts(path, rows=150, seed=0):
    draw = np.random.default_rng(seed)
    topic = draw.integers(0, 3, rows)
    texts = [" ".join(draw.choice(WORDS[t].split(), 3)) + f" {draw.integers(9)}!" for t in topic]
    frame = pd.DataFrame({"no": range(rows), "body": texts, "topic": [f"t{t}" for t in topic]})
    frame.to_csv(path, index=False)
    return frame


def write_pictures(folder, each=12):
    draw = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = draw.integers(0, 100, (24, 30, 3)) + c * 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return sorted(folder.rglob("*.png"))


def train(folder, *words):
    """A run of one epoch; its folder."""
    words = ["tracking=local", "training.epochs=2", "optimizer.lr=1e-2", *words]
    execute(command.checked(words), folder)
    return folder


DROP = {"cheap": "price,rooms,big,old", "rooms": "price,cheap,big,old",
        "price": "rooms,cheap,big,old",
        "price,rooms": "cheap,big,old", "big,old": "price,rooms,cheap"}  # fmt: skip
TASKS = {"cheap": "classification", "big,old": "multilabel"}


def table_words(path, target, *more):
    """The overrides of a run on a table of `write_table`."""
    task = TASKS.get(target, "regression")
    return ["data=csv", f"data.path={path}", f"data.target=[{target}]" if "," in target
            else f"data.target={target}", f"data.task={task}", f"data.drop=[{DROP[target]}]",
            *more]  # fmt: skip
