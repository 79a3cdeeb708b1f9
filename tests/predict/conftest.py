"""Files that the tests of predictions train on."""

import pytest
from predict_cases import write_pictures, write_table, write_texts


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a table, texts and pictures."""
    folder = tmp_path_factory.mktemp("home")
    write_table(folder / "t.csv")
    write_texts(folder / "mail.csv")
    write_pictures(folder / "pictures")
    return folder
