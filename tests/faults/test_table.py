"""docs/RELIABILITY.md names every kind of fault that is injected, and how many there were."""

from injected import kinds, table


def test_table_has_every_kind():
    assert sorted(table()) == kinds()


def test_a_kind_is_named_once():
    assert len(set(kinds())) == len(kinds())


def test_every_kind_was_tried():
    rows = table().values()
    assert all(0 < quick <= whole for quick, whole, _ in rows), rows
