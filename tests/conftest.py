"""Fixtures shared by all tests: planted data, small trained models, deep comparison."""

import contextlib
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp

# read when torch loads, here, in subprocesses and in notebooks: waiting threads must not keep a core from other work
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="session")
def planted():
    """``planted(**changes)``: a small reference (480 cells x 300 genes, 4 types, 4 donors) and bulk of 12 samples."""

    def planted(**changes):
        return hp.datasets.planted_cohort(
            **{"n_types": 4, "n_genes": 300, "n_cells": 480, "n_samples": 12, "seed": 1} | changes
        )

    return planted


@pytest.fixture(scope="session")
def fit():
    """``fit(reference, epochs, seed, train=..., keys=..., **options)``: a model trained on the CPU, quietly."""

    def fit(reference, epochs=2, seed=0, *, keys=None, train=None, **options):
        import scvi  # heavy, and not needed by every test

        scvi.settings.seed = seed
        keys = {"batch_key": "batch", "sample_key": "donor"} if keys is None else keys
        hp.HPVADE.setup_anndata(reference, labels_key="cell_type", **keys)
        model = hp.HPVADE(reference, **options)
        model.train(epochs, **QUIET | (train or {}))
        return model

    return fit


@pytest.fixture(scope="session")
def trained(planted, fit):
    """Model trained for 500 steps, its reference and bulk; do not change them."""
    reference, bulk = planted()
    model = fit(reference, 50, train={"early_stopping": False})
    return SimpleNamespace(model=model, reference=reference, bulk=bulk)


@pytest.fixture(scope="session")
def literal(planted, fit):
    """Model with ``preset="spec"``, its reference and bulk; do not change them."""
    reference, bulk = planted()
    return SimpleNamespace(model=fit(reference, 3, preset="spec"), reference=reference, bulk=bulk)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    """Folder of the trained model."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    trained.model.save(folder)
    return folder


@pytest.fixture(scope="session")
def pbmc(fit):
    """Model trained on the shipped PBMC 3k with the defaults; for slow tests."""
    return fit(hp.datasets.pbmc_reference(), None, keys={"sample_key": "donor"})


@pytest.fixture(scope="session")
def unchanged():
    """``with unchanged(adata, ...):`` the objects are the same afterwards, in every slot, value, dtype and order."""

    @contextlib.contextmanager
    def unchanged(*adatas):
        before = [_contents(adata) for adata in adatas]
        yield
        for adata, contents in zip(adatas, before, strict=True):
            _assert_equal(_contents(adata), contents, "adata")

    return unchanged


@pytest.fixture(scope="session")
def weights():
    """``weights(model)``: a copy of all parameters and buffers."""
    return lambda model: {name: value.detach().clone() for name, value in model.module.state_dict().items()}


def _contents(adata) -> dict:
    slots = {slot: dict(getattr(adata, slot)) for slot in ("layers", "obsm", "varm", "obsp", "varp", "uns")}
    X = adata.X if adata.X is None or isinstance(adata.X, np.ndarray) or sparse.issparse(adata.X) else adata.X[:]
    return _copied({"X": X, "obs": adata.obs, "var": adata.var, "is_view": adata.is_view, **slots})


def _copied(value):
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return value.copy() if hasattr(value, "copy") else value


def _assert_equal(found, expected, where):
    assert type(found) is type(expected), where
    if isinstance(found, dict):
        assert list(found) == list(expected), where
        for key in found:
            _assert_equal(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(found, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, obj=where)
    elif sparse.issparse(found):
        assert found.format == expected.format and found.dtype == expected.dtype, where
        np.testing.assert_array_equal(found.toarray(), expected.toarray(), err_msg=where)
    elif isinstance(found, np.ndarray):
        np.testing.assert_array_equal(found, expected, err_msg=where, strict=True)
    else:
        assert found == expected, where


# ---------------------------------------------------------------- one small model of every family, from the same cells


def _hpvade(adata, **options):
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="tissue")
    return hp.HPVADE(adata, **{"n_hidden": 8, "n_latent": 3} | options)


def _literal(adata):
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type")
    return hp.HPVADE(adata, preset="spec")


def _ivae(adata):
    hp.IVAE.setup_anndata(adata, labels_key="cell_type")
    return hp.IVAE(adata, n_hidden=8, n_latent=3)


def _cvae(adata):
    hp.ConditionalVAE.setup_anndata(
        adata, "cell_type", perturbation_key="condition", control_category="condition_0", experiment_key="tissue"
    )
    return hp.ConditionalVAE(adata, n_latent=3, hidden_dims=(8,))


def _cycleae(adata):
    hp.CycleAE.setup_anndata(adata, ["condition", "tissue"])
    return hp.CycleAE(adata, n_latent=4)


def _ambient(adata):
    hp.AmbientRegularizedSCVI.setup_anndata(adata, batch_key="tissue")
    return hp.AmbientRegularizedSCVI(adata, n_hidden=8, n_latent=3)


def _multimodal(adata):
    from mudata import MuData

    other = adata.copy()
    other.var_names = [f"peak_{name}" for name in other.var_names]
    mdata = MuData({"rna": adata, "atac": other})
    hp.RegularizedMultimodalVI.setup_mudata(mdata, batch_key="tissue")
    return hp.RegularizedMultimodalVI(mdata, n_hidden=8, n_latent=3)


_FAMILIES = {
    "hpvade": _hpvade,
    "literal": _literal,
    "ivae": _ivae,
    "cvae": _cvae,
    "cycleae": _cycleae,
    "ambient": _ambient,
    "multimodal": _multimodal,
}


@pytest.fixture(scope="session")
def families():
    """Functions by family that set up cells of `planted_contexts` and return a small, untrained model of them."""
    return _FAMILIES


@pytest.fixture(params=_FAMILIES, scope="session")
def family(request):
    """Each of `families` in turn."""
    return _FAMILIES[request.param]


@pytest.fixture
def toy_module():
    """Class of a module with one parameter w = 2 and the loss 2 w^2; an instance keeps the KL weights it is given."""
    import torch
    from scvi.module.base import BaseModuleClass, LossOutput

    class Toy(BaseModuleClass):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(2.0))
            self.seen = []

        def _get_inference_input(self, tensors, **kwargs):
            return {}

        def _get_generative_input(self, tensors, inference_outputs, **kwargs):
            return {}

        def inference(self):
            return {}

        def generative(self):
            return {}

        def loss(self, tensors, inference_outputs, generative_outputs, kl_weight=1.0):
            self.seen.append(kl_weight)
            square = 2 * self.w**2
            ones = torch.ones(4)
            return LossOutput(loss=square, reconstruction_loss=ones, kl_local=ones, extra_metrics={"square": square})

    return Toy


@pytest.fixture
def recorded():
    """``recorded(plan)``: the plan in epoch 1 outside of a trainer, its log in ``plan.logged``."""

    def recorded(plan):
        plan.logged = {}
        plan.log = lambda name, value, **options: plan.logged.update({name: float(value)})
        plan.log_dict = lambda values, **options: plan.logged.update({k: float(v) for k, v in values.items()})
        plan._trainer = SimpleNamespace(current_epoch=1, global_step=7, strategy=None)
        plan.compute_and_log_metrics = lambda *args: None
        return plan

    return recorded
