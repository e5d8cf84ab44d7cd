import numpy as np
import pytest

import hpvade as hp


def test_effects_are_in_the_counts():
    adata = hp.datasets.planted_contexts(6000, 200, fields={"sex": 2, "tissue": 3}, n_types=2, dispersion=0, umi=1e5)
    assert adata.X.dtype == np.float32 and (adata.X.data == np.rint(adata.X.data)).all()
    for field in ("sex", "tissue"):
        truth = adata.varm[f"effect_{field}"].to_numpy().T
        np.testing.assert_allclose(truth.mean(axis=0), 0, atol=1e-12)
        assert ((np.abs(truth).sum(axis=0) > 0).mean()) == pytest.approx(0.2, abs=0.08)
        codes = adata.obs[field].cat.codes.to_numpy()
        sums = np.log(
            np.array([np.asarray(adata.X[codes == c].mean(axis=0)).ravel() for c in range(len(truth))]) + 1e-9
        )
        kept = np.asarray(adata.X.mean(axis=0)).ravel() > 20
        change, expected = (sums[1] - sums[0])[kept], (truth[1] - truth[0])[kept]
        change = change - np.median(change[expected == 0])  # all counts of a cell sum to its size
        assert np.corrcoef(change, expected)[0, 1] > 0.97 and np.abs(change - expected).mean() < 0.15


def test_seed_decides_and_bad_numbers_are_refused():
    first, second = (hp.datasets.planted_contexts(50, 20, seed=s) for s in (1, 1))
    assert (first.X != second.X).nnz == 0
    assert (first.X != hp.datasets.planted_contexts(50, 20, seed=2).X).nnz > 0
    with pytest.raises(ValueError, match="n_genes is 0"):
        hp.datasets.planted_contexts(50, 0)
    with pytest.raises(ValueError, match="affected is 2"):
        hp.datasets.planted_contexts(affected=2)
    with pytest.raises(ValueError, match="'cell_type', the column of the types"):
        hp.datasets.planted_contexts(fields={"cell_type": 2})
