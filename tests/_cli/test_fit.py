import logging

import pytest

from hpvade._cli._errors import UsageError
from hpvade._cli._fit import load, quiet


def test_notes_of_the_training_libraries_are_silenced(caplog):
    quiet()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: False")
    logging.getLogger("scvi").warning("kept")
    assert "GPU" not in caplog.text


def test_a_model_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="model does not exist; expected a folder of `hpvade train`, or .blood."):
        load(tmp_path / "model")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; expected a folder"):
        load(tmp_path / "file")
