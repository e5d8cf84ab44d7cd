import numpy as np
import pytest

from hpvade.models.cvae._setup import check_setup

KEYS = {"labels_key": "cell_type", "perturbation_key": "perturbation", "experiment_key": None}


def test_cv_02_no_column_no_labels(cells, unchanged):
    adata = cells(45)
    with unchanged(adata), pytest.raises(ValueError, match="labels_key is None.*No labels are made up"):
        check_setup(adata, KEYS | {"labels_key": None}, "control", None, None, None, new=True)


def test_one_type_is_enough_for_new_data_only(cells):
    adata = cells(45)
    adata.obs["cell_type"] = "B"
    check_setup(adata, KEYS, "control", None, None, None, new=False)
    with pytest.raises(ValueError, match="1 cell types"):
        check_setup(adata, KEYS, "control", None, None, None, new=True)
    adata.obs["cell_type"] = np.where(np.arange(45) < 5, "?", "B")
    with pytest.raises(ValueError, match="1 cell types"):
        check_setup(adata, KEYS, "control", "?", None, None, new=True)
