"""Answers do not depend on the order of genes, samples or cells, nor on the units and the storage of linear bulk."""

import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from property_inputs import STORAGES
from property_table import CELLS

import hpvade as hp

ANSWERS = {
    "deconvolve": lambda m, b: m["hpvade"].deconvolve(b),
    "deconvolve, rna": lambda m, b: m["hpvade"].deconvolve(b, fractions="rna", prior="network"),
    "deconvolve, unknown": lambda m, b: m["hpvade"].deconvolve(b, unknown=True),
    "deconvolve_hierarchy": lambda m, b: m["hpvade"].deconvolve_hierarchy(b)["type"],
    "get_study_proportions": lambda m, b: m["studies"].get_study_proportions(b),
    "get_proportion_intervals": lambda m, b: m["hpvade"].get_proportion_intervals(b, n_draws=20),
} | {
    f"tl.solve, {method}": lambda m, b, method=method: solved(m, b, method)
    for method in ("nnls", "rlr", "music", "hspe", "instaprism", "robust")
}
EPS = {"get_proportion_intervals": 0.05}  # draws are made in the order of the samples


def solved(models, bulk, method):
    keys = {"labels_key": "cell_type", "sample_key": "tissue", "key_added": "x", "device": "cpu"}
    hp.tl.solve(bulk, models["cells"], method=method, genes=None, **keys)
    return bulk.obsm["x"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ANSWERS)
def test_bulk(name, models, bulk):
    expected = ANSWERS[name](models, bulk.copy())

    @seed(zlib.crc32(name.encode()))
    @given(st.integers(0, 999), st.sampled_from([1.0, 1e-3, 7.5, 1e4, 1e9]), st.sampled_from(list(STORAGES)))
    def check(seed, unit, storage):
        rng = np.random.default_rng(seed)
        other = bulk[rng.permutation(bulk.n_obs)][:, rng.permutation(bulk.n_vars)].copy()
        X = other.X.toarray() if hasattr(other.X, "toarray") else np.asarray(other.X)
        other.X = STORAGES[storage](X.astype(np.float64) * unit)
        found = ANSWERS[name](models, other)
        assert list(found.index) == list(other.obs_names)
        pd.testing.assert_frame_equal(
            found.loc[expected.index], expected, check_exact=False, atol=EPS.get(name, 2e-4), rtol=0, check_dtype=False
        )

    check()


ROWS = [
    name
    for name, call in CELLS.items()
    if call.check.__name__ in ("cell_values", "probabilities") and "predict" not in name and "HPVADE" not in name
]


@pytest.mark.parametrize("name", ROWS)
def test_cells_answer_one_by_one(name, models):
    """What a model says of a cell does not depend on the cells beside it, their order or their storage."""
    call, cells = CELLS[name], models["cells"]
    expected = np.asarray(call.run(models, cells.copy()))

    @seed(zlib.crc32(name.encode()))
    @given(st.integers(0, 999), st.sampled_from(list(STORAGES)))
    def check(seed, storage):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(cells.n_obs)[: rng.integers(1, cells.n_obs)]
        other = cells[chosen].copy()
        other.X = STORAGES[storage](other.X.toarray())
        found = np.asarray(call.run(models, other))
        np.testing.assert_allclose(found, expected[chosen], rtol=1e-3, atol=1e-4)

    check()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["nnls", "robust", "music"])
def test_the_order_of_cells_and_types_of_a_reference(method, models, bulk):
    expected = solved(models, bulk.copy(), method)

    @given(st.integers(0, 999))
    def check(seed):
        rng = np.random.default_rng(seed)
        cells = models["cells"][rng.permutation(90)][:, rng.permutation(60)].copy()
        labels = cells.obs["cell_type"]
        cells.obs["cell_type"] = labels.cat.reorder_categories(rng.permutation(labels.cat.categories))
        found = solved({"cells": cells}, bulk.copy(), method)
        pd.testing.assert_frame_equal(found[expected.columns], expected, atol=2e-3, rtol=0)

    check()
