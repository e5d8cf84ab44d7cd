"""Cells moved by measured changes: means against planted and measured ones, what is refused, what is said."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp


def planted(n=300, seed=0):
    """Cells of 4 types in 2 contexts; effects are a common one and a type's own."""
    rng = np.random.default_rng(seed)
    n_genes = 300
    base = rng.normal(0, 1, n_genes) + 0.7 * rng.normal(size=(4, n_genes))
    effect = 0.8 * rng.normal(size=n_genes) * (rng.random(n_genes) < 0.4) + 0.1 * rng.normal(size=(4, n_genes))
    kind, context = np.arange(8 * n) % 4, np.arange(8 * n) // 4 % 2
    mean = np.exp(base[kind] + context[:, None] * effect[kind])
    mean *= 3000 / mean.sum(axis=1, keepdims=True)
    obs = pd.DataFrame({"type": np.array(list("ABCD"))[kind], "where": np.array(["x", "y"])[context]})
    obs.index = [f"c{i}" for i in range(len(obs))]
    import anndata as ad

    return ad.AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=obs)


def means(adata, **of):
    chosen = np.all([adata.obs[key] == value for key, value in of.items()], axis=0)
    X = adata.X[chosen].toarray()
    return (1e4 * X / X.sum(axis=1, keepdims=True)).mean(axis=0)


def thinned(adata, n, seed=0):
    """Only `n` cells of each type in context y."""
    rng = np.random.default_rng(seed)
    keep = (adata.obs["where"] == "x").to_numpy()
    for kind in "ABCD":
        cells = np.flatnonzero((adata.obs["type"] == kind) & (adata.obs["where"] == "y"))
        keep[rng.permutation(cells)[:n]] = True
    return adata[keep].copy()


def test_many_cells_are_moved_to_the_measured_means():
    adata = planted()
    before = adata.copy()
    moved = hp.pp.shift_context(adata, "where", "y", "type")
    assert moved.n_obs == (adata.obs["where"] == "x").sum() and set(moved.obs["where"]) == {"y"}
    for kind in "ABCD":
        found, wanted = (means(a, type=kind, where="y") for a in (moved, adata))
        assert np.sqrt(np.mean((np.log1p(found) - np.log1p(wanted)) ** 2)) < 0.06
    totals = [np.asarray(a.X.sum(axis=1)).ravel() for a in (moved, adata[adata.obs["where"] == "x"])]
    np.testing.assert_allclose(*totals, rtol=0.03)
    assert (moved.X.data == np.rint(moved.X.data)).all() and moved.X.data.min() >= 1
    table = moved.uns["shift_context"]
    assert table["n_target"].tolist() == [300] * 4 and (table["measured"] > 0.5).all()
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_ten_cells_per_type_are_better_shrunk():
    """Against the type's own shift, the simple thing, over five draws."""
    full = planted()
    ratios, shares = [], []
    for seed in range(5):
        few = thinned(full, 10, seed)
        moved = hp.pp.shift_context(few, "where", "y", "type", seed=seed)
        ours, own = [], []
        for kind in "ABCD":
            truth = np.log1p(means(full, type=kind, where="y"))
            ours.append(np.log1p(means(moved, type=kind, where="y")) - truth)
            own.append(np.log1p(means(few, type=kind, where="y")) - truth)
        ratios.append(np.sqrt(np.mean(np.square(ours)) / np.mean(np.square(own))))
        shares.append(moved.uns["shift_context"]["measured"].mean())
    assert np.median(ratios) < 0.8 and np.median(shares) < 0.6


def test_a_type_absent_from_the_target_is_named_and_extrapolated():
    full = planted()
    adata = full[~((full.obs["type"] == "C") & (full.obs["where"] == "y")).to_numpy()].copy()
    with pytest.warns(UserWarning, match="no cells of 'C': their change is that of similar types, not measured"):
        moved = hp.pp.shift_context(adata, "where", "y", "type")
    table = moved.uns["shift_context"].set_index("type")
    assert table.loc["C", ["n_target", "measured"]].tolist() == [0, 0]
    truth, found, before = (
        np.log1p(means(*a, type="C"))
        for a in ((full[full.obs["where"] == "y"],), (moved,), (full[full.obs["where"] == "x"],))
    )
    assert np.mean((found - truth) ** 2) < 0.3 * np.mean((before - truth) ** 2)


def test_seeds_storage_and_layers_do_not_matter(tmp_path):
    adata = planted(40)
    one = hp.pp.shift_context(adata, "where", "y", "type", seed=1)
    assert np.abs((one.X - hp.pp.shift_context(adata, "where", "y", "type", seed=2).X).toarray()).sum() > 0
    import anndata as ad

    adata.write_h5ad(tmp_path / "a.h5ad")
    dense = ad.AnnData(np.zeros(adata.shape, np.float32), obs=adata.obs, var=adata.var, layers={"n": adata.X.toarray()})
    for kind, layer in ((ad.read_h5ad(tmp_path / "a.h5ad", backed="r"), None), (dense, "n")):
        again = hp.pp.shift_context(kind, "where", "y", "type", seed=1, layer=layer)
        np.testing.assert_allclose(again.X.toarray(), one.X.toarray())
    one.write_h5ad(tmp_path / "moved.h5ad")
    pd.testing.assert_frame_equal(
        ad.read_h5ad(tmp_path / "moved.h5ad").uns["shift_context"], one.uns["shift_context"], check_dtype=False
    )


def test_refused():
    adata = planted(10)
    logged = adata.copy()
    logged.X = logged.X.log1p()
    lonely = adata[(adata.obs["where"] == "x").to_numpy() | (adata.obs["type"] == "A").to_numpy()].copy()
    lonely = lonely[~((lonely.obs["where"] == "x") & (lonely.obs["type"] == "A")).to_numpy()].copy()
    for cells, arguments, error, said in (
        (adata, ("where", "z", "type"), ValueError, "target='z' is no value.*found .'x', 'y'."),
        (adata, ("place", "y", "type"), KeyError, "context_key='place'"),
        (adata[adata.obs["where"] == "y"].copy(), ("where", "y", "type"), ValueError, "no other context than 'y'"),
        (lonely, ("where", "y", "type"), ValueError, "no cell type has cells in both 'x' and 'y'"),
        (logged, ("where", "y", "type"), ValueError, "log"),
    ):
        with pytest.raises(error, match=said):
            hp.pp.shift_context(cells, *arguments)
    with pytest.raises(ValueError, match="no other context"):
        hp.pp.shift_context(adata, "where", "y", "type", source="y")
