import re

import pytest

import hpvade as hp
from hpvade._report._fingerprint import fingerprint


@pytest.fixture(scope="module")
def model():
    adata, _ = hp.datasets.planted_cohort(n_types=3, n_genes=60, n_cells=90, seed=0)
    hp.HPVADE.setup_anndata(adata, "cell_type")
    model = hp.HPVADE(adata)
    model.train(max_epochs=0, accelerator="cpu")
    return model


def test_a_model_from_its_folder_has_the_same(model, tmp_path):
    first = fingerprint(model)
    assert re.fullmatch("[0-9a-f]{64}", first) and fingerprint(model) == first
    model.save(tmp_path / "m")
    assert fingerprint(hp.HPVADE.load(tmp_path / "m", accelerator="cpu")) == first


def test_numbers_names_of_types_and_genes_change_it(model, monkeypatch):
    first = fingerprint(model)
    numbers = next(iter(model.module.state_dict().values()))
    numbers.flatten()[0].add_(1)
    assert fingerprint(model) != first
    numbers.flatten()[0].sub_(1)
    genes = model.get_var_names()
    monkeypatch.setattr(model, "get_var_names", lambda: [*genes[1:], genes[0]])
    assert fingerprint(model) != first
