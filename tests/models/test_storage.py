"""The same model, bit for bit, however counts are stored; three epochs would show cells in another order."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from mudata import MuData, read_h5mu
from scipy import sparse

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
LAYER = "counts"


def moved_to_layer(adata):
    counts = adata.X
    adata.layers[LAYER], adata.X = counts, None
    return adata


def with_matrix(change):
    def make(adata):
        adata.X = change(adata.X)
        return adata

    return make


STORED = {
    "dense": with_matrix(lambda X: X.toarray()),
    "csc": with_matrix(lambda X: X.tocsc()),
    "csr array": with_matrix(sparse.csr_array),
    "whole numbers": with_matrix(lambda X: X.toarray().astype(np.int64)),
    "double": with_matrix(lambda X: X.astype(np.float64)),
    "layer": moved_to_layer,
}
IN_FILES = {
    "backed": lambda adata: adata,
    "backed csc": STORED["csc"],
    "backed dense": STORED["dense"],
    "backed layer": moved_to_layer,
}


@pytest.fixture(scope="module")
def cells():
    adata = hp.datasets.planted_contexts(200, 40, seed=0)
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    return adata


def latent(build, adata):
    """The latent representation after training; the first thing that differs."""
    layer = LAYER if LAYER in adata.layers else None
    model = build(adata, layer=layer)
    model.train(3, batch_size=32, **QUIET)
    return model.get_latent_representation()


def build(name):
    cls, setup, options = {
        "hpvade": (hp.HPVADE, {"labels_key": "cell_type"}, {"n_hidden": 8, "n_latent": 3}),
        "ambient": (hp.AmbientRegularizedSCVI, {"batch_key": "tissue"}, {"n_hidden": 8, "n_latent": 3}),
        "cvae": (hp.ConditionalVAE, {"labels_key": "cell_type"}, {"hidden_dims": [8], "n_latent": 3}),
        "cycleae": (hp.CycleAE, {"context_keys": ["condition"]}, {"n_latent": 4}),
        "ivae": (hp.IVAE, {"labels_key": "cell_type"}, {"n_latent": 3}),
    }[name]

    def make(adata, layer):

        scvi.settings.seed = 0
        cls.setup_anndata(adata, layer=layer, **setup)
        return cls(adata, **options)

    return make


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cvae", "cycleae", "ivae"])
def test_a_model_does_not_depend_on_how_counts_are_stored(name, cells, tmp_path):
    expected = latent(build(name), cells.copy())
    for kind, change in STORED.items():
        np.testing.assert_array_equal(latent(build(name), change(cells.copy())), expected, err_msg=kind)
    for kind, change in IN_FILES.items():
        path = tmp_path / f"{kind}.h5ad"
        change(cells.copy()).write_h5ad(path)
        found = latent(build(name), ad.read_h5ad(path, backed="r"))
        np.testing.assert_array_equal(found, expected, err_msg=kind)


def test_a_multimodal_model_of_a_backed_file(tmp_path):
    rng, obs = np.random.default_rng(0), pd.DataFrame({"sample": ["a", "b"] * 60}, index=[f"c{i}" for i in range(120)])
    parts = {}
    for name, n_features in (("rna", 30), ("atac", 20)):
        parts[name] = ad.AnnData(sparse.csr_matrix(rng.poisson(2.0, (120, n_features)).astype(np.float32)), obs=obs)
        parts[name].var_names = [f"{name}{i}" for i in range(n_features)]
    memory = MuData(parts)
    memory.write(tmp_path / "m.h5mu")
    found = []
    for mdata in (memory, read_h5mu(tmp_path / "m.h5mu", backed=True)):
        scvi.settings.seed = 0
        hp.RegularizedMultimodalVI.setup_mudata(mdata, batch_key="sample")
        model = hp.RegularizedMultimodalVI(mdata, n_hidden=8, n_latent=3)
        model.train(3, batch_size=32, **QUIET)
        found.append(model.get_latent_representation(indices=[7, 3, 50]))
    np.testing.assert_array_equal(*found)
