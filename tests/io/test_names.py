"""Names of types that files can carry: after every function that writes, h5ad and zarr hold what was written."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi

import hpvade as hp
from hpvade.io._names import make_writable, named, plain_name, rows_of, writable, writable_name

NAMES = ["T", "T/NK", "/a/", ".x", "..", "_index", " lead", "trail ", "7", "0.5", "β ☃", "a\\b:c", "", ".", "a\0b"]
TYPES = ["T", "T/NK", ".hidden", "7", "β ☃/", "_index", " edge "]  # what a reference may hold
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": False}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_table_with_any_names_is_written_and_named_again(name, kind, tmp_path):
    table = pd.DataFrame({name: [1.0, 2.0], "Z": [0.0, 1.0]}, index=["s1", "s2"])
    assert plain_name(writable_name(name)) == name
    adata = ad.AnnData(np.ones((2, 1)), obs=pd.DataFrame(index=table.index), obsm={"t": table})
    make_writable(adata.obsm, ["t"])
    found = written(adata, kind, tmp_path)
    pd.testing.assert_frame_equal(named(found.obsm["t"]), table, check_names=False)


def test_what_can_be_written_stays_the_same_object():
    table = pd.DataFrame({"CD4 T": [1.0], "B": [0.0]})
    assert writable(table) is table and named(table) is table


def test_rows_of_a_table_by_sample():
    samples = pd.Index(["a", "b"])
    table = pd.DataFrame({"x": [1, 2, 3]}, index=["b", "c", "a"])
    assert rows_of(table, samples, "prior").tolist() == [2, 0]
    twice = pd.Index(["a", "a"])
    assert rows_of(table.iloc[:2].set_axis(twice), twice, "prior").tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"prior lacks 1 samples, such as \['d'\]"):
        rows_of(table, pd.Index(["a", "d"]), "prior")
    for index, wanted in ((["a", "a", "b"], samples), (["a", "b", "b"], samples), (["a", "a", "c"], pd.Index(["a"]))):
        with pytest.raises(ValueError, match="prior has more than one row for some samples"):
            rows_of(table.set_axis(index), wanted, "prior")
    assert rows_of(table.set_axis(["a", "c", "c"]), pd.Index(["a"]), "prior").tolist() == [0]


# ---------------------------------------------------------------- contract: every function that writes


def written(adata, kind, folder):
    path = folder / f"x.{kind}"
    getattr(adata, f"write_{kind}")(path)
    return getattr(ad, f"read_{kind}")(path)


def same(adata, folder):
    """Write, read back, compare all that hpvade writes."""
    for kind in ("h5ad", "zarr"):
        found = written(adata.copy(), kind, folder)
        for slot in ("obsm", "varm"):
            before, after = getattr(adata, slot), getattr(found, slot)
            assert set(before) == set(after)
            for key, value in before.items():
                if isinstance(value, pd.DataFrame):
                    pd.testing.assert_frame_equal(after[key], value, check_names=False)
                else:
                    np.testing.assert_array_equal(np.asarray(after[key]), np.asarray(value))
        assert list(found.obs) == list(adata.obs) and set(found.uns) == set(adata.uns)
        for key in adata.obs:
            assert list(found.obs[key].astype(str)) == list(adata.obs[key].astype(str)), key


@pytest.fixture(scope="module")
def case():
    """A reference with such names, its model, and bulk."""
    scvi.settings.seed = 0
    reference, bulk = hp.datasets.planted_cohort(
        n_types=len(TYPES), n_genes=260, n_cells=420, n_donors=3, n_samples=8, seed=1
    )
    old = list(bulk.obsm["proportions"].columns)
    names = dict(zip(old, TYPES, strict=True))
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(str).map(names)
    reference.varm.clear()
    truth = bulk.obsm["proportions"].rename(columns=names)
    bulk.obsm.clear()
    bulk.varm.clear()
    bulk.uns.clear()
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor")
    model = hp.HPVADE(reference, n_hidden=8, n_latent=3)
    model.train(1, **QUIET)
    return reference, model, bulk, truth


def test_training_leaves_the_reference_writable(case, tmp_path):
    reference, model, _, _ = case
    same(reference, tmp_path)
    pd.testing.assert_frame_equal(named(reference.varm["hpvade_signatures"]), model.get_signature_matrix())


def deconvolve(model, reference, bulk):
    result = model.deconvolve(bulk)
    assert sorted(result.columns) == sorted(TYPES)
    pd.testing.assert_frame_equal(named(bulk.obsm["hpvade_proportions"]), result)


WRITERS = {
    "deconvolve": deconvolve,
    "unknown": lambda model, reference, bulk: model.deconvolve(bulk, unknown=True),
    "hierarchy": lambda model, reference, bulk: model.deconvolve_hierarchy(
        bulk, hierarchy={name: "a/b" if name.startswith("T") else name for name in TYPES}
    ),
    "solve": lambda model, reference, bulk: hp.tl.solve(bulk, reference, labels_key="cell_type", method="nnls"),
    "diagnose": lambda model, reference, bulk: hp.tl.diagnose(bulk, model),
    "evaluate": lambda model, reference, bulk: model.evaluate(bulk, model.deconvolve(bulk)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("writer", WRITERS)
def test_bulk_stays_writable(case, writer, tmp_path):
    reference, model, bulk, _ = case
    bulk = bulk.copy()
    WRITERS[writer](model, reference, bulk)
    same(bulk, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_stored_tables_are_compared_and_drawn_by_their_names(case):
    _, model, bulk, truth = case
    bulk = bulk.copy()
    bulk.obsm["proportions"] = truth
    model.deconvolve(bulk)
    scores = hp.tl.evaluate(bulk, truth_key="proportions")
    make_writable(bulk.obsm, ["proportions"])  # as it comes from a file
    pd.testing.assert_frame_equal(hp.tl.evaluate(bulk, truth_key="proportions"), scores)
    hp.pl.proportions(bulk)
    hp.pl.agreement(bulk, truth_key="proportions")


def test_simulated_bulk_is_writable(case, tmp_path):
    reference, model, _, _ = case
    for bulk in (hp.pp.simulate_bulk(reference, "cell_type", 3, n_cells=50), model.simulate_bulk(3, n_cells=50)):
        same(bulk, tmp_path)
        assert sorted(named(bulk.obsm["proportions"]).columns) == sorted(TYPES)


def test_cells_stay_writable_in_the_other_families(tmp_path, families):
    cells = hp.datasets.planted_contexts(120, 20, seed=0)
    cells.varm.clear()
    for column in ("cell_type", "condition", "tissue"):
        cells.obs[column] = cells.obs[column].astype(str).str.replace("_", "/") + " "
    cells.obs["condition"] = cells.obs["condition"].replace({"condition/0 ": "condition_0"})
    for name in ("ivae", "cvae", "cycleae", "ambient"):
        adata = cells.copy()
        model = families[name](adata)
        model.train(1, **QUIET)
        if name == "cycleae":
            hp.tl.cycleae(adata, model)
            same(model.translate_reference(to={"condition": "condition_0"}), tmp_path)
        if name == "cvae":
            same(model.augment_reference(min_cells=60), tmp_path)
        if name == "ambient":
            same(model.get_clean_reference(), tmp_path)
        same(adata, tmp_path)
