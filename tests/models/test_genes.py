"""Genes of cells beside those of a model."""

import anndata as ad
import numpy as np
import pytest
from tiny_model import Tiny, make_adata, trained_tiny


@pytest.fixture(scope="module")
def model():
    return trained_tiny()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_genes_are_compared_by_name(model, saved):
    cases = {
        r"2 of the 20 genes of the model are not in adata\.var_names, for example g0, g1": make_adata()[:, 2:].copy(),
        r"in another order.*adata\[:, model_var_names\]\.copy\(\)": make_adata()[:, ::-1].copy(),
        "with 1 others": ad.concat([make_adata(), ad.AnnData(np.ones((100, 1)), make_adata().obs)], axis=1),
    }
    for message, adata in cases.items():
        columns = list(adata.obs)
        with pytest.raises(ValueError, match=message):
            Tiny.load(saved, adata=adata)
        with pytest.raises(ValueError, match=message):
            model.get_latent_representation(adata)
        assert list(adata.obs) == columns and not adata.uns  # nothing was written
    aligned = make_adata()[:, ::-1][:, Tiny.load(saved, adata=False).get_var_names()].copy()
    np.testing.assert_array_equal(
        Tiny.load(saved, adata=aligned).get_latent_representation(), model.get_latent_representation()
    )
