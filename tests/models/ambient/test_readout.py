"""What is read from a trained model: tables of parameters, expression, order of cells."""

import numpy as np
import pytest
import torch


def test_tables_of_parameters(single):
    model, adata = single.model, single.adata
    profile = model.get_ambient_profile()
    assert profile.shape == (40, 3) and list(profile.columns) == ["b0", "b1", "b2"]
    np.testing.assert_allclose(profile, model.module.additive_background.exp().detach())
    np.testing.assert_allclose(model.get_ambient_profile(normalize=True).sum(), 1, rtol=1e-5)
    assert list(model.get_feature_scaling().columns) == ["s0", "s1"]
    assert list(model.get_dispersion().columns) == ["b0", "b1", "b2"]
    assert list(profile.index) == list(model.get_dispersion().index) == list(adata.var_names)


def test_switched_off_parts_say_so(build, rna):
    model = build(rna, epochs=1, use_additive_background=False, use_feature_scaling=False, dispersion="gene")
    for name in ("get_ambient_profile", "get_ambient_fraction", "get_clean_reference"):
        with pytest.raises(ValueError, match="no additive_background; it was switched off"):
            getattr(model, name)()
    with pytest.raises(ValueError, match="no feature_scaling"):
        model.get_feature_scaling()
    assert list(model.get_dispersion().columns) == ["all"]


def test_latent_library_is_the_expected_native_count(single):
    model = single.model
    native = model.get_normalized_expression(library_size="latent")
    share = model.get_ambient_fraction()
    with torch.no_grad():
        (tensors,) = model._make_data_loader(single.adata, None, 90)
        inferred = model.module.inference(**model.module._get_inference_input(tensors))
        covs = model.module.read_covariates(tensors)
        px = model.module.generative(inferred["qz"].loc, inferred["ql"].loc, covs)
    y = model.module.unpack(px["scaling"])["rna"].numpy()
    np.testing.assert_allclose((native * y).sum(1) / px["px"].mu.sum(1).numpy(), 1 - share, rtol=1e-4)


def test_backed_cells_come_in_the_order_asked_for(single, make, tmp_path):
    import anndata as ad

    make.rna().write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    order = [70, 3, 45, 3]
    model = single.model
    for name in ("get_latent_representation", "get_normalized_expression", "get_ambient_fraction"):
        expected = np.asarray(getattr(model, name)())[order]
        np.testing.assert_allclose(np.asarray(getattr(model, name)(backed, order)), expected, rtol=1e-4, atol=1e-6)
