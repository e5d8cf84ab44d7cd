"""The profile of empty droplets against the planted one."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp


def raw(seed=0):
    """300 cells of another profile among 6,000 empty droplets of two lanes."""
    rng = np.random.default_rng(seed)
    soup, cell = rng.dirichlet(np.ones(50), 2), rng.dirichlet(np.ones(50))
    lane = np.arange(6300) % 2
    mean = 20 * soup[lane]
    mean[:300] = 2000 * cell
    obs = pd.DataFrame({"lane": np.array(["a", "b"])[lane]}, index=[f"d{i}" for i in range(6300)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=obs), soup


def test_the_planted_profiles_are_found(tmp_path):
    droplets, soup = raw()
    found = hp.pp.ambient_profile(droplets, batch_key="lane")
    assert list(found.columns) == ["a", "b"] and found.sum().tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(found.to_numpy(), soup.T, atol=0.004)
    X = droplets.X[300:].sum(axis=0).A1
    together = hp.pp.ambient_profile(droplets)
    np.testing.assert_allclose(together["all"], X / X.sum())
    droplets.write_h5ad(tmp_path / "raw.h5ad")
    backed = hp.pp.ambient_profile(ad.read_h5ad(tmp_path / "raw.h5ad", backed="r"))
    pd.testing.assert_frame_equal(backed, together)


def test_cells_are_no_empty_droplets():
    droplets, _ = raw()
    with pytest.raises(ValueError, match="have 0 counts in all in batch 'all'.*not the filtered"):
        hp.pp.ambient_profile(droplets[:300].copy())
    with pytest.raises(KeyError, match="batch_key='chip'"):
        hp.pp.ambient_profile(droplets, batch_key="chip")


def logged(droplets):
    droplets.X = droplets.X.log1p()


def twice(droplets):
    droplets.var_names = ["g0", *droplets.var_names[1:-1], "g0"]


def nowhere(droplets):
    droplets.obs["lane"] = droplets.obs["lane"].where(np.arange(droplets.n_obs) > 2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (logged, "raw.X looks log-transformed or scaled"),
        (twice, "duplicate"),
        (nowhere, r"raw.obs\['lane'\] has no value for 3 of 6300 droplets; expected the batch of each"),
    ],
)
def test_droplets_that_say_nothing_true(spoil, message):
    droplets, _ = raw()
    spoil(droplets)
    with pytest.raises(ValueError, match=message):
        hp.pp.ambient_profile(droplets, batch_key="lane")
