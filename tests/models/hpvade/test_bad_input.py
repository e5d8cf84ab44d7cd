"""HP-26 and the issue's list of bad input: the stated error or warning, and AnnData objects as they were."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def relabel(adata, cells, name):
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[cells] = name
    adata.obs["cell_type"] = labels


def set_value(value):
    def change(adata):
        X = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
        X[3, 5] = value
        adata.X = X

    return change


def divide(factor):
    def change(adata):
        adata.X = adata.X / factor

    return change


def zeros(adata):
    adata.X = np.zeros(adata.shape, dtype=np.float32)


def logged(adata):
    X = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    adata.X = np.log1p(1e4 * X / X.sum(axis=1, keepdims=True))


def duplicate_genes(adata):
    adata.var_names = ["gene_0001", *adata.var_names[:-1]]


def types(adata):
    return adata.obs["cell_type"].to_numpy()


# ---------------------------------------------------------------- HP-26: the reference

REFERENCES = {
    "labels absent": ({"labels_key": "type"}, None, KeyError, r"labels_key='type' is not a column.*'cell_type'"),
    "batch absent": ({"batch_key": "lane"}, None, KeyError, "batch_key='lane' is not a column"),
    "sample absent": ({"sample_key": "person"}, None, KeyError, "sample_key='person' is not a column"),
    "layer absent": ({"layer": "counts"}, None, KeyError, "layer 'counts' is not in adata.layers"),
    "NaN labels": ({}, lambda a: relabel(a, 7, np.nan), ValueError, "missing .* 1 of 480 cells, the first is 'cell_7'"),
    "one type": ({}, lambda a: relabel(a, slice(None), "B"), ValueError, "only one type, 'B'"),
    "type with one cell": ({}, lambda a: relabel(a, 7, "rare"), ValueError, r"fewer than 2 cells: 'rare' \(1 cell\)"),
    "duplicate types": (
        {},
        lambda a: relabel(a, slice(0, 40), "Type_1 "),
        ValueError,
        "duplicate type names.*upper/lower case or spaces",
    ),
    "negative": ({}, set_value(-2.0), ValueError, r"adata.X holds a negative value .* 'cell_3', var 'gene_0006'"),
    "NaN": ({}, set_value(np.nan), ValueError, "adata.X holds NaN at obs 'cell_3', var 'gene_0006'"),
    "infinite": ({}, set_value(np.inf), ValueError, "adata.X holds an infinite value at obs 'cell_3'"),
    "all zero": ({}, zeros, ValueError, "adata.X holds only zeros"),
    "logged": ({}, logged, ValueError, "looks log-transformed or scaled.*expected raw counts"),
    "duplicated genes": ({}, duplicate_genes, ValueError, "gene names more than once, such as .*gene_0001"),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_hp26_bad_reference(planted, unchanged, case):
    arguments, change, error, message = REFERENCES[case]
    adata, _ = planted()
    if change is not None:
        change(adata)
    with unchanged(adata), pytest.raises(error, match=message):
        hp.HPVADE.setup_anndata(adata, **{"labels_key": "cell_type"} | arguments)


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda a: a[:100], "is a view.*adata.copy"),
        (lambda a: a[:0].copy(), "is empty: 0 cells x 300 genes"),
        (lambda a: a[:, :0].copy(), "is empty: 480 cells x 0 genes"),
    ],
    ids=["view", "no cells", "no genes"],
)
def test_hp26_view_and_empty(planted, unchanged, take, message):
    adata, _ = planted()
    taken = take(adata)
    with unchanged(adata, taken), pytest.raises(ValueError, match=message):
        hp.HPVADE.setup_anndata(taken, "cell_type")


def test_hp26_nested_types_warn(planted):
    adata, _ = planted()
    names = {"type_0": "T cells", "type_1": "CD4 T cells"}
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(names)
    with pytest.warns(UserWarning, match="'T cells' of 'CD4 T cells'|'CD4 T cells' of 'T cells'"):
        hp.HPVADE.setup_anndata(adata, "cell_type")
    assert hp.HPVADE(adata).cell_types == ["T cells", "CD4 T cells", "type_2", "type_3"]


def test_hp26_non_integer_counts_warn_and_name_the_layer(planted):
    adata, _ = planted()
    adata.layers["soup"] = adata.X * 10.5
    with pytest.warns(UserWarning, match=r"adata.layers\['soup'\] holds values that are not integers"):
        hp.HPVADE.setup_anndata(adata, "cell_type", layer="soup")


KINDS = ["dense", "csr", "csc", "csr_array", "int", "float64", "layer"]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_in_any_form_gives_the_same_result(planted, fit, kind, form):
    """Values are left as they are, and proportions agree to the last bits of the sums."""
    expected, bulk = form
    adata, _ = planted()
    X, keys = adata.X.toarray(), {"sample_key": "donor"}
    if kind == "layer":
        adata.layers["raw"], keys["layer"] = adata.X, "raw"
        adata.X = adata.X * 2.5
    elif kind in ("dense", "int", "float64"):
        adata.X = X.astype({"dense": np.float32, "int": np.int64, "float64": np.float64}[kind])
    else:
        adata.X = getattr(sparse, kind if kind == "csr_array" else f"{kind}_matrix")(X)
    found = fit(adata, 1, keys=keys).deconvolve(bulk.copy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    values = adata.layers["raw"] if kind == "layer" else adata.X
    np.testing.assert_array_equal(values.toarray() if sparse.issparse(values) else values, X)


@pytest.fixture(scope="module")
def form(planted, fit):
    adata, bulk = planted()
    return fit(adata, 1, keys={"sample_key": "donor"}).deconvolve(bulk.copy()), bulk


@pytest.mark.parametrize("make", [sparse.csr_matrix, lambda X: X.toarray()], ids=["sparse", "dense"])
def test_backed_reference_works(planted, fit, form, tmp_path, make):
    """Cells arrive in another order within a batch, so results agree closely and not exactly."""
    expected, bulk = form
    adata, _ = planted()
    adata.X = make(adata.X)
    adata.write_h5ad(tmp_path / "ref.h5ad")
    size = (tmp_path / "ref.h5ad").stat().st_size
    backed = ad.read_h5ad(tmp_path / "ref.h5ad", backed="r")
    model = fit(backed, 1, keys={"sample_key": "donor"})
    np.testing.assert_allclose(model.deconvolve(bulk.copy()), expected, atol=0.02)
    assert list(backed.varm["hpvade_signatures"].columns) == model.cell_types
    assert (tmp_path / "ref.h5ad").stat().st_size == size


# ---------------------------------------------------------------- HP-26: the bulk


def genes_known(share):
    def change(bulk):
        n = round(share * bulk.n_vars)
        bulk.var_names = [*bulk.var_names[:n], *(f"unknown_{i}" for i in range(bulk.n_vars - n))]

    return change


def ensembl(bulk):
    bulk.var_names = [f"ENSG{i:011d}" for i in range(bulk.n_vars)]


def zero_sample(bulk):
    bulk.X[4] = 0


BULKS = {
    "no genes shared": ({}, genes_known(0.0), ValueError, r"has 0 of the model's 300 genes \(0.0%\); .*identifiers"),
    "1 % shared": (
        {},
        genes_known(0.01),
        ValueError,
        r"3 of the model's 300 genes .*; .* are needed for most",
    ),
    "missing genes refused": ({"missing": "error"}, genes_known(0.9), ValueError, "missing are 30 .*missing='mean'"),
    "Ensembl ids": ({}, ensembl, ValueError, "Ensembl"),
    "logged": ({}, logged, ValueError, "looks log-transformed.*input_type='log1p'"),
    "all-zero sample": ({}, zero_sample, ValueError, r"1 of 12 .* 'sample_4' \(no expression at all\)"),
    "negative": ({}, set_value(-1.0), ValueError, r"'sample_3' \(a negative value .* at var 'gene_0006'\)"),
    "NaN": ({}, set_value(np.nan), ValueError, r"'sample_3' \(NaN at var 'gene_0006'\)"),
    "infinite": ({}, set_value(np.inf), ValueError, r"'sample_3' \(an infinite value at var 'gene_0006'\)"),
    "duplicated genes": ({}, duplicate_genes, ValueError, "gene names more than once"),
    "layer absent": ({"layer": "tpm"}, None, KeyError, "layer 'tpm' is not in bulk.layers"),
    "lengths absent": ({"gene_length_key": "length"}, None, KeyError, "gene_length_key='length' is not a column"),
    "unknown unit": (
        {"input_type": "rpkm"},
        None,
        ValueError,
        "input_type='rpkm' is not known; expected one of 'auto'",
    ),
    "unknown missing": ({"missing": "drop"}, None, ValueError, "missing='drop' is not known; expected one of 'mean'"),
    "unknown fractions": ({"fractions": "mass"}, None, ValueError, "fractions='mass' is unknown; expected 'cell'"),
    "unknown way out": ({"on_bad_sample": "drop"}, None, ValueError, "on_bad_sample='drop' is not known; expected one"),
    "batches absent": ({"batch_key": "study"}, None, KeyError, "batch_key='study' is not a column of bulk.obs"),
    "batch size": ({"batch_size": -1}, None, ValueError, "batch_size=-1; expected"),
}


@pytest.mark.parametrize("case", BULKS)
def test_hp26_bad_bulk(trained, unchanged, case):
    arguments, change, error, message = BULKS[case]
    bulk = trained.bulk.copy()
    if change is not None:
        change(bulk)
    with unchanged(bulk, trained.reference), pytest.raises(error, match=message):
        trained.model.deconvolve(bulk, **arguments)


@pytest.mark.parametrize("share", [0.1, 0.49])
def test_hp26_few_genes_that_tell_types_apart_are_enough(trained, share):
    """Names do not count, information does: here a tenth of the genes has it."""
    bulk = trained.bulk.copy()
    genes_known(share)(bulk)
    with pytest.warns(UserWarning, match=f"{300 * share:.0f} of the model's 300 genes"):
        found = trained.model.deconvolve(bulk)
    truth = bulk.obsm["proportions"][found.columns]
    assert np.sqrt(((found - truth) ** 2).mean(axis=None)) < 0.1


@pytest.mark.parametrize(
    ("take", "error", "message"),
    [
        (lambda b: b[:0].copy(), ValueError, "The bulk is empty: 0 samples x 300 genes"),
        (lambda b: b[:, :0].copy(), ValueError, "The bulk is empty: 12 samples x 0 genes"),
        (lambda b: b.T.copy(), ValueError, r"(?i)genes as rows|transpose"),
        (lambda b: pd.DataFrame(b.X), ValueError, "The bulk has 0 of the model's 300 genes"),
        (lambda b: b.to_df().T, ValueError, "genes as rows"),
        (lambda b: [1, 2], TypeError, "The bulk is a list; expected an AnnData or a DataFrame"),
    ],
    ids=["no samples", "no genes", "transposed", "table without names", "table of genes x samples", "list"],
)
def test_hp26_bulk_of_a_wrong_shape(trained, take, error, message):
    bulk = take(trained.bulk.copy())
    with pytest.raises(error, match=message):
        trained.model.deconvolve(bulk)
    if isinstance(bulk, ad.AnnData):
        assert not [key for key in [*bulk.obsm, *bulk.uns] if key.startswith("hpvade")]


def test_half_of_the_genes_is_enough(trained):
    bulk = trained.bulk.copy()
    genes_known(0.5)(bulk)
    with pytest.warns(UserWarning, match=r"150 of the model's 300 genes \(50.0%\); missing are 150"):
        found = trained.model.deconvolve(bulk)
    error = np.abs(found - bulk.obsm["proportions"]).to_numpy().mean()
    assert error < 0.5 * np.abs(bulk.obsm["proportions"] - 0.25).to_numpy().mean()


def test_logged_bulk_is_undone_on_request(trained):
    bulk, log = trained.bulk.copy(), trained.bulk.copy()
    logged(log)
    found = trained.model.deconvolve(log, input_type="log1p")
    np.testing.assert_allclose(found, trained.model.deconvolve(bulk), atol=1e-3)
    assert log.uns["hpvade_proportions"]["input_type"] == "log1p"


@pytest.mark.parametrize("preset", ["trained", "literal"])
def test_one_sample_works(preset, request):
    which = request.getfixturevalue(preset)
    found = which.model.deconvolve(which.bulk[:1].copy())
    assert found.shape == (1, 4) and found.to_numpy().sum() == pytest.approx(1)
    if preset == "trained":
        assert np.abs(found - which.bulk.obsm["proportions"].iloc[:1]).to_numpy().max() < 0.1


def test_hp26_before_training(planted, unchanged):
    adata, bulk = planted()
    hp.HPVADE.setup_anndata(adata, "cell_type")
    model = hp.HPVADE(adata)
    with unchanged(adata, bulk):
        for call in (lambda: model.deconvolve(bulk), lambda: model.evaluate(bulk), model.get_signature_matrix):
            with pytest.raises(RuntimeError, match="needs a trained model. Call `model.train"):
                call()


# ---------------------------------------------------------------- options and devices

OPTIONS = {
    "train": ({"max_epoch": 3}, TypeError, r"train\(\) got unknown options \['max_epoch'\]"),
    "plan": ({"plan_kwargs": {"learning_rate": 1}}, TypeError, r"plan_kwargs got unknown options \['learning_rate'\]"),
    "splitter": ({"datasplitter_kwargs": {"workers": 1}}, TypeError, r"datasplitter_kwargs .*\['workers'\]"),
    "simulation": ({"simulation_kwargs": {"n_cell": 1}}, TypeError, "simulation_kwargs=.*expected some of .*'n_cells'"),
    "train_size": ({"train_size": 1.5}, ValueError, "train_size=1.5"),
    "sizes": ({"train_size": 0.9, "validation_size": 0.5}, ValueError, "sum to at most 1"),
    "stopping": ({"train_size": 1.0}, ValueError, "early_stopping=True needs validation cells"),
    "epochs": ({"max_epochs": -1}, ValueError, "max_epochs=-1; expected a whole number of at least 0"),
    "half an epoch": ({"max_epochs": 1.5}, ValueError, "max_epochs=1.5; expected a whole number"),
    "epochs as text": ({"max_epochs": "1"}, ValueError, "max_epochs='1'; expected a whole number"),
    "batch as text": ({"batch_size": "8"}, ValueError, "batch_size='8'; expected a whole number"),
    "batch_size": ({"batch_size": 0}, ValueError, "batch_size=0; expected"),
    "n_cells": ({"simulation_kwargs": {"n_cells": 0}}, ValueError, "n_cells=0; expected a whole number of at least 1"),
    "alpha": ({"simulation_kwargs": {"alpha": -1.0}}, ValueError, "alpha is -1.0; expected a positive"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_hp26_bad_training_options(trained, planted, unchanged, weights, case):
    """Refused before any work, with the trained model as it was."""
    arguments, error, message = OPTIONS[case]
    model, before = trained.model, weights(trained.model)
    if "train_size" in arguments:  # a trained model keeps its split
        hp.HPVADE.setup_anndata(adata := planted()[0], "cell_type")
        model = hp.HPVADE(adata)
    with unchanged(model.adata), pytest.raises(error, match=message):
        model.train(**{"max_epochs": 1} | QUIET | arguments)
    assert all(torch.equal(value, before[name]) for name, value in weights(trained.model).items())
    assert trained.model.is_trained_ and not trained.model.module.training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_hiden": 64}, TypeError, r"unknown options \['n_hiden'\].*'n_hidden'"),
        ({"preset": "fast"}, ValueError, "preset='fast' is unknown; expected one of"),
        ({"n_genes": 1}, ValueError, "n_genes=1; expected a whole number of at least 2"),
        ({"n_genes": "all"}, ValueError, "n_genes='all'"),
        ({"cell_size": "ensembl"}, ValueError, "unknown source of cell sizes 'ensembl'"),
    ],
)
def test_hp26_bad_model_options(trained, unchanged, options, error, message):
    with unchanged(trained.reference), pytest.raises(error, match=message):
        hp.HPVADE(trained.reference, **options)


def test_hp26_bad_arguments_of_other_methods(trained, unchanged):
    with unchanged(trained.reference, trained.bulk):
        for call, message in (
            (lambda: trained.model.get_signature_matrix(normalize="tpm"), "normalize='tpm' is unknown"),
            (
                lambda: trained.model.get_normalized_expression(transform_batch="batch_9"),
                "transform_batch='batch_9' is",
            ),
            (lambda: trained.model.simulate_bulk(0), "n_samples=0"),
            (lambda: trained.model.simulate_bulk(2, n_cells=0), "n_cells=0"),
            (lambda: trained.model.simulate_bulk(2, sparse=2), "sparse is 2"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_hp26_accelerator_that_is_not_there(trained, saved, unchanged, weights):
    """Lightning's own error; nothing trained is lost."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    before = weights(trained.model)
    with unchanged(trained.reference), pytest.raises(MisconfigurationException):
        trained.model.train(1, accelerator="gpu")
    assert trained.model.is_trained_ and len(trained.model.history["train_loss"]) == 50
    assert all(torch.equal(value, before[name]) for name, value in weights(trained.model).items())
    with pytest.raises(ValueError, match="accelerator='gpu' was asked for, but this machine has none"):
        hp.HPVADE.load(saved, adata=False, accelerator="gpu")


