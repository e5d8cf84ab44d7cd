"""Plots of the attribution of latent axes to modalities."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp


def test_heat_map_and_shares():
    table = pd.DataFrame([[2.0, 1.0, 1.0], [0.0, 3.0, 1.0]], index=["atac", "rna"])
    figure = hp.pl.modality_attribution(table, {"atac": (0, 1), "rna": (1, 3)})
    heat, bars = figure.axes[:2]
    np.testing.assert_allclose(heat.images[0].get_array(), [[1, 0.5, 0.5], [0, 1, 1 / 3]])
    widths = np.array([[bar.get_width() for bar in group] for group in bars.containers])
    np.testing.assert_allclose(widths, [[0.5, 0.0], [0.5, 1.0]])


@pytest.mark.parametrize("values", [[[np.nan, 1.0]], [[-1.0, 1.0]], [[]]])
def test_bad_tables(values):
    with pytest.raises(ValueError, match="finite, not negative and not empty"):
        hp.pl.modality_attribution(pd.DataFrame(values))


def test_scatter_draws_what_is_stored():
    adata = ad.AnnData(np.ones((4, 1)))
    for name in ("atac_decoder_total_attr", "rna_decoder_total_attr", "log2_atac_vs_rna_attr"):
        adata.obs[name] = [1.0, 2.0, -3.0, 0.5]
    adata.obsm["X_pca"] = np.arange(12.0).reshape(4, 3)
    figure = hp.pl.attribution_scatter(adata, ["atac", "rna"], basis="X_pca")
    points = figure.axes[0].collections[0]
    np.testing.assert_allclose(points.get_offsets(), adata.obsm["X_pca"][:, :2])
    np.testing.assert_allclose(points.get_array(), adata.obs["atac_decoder_total_attr"])
    assert figure.axes[2].collections[0].get_clim() == (-3.0, 3.0)
