"""`deconvolve(map_genes=True)`: bulk under other names of the same genes."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest

import hpvade as hp


@pytest.fixture(scope="module")
def blood():
    return hp.HPVADE.load(hp.datasets.blood_model())


@pytest.fixture(scope="module")
def versioned():
    """The shipped samples under versioned Ensembl ids, and under symbols, both of genes that have one id."""
    bulk = hp.datasets.pbmc_bulk()
    mapped = hp.pp.map_genes(bulk, "ensembl", duplicates="first")
    mapped = mapped[:, mapped.var_names.str.startswith("ENSG")]
    named = bulk[:, mapped.var["original_name"]].copy()
    renamed = named.copy()
    renamed.var_names = [f"{name}.{i % 20}" for i, name in enumerate(mapped.var_names)]
    return named, renamed


def test_other_names_of_the_same_genes_give_the_same_answer(blood, versioned):
    named, renamed = (data.copy() for data in versioned)
    names = list(renamed.var_names)
    expected = blood.deconvolve(hp.pp.map_genes(renamed, blood.get_signature_matrix().index))
    by_symbol = blood.deconvolve(hp.pp.map_genes(named, blood.get_signature_matrix().index))
    found = blood.deconvolve(renamed, map_genes=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=1e-6)
    np.testing.assert_allclose(found, by_symbol, atol=0.01)  # a few ids and symbols lead to different genes
    assert list(renamed.var_names) == names and "original_name" not in renamed.var
    assert renamed.uns["hpvade_gene_map"]["species"] == "human"
    pd.testing.assert_frame_equal(renamed.obsm["hpvade_proportions"], found)
    pd.testing.assert_frame_equal(blood.deconvolve(renamed.to_df(), map_genes=True), found)


def test_the_profile_of_the_unknown_has_the_bulks_names(blood, versioned):
    renamed = versioned[1].copy()
    mapped = hp.pp.map_genes(renamed, blood.get_signature_matrix().index)
    blood.deconvolve(mapped, unknown=True)
    blood.deconvolve(renamed, unknown=True, map_genes=True)
    expected, found = (data.varm["hpvade_proportions_unknown"]["unknown"].to_numpy() for data in (mapped, renamed))
    assert np.isfinite(expected).sum() > 5000
    first = ~mapped.var["original_name"].duplicated()
    expected = pd.Series(expected, index=mapped.var["original_name"])[first.to_numpy()].reindex(renamed.var_names)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_cohort_in_a_dask_array(blood, versioned):
    _, renamed = versioned
    expected = blood.deconvolve(renamed.copy(), map_genes=True)
    lazy = renamed.copy()
    lazy.X = da.from_array(np.asarray(renamed.X), chunks=(4, 2000))
    pd.testing.assert_frame_equal(blood.deconvolve(lazy, map_genes=True), expected, check_exact=False, atol=1e-5)


def test_the_message_proposes_it_and_nothing_is_written(blood, versioned, unchanged):
    _, renamed = versioned
    with unchanged(renamed), pytest.raises(ValueError, match=r"other names of the same genes.*pass map_genes=True"):
        blood.deconvolve(renamed)


def test_genes_of_another_species_are_refused(blood, unchanged):
    bulk = hp.datasets.pbmc_bulk()
    bulk.var_names = bulk.var_names.str.capitalize()
    with unchanged(bulk), pytest.raises(ValueError, match="mouse"):
        blood.deconvolve(bulk, map_genes=True)
