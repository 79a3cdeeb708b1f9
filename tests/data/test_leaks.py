"""Leaks: the tree is scikit-learn's, the areas too; columns that give the target, rows seen twice."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from knobs import build
from knobs.config import command
from knobs.data import leaks


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [0, 2, 5])
def test_the_tree_is_scikit_learns(seed, classes):
    draw = np.random.default_rng(seed)
    x = draw.choice(draw.normal(size=120), 300) if seed % 2 else draw.normal(size=300)
    noisy = np.sin(3 * x) + 0.3 * draw.normal(size=300)
    probe = draw.normal(size=500)
    if classes:
        kinds = np.digitize(noisy, np.quantile(noisy, np.arange(1, classes) / classes))
        y = (kinds[:, None] == np.arange(classes)).astype(float)
        fitted = DecisionTreeClassifier(max_depth=leaks.DEPTH).fit(x[:, None], kinds)
        expected = fitted.predict_proba(probe[:, None])
    else:
        y = noisy[:, None]
        fitted = DecisionTreeRegressor(max_depth=leaks.DEPTH).fit(x[:, None], noisy)
        expected = fitted.predict(probe[:, None])[:, None]
    edges, means = leaks.tree(x, y)
    found = means[np.searchsorted(edges, probe, side="left")]
    assert np.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_area_is_scikit_learns(seed):
    draw = np.random.default_rng(seed)
    truth = (draw.random(200) < 0.3).astype(float)
    scores = np.round(draw.normal(size=200) + truth, seed)  # with ties
    assert leaks.auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_means_of_groups_are_out_of_fold():
    groups, fold = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 2, 0, 1, 2])
    y = np.array([[1.0], [2], [6], [4], [5], [9]])
    found = leaks.group_means(groups, y, fold)[:, 0]
    others = [(2 + 5 + 6 + 9) / 4]  # no other row of group 1: the mean of the other folds
    assert found.tolist() == [4, 3.5, 1.5, *others, 9, 5]


def load(path, *more):
    base = ["data=csv", f"data.path={path}", "data.task=classification"]
    return build.data(command.checked([*base, *more]))


def table(path, made, rows=300):
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, rows)
    value = draw.gamma(2, 1, rows)
    columns = {"x": draw.normal(size=rows).round(3), "z": (draw.normal(size=rows) + y).round(3)}
    columns |= {"y": np.array(["no", "yes"])[y], "v": value.round(4)}
    columns |= {"made": made(y, value, draw)}
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def missing_unless(y, value, draw):
    """As a date of leaving, which only those have who left."""
    return [f"2024-{i % 12 + 1:02d}-03" if leaves else "" for i, leaves in enumerate(y)]


@pytest.mark.parametrize(("made", "target", "hinted"), [
    (lambda y, v, d: y, "y", "column made alone gives y (AUC 1.000), a leak?"),
    (lambda y, v, d: 3 - 2 * y + 0.1 * d.normal(size=300), "y", "column made alone gives y (AUC 1.000)"),
    (lambda y, v, d: np.array(["left", "stays"])[y], "y", "column made alone gives y (AUC 1.000)"),
    (missing_unless, "y", "column made alone gives y (AUC 1.000)"),
    (lambda y, v, d: [f"{'BA'[k]}-{i:04d}" for i, k in enumerate(y)], "y",
     "column made, which is left out, alone gives y (AUC 0.998)"),
    (lambda y, v, d: np.where(d.random(300) < 0.05, 1 - y, y), "y", ""),  # right in 95 %
    (lambda y, v, d: d.normal(size=300), "y", ""),
    (lambda y, v, d: 2 * v + 1, "v", "column made alone gives v (R2 1.000), a leak?"),
    (lambda y, v, d: np.log(v), "v", "column made alone gives v (R2 1.000)"),
    (lambda y, v, d: np.round(-v), "v", ""),
    (lambda y, v, d: v + 0.5 * d.normal(size=300), "v", ""),
])  # fmt: skip
def test_a_column_that_alone_gives_the_target_is_named(made, target, hinted, tmp_path):
    path = table(tmp_path / "t.csv", made)
    task = {"y": "classification", "v": "regression"}[target]
    more = [f"data.target={target}", f"data.task={task}", f"data.drop=[{'vy'[target == 'v']}]"]
    notes = [note for note in load(path, *more).notes if "alone gives" in note]
    assert len(notes) == bool(hinted)
    assert all(note.startswith(hinted) for note in notes)


def test_a_table_sorted_by_its_target_is_told_of_its_index(tmp_path):
    lines = [f"{i},{i * 37 % 101},{'ab'[i >= 150]}" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["id,x,y", *lines]) + "\n")
    notes = load(tmp_path / "t.csv", "data.target=y").notes
    assert notes[1] == "column id, which is left out, alone gives y (AUC 1.000), a leak?"


def test_a_label_or_one_of_several_targets_may_leak(tmp_path):
    path = table(tmp_path / "t.csv", lambda y, v, d: 1 - y)
    text = path.read_text().replace("yes", "1").replace("no", "0")
    path.write_text(
        "\n".join(f"{line},{'w' if i == 0 else i % 2}" for i, line in enumerate(text.splitlines()))
    )
    notes = load(path, "data.target=[y,w]", "data.task=multilabel").notes
    assert [note for note in notes if "alone" in note] == [
        "column made alone gives y (AUC 1.000), a leak?"]  # fmt: skip
    notes = load(path, "data.target=[v,y]", "data.task=regression").notes
    assert "column made alone gives y (R2 1.000), a leak?" in notes


def test_rows_in_two_splits_are_counted_and_named(tmp_path):
    rows = [f"{i}.5,{'pq'[i // 2 % 2]},{i % 2}" for i in range(200)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,c,y", *rows]) + "\n")
    alone = load(path, "data.target=y", "data.test=0.01")
    assert not any("identical" in note for note in alone.notes)
    train, chosen = alone.train.rows.tolist(), alone.val.rows.tolist()
    for k in range(4):  # other spellings, other labels
        rows[chosen[k]] = f"{train[k]}.50, {'pq'[train[k] // 2 % 2]},{k % 2}"
    rows = [row[:-1] + str(i % 2) for i, row in enumerate(rows)]
    path.write_text("\n".join(["x,c,y", *rows]) + "\n")
    pairs = "; ".join(f"line {chosen[k] + 2} = line {train[k] + 2}" for k in range(3))
    found = load(path, "data.target=y", "data.test=0.01")
    assert found.notes[1] == f"4 validation rows are identical to training rows ({pairs})"
    other = tmp_path / "u.csv"
    other.write_text("\n".join(["x,c,y", rows[train[5]], "999,p,0"]) + "\n")
    found = load(path, "data.target=y", f"data.test_path={other}")
    twice = found.train.rows[0].item()
    other.write_text("\n".join(["x,c,y", "999,p,0", rows[twice]]) + "\n")
    found = load(path, "data.target=y", f"data.test_path={other}")
    (note,) = [note for note in found.notes if "identical" in note]
    assert "1 test row" in note
    assert f"u.csv, line 3 = line {twice + 2}" in note or note.count(";") == 2


def test_texts_in_two_splits_are_counted_and_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"word {i % 50},{i // 50 % 2}\n" for i in range(100)))
    base = ["data=text_csv", f"data.path={path}", "model=text_bag"]
    data = build.data(command.checked(base))
    train = {i % 50 for i in data.train.rows.tolist()}
    n, m = (sum(i % 50 in train for i in s.rows.tolist()) for s in (data.val, data.test))
    [note] = [note for note in data.notes if "identical" in note]
    assert note.startswith(f"{n} validation and {m} test rows are identical to training")


def test_keys_are_equal_where_rows_are():
    draw = np.random.default_rng(0)
    x = draw.choice([0.0, -0.0, 1.5, np.nan], 500)
    c = draw.choice(np.array(["a", "b"], object), 500)
    keys = leaks.row_keys({"x": x, "c": c})
    texts = [f"{abs(v)} {w}" for v, w in zip(x, c, strict=True)]
    same = np.unique(texts, return_inverse=True)[1]
    assert len(set(keys.tolist())) == same.max() + 1 == 6
    assert len({*zip(keys.tolist(), same.tolist(), strict=True)}) == 6
    two = {"a": np.array([1.0, 2.0]), "b": np.array([2.0, 1.0])}
    assert len({*leaks.row_keys(two).tolist()}) == 2
