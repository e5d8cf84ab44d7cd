"""RV-14: integration of batches, against SCVI of the same size and epochs."""

import numpy as np
import pytest
import scvi
from sklearn.neighbors import NearestNeighbors

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
OURS, THEIRS = hp.AmbientRegularizedSCVI, scvi.model.SCVI


def scores(latent, batch, label, k=30):
    """Share of neighbours from other batches over its expectation, and share with the same label."""
    neighbours = NearestNeighbors(n_neighbors=k + 1).fit(latent).kneighbors(return_distance=False)[:, :k]
    expected = np.mean([(batch != b).mean() for b in batch])
    mixing = (batch[neighbours] != batch[:, None]).mean() / expected
    return mixing, (label[neighbours] == label[:, None]).mean()


@pytest.mark.slow
def test_rv_14_batches_mix_and_types_stay_apart_as_well_as_with_scvi():
    reference, _ = hp.datasets.planted_cohort(
        n_types=5, n_genes=300, n_cells=1000, n_donors=4, n_samples=2, batch_sd=0.4, seed=2
    )
    batch, label = (reference.obs[key].cat.codes.to_numpy() for key in ("batch", "cell_type"))
    found = {}
    for cls in (OURS, THEIRS):
        scvi.settings.seed = 0
        cls.setup_anndata(reference, batch_key="batch")
        model = cls(reference, n_hidden=64, n_latent=10)
        model.train(60, train_size=1.0, **QUIET)
        found[cls] = np.array(scores(model.get_latent_representation(), batch, label))
    mixing, purity = found[OURS] - found[THEIRS]
    assert mixing > -0.02 and 0.4 * mixing + 0.6 * purity > -0.02
