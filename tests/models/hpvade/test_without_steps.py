"""What training need not learn: answers after no step, and a signature that is that of all cells."""

import numpy as np
import pytest

import hpvade as hp

KEY = "hpvade_proportions"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def without_networks(planted, fit):
    """Model of a small reference after no step, its reference and bulk."""
    reference, bulk = planted()
    return fit(reference, 0), reference, bulk


def test_without_a_step_the_model_answers_as_tl_solve_does(without_networks):
    """Both read the same cells; they may differ by what training learns, and here it learned nothing."""
    model, reference, bulk = without_networks
    assert model.is_trained_ and not model.history
    found, solved = bulk.copy(), bulk.copy()
    model.deconvolve(found, fractions="rna")
    hp.tl.solve(
        solved, reference, labels_key="cell_type", sample_key="donor", method="robust", fractions="rna", key_added="by"
    )
    np.testing.assert_allclose(found.obsm[KEY], solved.obsm["by"], atol=1e-5)
    np.testing.assert_allclose(found.obsm[f"{KEY}_nnls"], solved.obsm["by_nnls"], atol=1e-5)


def test_what_needs_no_network_works_without_a_step(without_networks, tmp_path):
    model, _, bulk = without_networks
    model.save(tmp_path / "model")
    for one in (model, hp.HPVADE.load(tmp_path / "model", accelerator="cpu")):
        assert one.get_proportion_intervals(bulk).notna().all(axis=None)
        assert (one.module.interval_scale != 2).any()  # the folds were judged
        assert one.get_detection_limits(bulk)["limit"].notna().any()
        hp.tl.diagnose(bulk, one)
        for options in ({"refine": False}, {"prior": "network"}):
            with pytest.raises(RuntimeError, match=r"needs the networks, which train\(max_epochs=0\) left"):
                one.deconvolve(bulk, **options)
    for method in ("get_latent_representation", "get_elbo", "get_normalized_expression"):
        with pytest.raises(RuntimeError, match=r"needs the networks, which train\(max_epochs=0\) left"):
            getattr(model, method)()


def test_networks_can_be_trained_later(without_networks, planted):
    _, reference, bulk = without_networks
    model = hp.HPVADE(reference)
    model.train(0, **QUIET)
    model.train(1, **QUIET)
    assert model.module.bulk_input.std.ne(1).any()  # it started from the data, as a new model does
    assert model.get_latent_representation().shape == (480, 32)


@pytest.mark.parametrize("n_donors", [2, 4])
def test_the_signature_is_that_of_all_cells_times_what_training_learned(planted, fit, n_donors):
    """Genes that the networks do not see keep their measured column."""
    reference, _ = planted(n_donors=n_donors)
    model = fit(reference, 3, keys={"sample_key": "donor"}, n_genes=100)
    assert len(model.validation_indices) > 0
    X, types, donors = (
        reference.X.toarray().astype(float),
        *(reference.obs[c].to_numpy() for c in ("cell_type", "donor")),
    )
    expected = donor_average(X, types, donors, model.cell_types)
    unseen = np.setdiff1d(np.arange(reference.n_vars), model.module.gene_index)
    found = model.get_signature_matrix().to_numpy()
    np.testing.assert_allclose(found[unseen], expected[unseen], rtol=1e-5)
    change = found[model.module.gene_index] / np.maximum(expected[model.module.gene_index], 1e-30)
    seen = expected[model.module.gene_index] > 0
    np.testing.assert_allclose(change[seen], np.exp(0.1 * model.module.log_change.detach())[seen], rtol=1e-4)
    assert not np.allclose(change[seen], 1, atol=1e-5)


def donor_average(X, types, donors, names):
    """Relative profiles, shrunk to the pooled one by 50 cells, averaged over donors, times the counts per cell."""
    columns, sizes, size_by_donor, cells = [], [], [], []
    for name in names:
        pooled = X[types == name].sum(axis=0)
        cells.append((types == name).sum())
        sizes.append(pooled.sum() / cells[-1])
        profiles, own_sizes = [], []
        for donor in np.unique(donors):
            own = X[(types == name) & (donors == donor)]
            weight = len(own) / (len(own) + 50)
            profiles.append(weight * own.sum(axis=0) / own.sum() + (1 - weight) * pooled / pooled.sum())
            own_sizes.append(own.sum() / len(own))
        columns.append(np.mean(profiles, axis=0))
        size_by_donor.append(own_sizes)
    # every type in every donor, and all cells pooled as one more: least squares is the mean over them
    logs = np.log(np.column_stack([size_by_donor, sizes]))
    relative = np.exp((logs - logs.mean(axis=0)).mean(axis=1))
    relative *= np.dot(cells, sizes) / np.dot(cells, relative)
    return np.stack(columns, axis=1) * relative
