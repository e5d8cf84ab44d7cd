import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.tl import evaluate_generation


def cells(mean, n=400, seed=0, kind="B"):
    counts = np.random.default_rng(seed).poisson(mean, (n, len(mean))).astype(np.float32)
    obs = pd.DataFrame({"cell_type": [kind] * n}, index=[f"{kind}{i}" for i in range(n)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs)


MEAN = np.array([0.01, 0.5, 2.0, 8.0])


def test_equals_numpy():
    real, ours = cells(MEAN), cells(MEAN * [1, 1.5, 1, 1], seed=1)
    table = evaluate_generation(ours, real).set_index("statistic")
    a, b = (part.X.toarray()[:, 1:].astype(float) for part in (ours, real))  # the first gene is too rare to compare
    error = np.abs(a.mean(axis=0) / b.mean(axis=0) - 1)
    assert table.loc["mean", "median"] == pytest.approx(np.median(error))
    assert table.loc["mean", "within_20_percent"] == pytest.approx(2 / 3)
    zeros = [(x == 0).mean(axis=0) for x in (a, b)]
    error = np.abs(zeros[0] - zeros[1]) / np.maximum(zeros[1], 0.01)
    assert table.loc["zero fraction", "q90"] == pytest.approx(np.quantile(error, 0.9))
    assert table.loc["mean", "n_real"] == 400


def test_halves_of_the_real_cells_are_the_limit():
    table = evaluate_generation(cells(MEAN, seed=1), cells(MEAN)).set_index("statistic")
    assert table.loc["mean", "real_halves"] < 0.1 and table.loc["mean", "median"] < 0.1


def test_conditions_are_compared_apart_and_small_ones_left_out():
    parts = [cells(MEAN), cells(MEAN[::-1].copy(), kind="T"), cells(MEAN, n=5, kind="NK")]
    real = ad.concat(parts)
    table = evaluate_generation(real, real)
    assert table["cell_type"].tolist() == ["B", "B", "T", "T"] and (table["median"] == 0).all()


def test_other_genes_or_no_condition():
    real = cells(MEAN)
    with pytest.raises(ValueError, match="generated has 3 genes, real 4"):
        evaluate_generation(real[:, :3].copy(), real)
    with pytest.raises(ValueError, match="has 1000 real cells"):
        evaluate_generation(real, real, min_cells=1000)


def test_memory_does_not_grow_with_cells():
    """Sums per condition are held, not the cells of a condition in dense form (here 480 MB)."""
    rng, n, n_genes = np.random.default_rng(0), 30_000, 2000
    X = sparse.random(
        n, n_genes, density=0.01, format="csr", random_state=rng, data_rvs=lambda k: rng.integers(1, 5, k)
    )
    adata = ad.AnnData(X.astype(np.float32), obs=pd.DataFrame({"type": "B"}, index=[f"c{i}" for i in range(n)]))
    tracemalloc.start()
    table = evaluate_generation(adata, adata, min_mean=0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (table["median"] == 0).all() and peak < 120e6
