"""Attribution against autograd on the module's own rate."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from torch.distributions import constraint_registry


def jacobian(model, mdata, cell, name, *, covs=None, scaled=True):
    """d rate / d z of one cell, through the module's generative function."""
    module = model.module
    (tensors,) = model._make_data_loader(mdata, [cell], 1)
    inputs = module._get_inference_input(tensors)
    inferred = module.inference(**inputs)
    library = {key: q.loc.detach() for key, q in inferred["ql"].items()}
    used = inputs["covs"] | (covs or {})

    def rate(z):
        out = module.generative(z[None], library, used)
        scaling = out["scaling"][name]
        y = scaling if scaled or isinstance(scaling, float) else scaling.detach()
        return (out["px"][name].mu / (1.0 if scaled else y))[0]

    return torch.autograd.functional.jacobian(rate, inferred["qz"].loc[0].detach()), inferred["qz"].loc[0]


@pytest.mark.parametrize("method", ["h2b", "jacfwd"])
def test_rv_12_attribution_is_the_jacobian(multi, method):
    found = multi.model.get_modality_attribution(indices=[0, 11, 40], attribution_method=method)
    blocks = multi.model.module.latent_blocks()
    for row, cell in enumerate([0, 11, 40]):
        for name in ("atac", "rna"):
            J, z = jacobian(multi.model, multi.mdata, cell, name)
            np.testing.assert_allclose(found[name]["attribution"][row], J.abs().mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                found[name]["weighted_z"][row], (z * J.abs().mean(0)).detach(), rtol=1e-4, atol=1e-5
            )
            norms = [J[:, block].norm() for block in blocks.values()]
            np.testing.assert_allclose(found[name]["frobenius"][row], norms, rtol=1e-4, atol=1e-5)


def test_rv_12_batch_size_does_not_matter(multi):
    a, b = (multi.model.get_modality_attribution(batch_size=size) for size in (7, 90))
    for name in a:
        for key in a[name]:
            np.testing.assert_allclose(a[name][key], b[name][key], rtol=1e-4, atol=1e-6)


def test_covariates_can_be_removed(multi):
    model, mdata = multi.model, multi.mdata
    reference = {"zero": [0.0, 0.0], "reference": [1.0, 0.0], "mean": None}
    site = (mdata.obs["site"] == "s1").mean()
    for how, values in reference.items():
        values = [1 - site, site] if values is None else values
        covs = {"extra_categorical_covs": torch.tensor([values], dtype=torch.float32)}
        found = model.get_modality_attribution(indices=[11], remove_covariates="cat_covs", covariate_reference=how)
        J, _ = jacobian(model, mdata, 11, "rna", covs=covs)
        np.testing.assert_allclose(found["rna"]["attribution"][0], J.abs().mean(0), rtol=1e-3, atol=1e-5)
    found = model.get_modality_attribution(indices=[11], remove_covariates="feature_scaling")
    J, _ = jacobian(model, mdata, 11, "atac", scaled=False)
    np.testing.assert_allclose(found["atac"]["attribution"][0], J.abs().mean(0), rtol=1e-3, atol=1e-5)
    both, alias = (model.get_modality_attribution(indices=[3], remove_covariates=r) for r in ("all", True))
    np.testing.assert_array_equal(both["rna"]["attribution"], alias["rna"]["attribution"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"remove_covariates": "batch"}, "remove_covariates='batch' is unknown"),
        ({"remove_covariates": True, "covariate_reference": "median"}, "covariate_reference='median' is unknown"),
        ({"attribution_method": "fd"}, "method='fd' is unknown"),
    ],
)
def test_unknown_choices(multi, kwargs, message):
    with pytest.raises(ValueError, match=message):
        multi.model.get_modality_attribution(**kwargs)


def test_rv_24_store_writes_exactly_the_listed_keys(multi, make):
    adata = make.rna()
    obs, obsm = set(adata.obs), set(adata.obsm)
    found = multi.model.store_attribution_results(adata, batch_size=32)
    assert set(adata.obsm) - obsm == {"X_latent_attr_atac", "X_latent_attr_rna"}
    totals = {f"{m}_decoder_{kind}_attr" for m in ("atac", "rna") for kind in ("total", "own")}
    assert set(adata.obs) - obs == totals | {"log2_atac_vs_rna_attr"}
    attribution = found["rna"]["attribution"]
    np.testing.assert_allclose(adata.obs["rna_decoder_total_attr"], attribution.sum(1))
    np.testing.assert_allclose(adata.obs["rna_decoder_own_attr"], attribution[:, 3:].sum(1))
    ratio = np.log2(adata.obs["atac_decoder_total_attr"] / adata.obs["rna_decoder_total_attr"])
    np.testing.assert_allclose(adata.obs["log2_atac_vs_rna_attr"], ratio, rtol=1e-4)
    with pytest.raises(ValueError, match="other cells"):
        multi.model.store_attribution_results(make.rna(20))


def test_rv_24_scatter_needs_the_results_and_says_so(multi, make):
    adata = make.rna()
    with pytest.raises(ValueError, match=r"call `model.store_attribution_results\(adata\)` first"):
        multi.model.plot_attribution_scatter(adata)
    multi.model.store_attribution_results(adata)
    with pytest.raises(ValueError, match=r"no 'X_umap_joint': call `model.compute_latent_umap\(adata\)`"):
        multi.model.plot_attribution_scatter(adata)
    adata.obsm["X_umap_joint"] = np.random.default_rng(0).normal(size=(90, 2))
    assert len(multi.model.plot_attribution_scatter(adata).axes) == 6  # three panels with colour bars


def test_plot_returns_attribution_and_figure(multi):
    found, figure = multi.model.plot_modality_attribution(batch_size=32)
    assert set(found) == {"atac", "rna"} and isinstance(figure, matplotlib.figure.Figure)


def test_rv_12_importing_leaves_the_constraint_registries_unchanged():
    code = (
        "from torch.distributions import constraint_registry as c; "
        "before = [dict(r._registry) for r in (c.biject_to, c.transform_to)]; import scvi; "
        "middle = [dict(r._registry) for r in (c.biject_to, c.transform_to)]; "
        "import hpvade.models.ambient._multimodal_model; "
        "after = [dict(r._registry) for r in (c.biject_to, c.transform_to)]; assert middle == after"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert constraint_registry.biject_to is not None
