"""What `tl.cycleae` writes is what the methods return."""

import numpy as np
import pandas as pd
import pytest
import scvi

import hpvade as hp


@pytest.fixture(scope="module")
def fitted():
    scvi.settings.seed = 0
    adata = hp.datasets.planted_contexts(100, 30, fields={"sex": 2, "tissue": 3})
    hp.CycleAE.setup_anndata(adata, ["sex", "tissue"])
    model = hp.CycleAE(adata, n_latent=4, nonnegative=False)
    model.train(2, accelerator="cpu", enable_progress_bar=False)
    return model, adata


def test_slots_hold_the_results_and_a_copy_leaves_the_cells(fitted, tmp_path):
    model, adata = fitted
    copy = hp.tl.cycleae(adata, model, copy=True)
    assert "X_cycleae" not in adata.obsm
    assert hp.tl.cycleae(adata, model) is None
    for found in (copy, adata):
        np.testing.assert_array_equal(found.obsm["X_cycleae"], model.get_latent_representation())
        pd.testing.assert_frame_equal(found.uns["cycleae_head_influence"], model.get_head_influence())
        effects = found.varm["cycleae_effects"]
        assert list(effects.columns[:2]) == ["base: intercept", "sex: sex_0"]
        np.testing.assert_array_equal(
            effects["tissue: tissue_2"], model.get_context_effects().loc[("tissue", "tissue_2")]
        )
    copy.write_h5ad(tmp_path / "cells.h5ad")
