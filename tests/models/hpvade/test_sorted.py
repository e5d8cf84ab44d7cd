"""Types from sorted profiles in a model: wider intervals, provenance, and both after saving."""

import numpy as np
import pandas as pd
import pytest

import hpvade as hp


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of cells' sums alone, and one whose last type is from a sorted profile, loaded again."""
    cells, bulk = hp.datasets.planted_cohort(n_types=4, n_genes=800, n_cells=1200, n_donors=4, seed=2)
    sums = hp.pp.summarize(cells, "cell_type", sample_key="donor")
    profiles = cells.to_df().groupby(cells.obs["cell_type"], observed=True).mean().T
    known = sums[sums.obs["cell_type"] != "type_3"].copy()
    known.obs["cell_type"] = known.obs["cell_type"].cat.remove_unused_categories()
    keys = {"labels_key": "cell_type", "sample_key": "donor"}
    sizes = {"type_3": 1.0, "type_0": 1.0, "type_1": 1.0}
    whole = hp.pp.add_sorted_profiles(known, profiles, ["type_3"], rna_content=sizes, **keys)
    found = []
    for adata in (sums, whole):
        hp.HPVADE.setup_anndata(adata, n_cells_key="n_cells", **keys)
        model = hp.HPVADE(adata)
        model.train(accelerator="cpu", enable_progress_bar=False)
        path = tmp_path_factory.mktemp("model") / "m"
        model.save(path)
        found.append(hp.HPVADE.load(path))
    return *found, bulk


def test_provenance_names_the_type(models):
    plain, marked, bulk = models
    bulk = bulk.copy()
    plain.deconvolve(bulk)
    assert "sorted_profiles" not in bulk.uns["hpvade_proportions"]
    marked.deconvolve(bulk)
    table = bulk.uns["hpvade_proportions"]["sorted_profiles"]
    assert list(table.index) == ["type_3"] and (table["log_sd"] > 0).all()


def test_its_intervals_are_wider_than_those_of_cells(models):
    plain, marked, bulk = models
    widths = []
    for model in (plain, marked):
        bounds = model.get_proportion_intervals(bulk, n_draws=400)
        upper, lower = (bounds.xs(bound, axis=1, level="bound") for bound in ("upper", "lower"))
        widths.append((upper - lower)["type_3"].to_numpy())
    assert np.median(widths[1] / widths[0]) > 1.3


def test_scale_and_size_are_those_of_another_platform_at_least(models):
    _, marked, _ = models
    scale, size_sd = marked.module.interval_scale.numpy(), marked.module.size_sd.numpy()
    log_sd = marked.module.sorted_log_sd.numpy()
    pd.testing.assert_series_equal(pd.Series(log_sd > 0), pd.Series([False, False, False, True]))
    assert scale[3] >= 2.0 * (1 + log_sd[3]) - 1e-6
    assert size_sd[3] >= 0.25
