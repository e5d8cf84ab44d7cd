"""Names that results are kept under: the same answer at every door that takes `key_added`."""

import anndata as ad
import pytest

import hpvade as hp


@pytest.fixture(scope="module")
def planted():
    reference, bulk = hp.datasets.planted_cohort(n_types=3, n_genes=200, n_cells=240, n_samples=6, seed=3)
    hp.HPVADE.setup_anndata(reference, "cell_type")
    model = hp.HPVADE(reference)
    model.train(max_epochs=0, accelerator="cpu")
    return reference, bulk, model


DOORS = {
    "deconvolve": lambda reference, bulk, model, key: model.deconvolve(bulk, key_added=key),
    "hierarchy": lambda reference, bulk, model, key: model.deconvolve_hierarchy(bulk, key_added=key),
    "diagnose": lambda reference, bulk, model, key: hp.tl.diagnose(bulk, model, key_added=key),
    "solve": lambda reference, bulk, model, key: hp.tl.solve(bulk, reference, labels_key="cell_type", key_added=key),
    "check_labels": lambda reference, bulk, model, key: hp.tl.check_labels(
        reference, "cell_type", markers=None, key_added=key
    ),
    "transfer_labels": lambda reference, bulk, model, key: hp.pp.transfer_labels(
        reference, reference, labels_key="cell_type", anchor_labels_key="cell_type", key_added=key
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("key", ["a/b", "", 3])
def test_a_name_that_files_cannot_keep_is_refused(planted, unchanged, door, key):
    reference, bulk, model = planted
    with unchanged(reference), unchanged(bulk), pytest.raises((TypeError, ValueError), match="key_added.*expected a"):
        DOORS[door](reference, bulk, model, key)


def test_other_names_come_back_from_a_file(planted, tmp_path):
    _, bulk, model = planted
    bulk = bulk.copy()
    table = model.deconvolve(bulk, key_added="müller 2.0 (B|T)")
    bulk.write_h5ad(tmp_path / "b.h5ad")
    assert ad.read_h5ad(tmp_path / "b.h5ad").obsm["müller 2.0 (B|T)"].to_numpy().tolist() == table.to_numpy().tolist()