# ---------------------------------------------------------------- model folders


def test_hp26_foreign_truncated_and_tampered_folders(saved, tmp_path):
    with pytest.raises(FileNotFoundError):
        hp.HPVADE.load(tmp_path / "absent")
    torch.save({"model_state_dict": {}}, tmp_path / "model.pt")
    with pytest.raises((FileNotFoundError, ValueError), match="model"):
        hp.HPVADE.load(tmp_path)
    document = (saved / "model.json").read_text()
    (tmp_path / "model.json").write_text(json.dumps({"format": "theirs"}))
    with pytest.raises(ValueError, match="not written by hpvade"):
        hp.HPVADE.load(tmp_path)
    (tmp_path / "model.json").write_text(document[: len(document) // 2])
    with pytest.raises(ValueError, match="truncated or not JSON"):
        hp.HPVADE.load(tmp_path)
    (tmp_path / "model.json").write_text(document.replace("type_0", "type_9"))
    with pytest.raises(ValueError, match="was changed"):
        hp.HPVADE.load(tmp_path)


def test_hp26_other_genes_on_load(saved, planted, unchanged):
    adata, _ = planted()
    for other, message in ((adata[:, ::-1].copy(), "another order"), (adata[:, 5:].copy(), "5 of the 300 genes")):
        with unchanged(other), pytest.raises(ValueError, match=message):
            hp.HPVADE.load(saved, adata=other)
