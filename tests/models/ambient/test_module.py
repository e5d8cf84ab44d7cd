"""The single-modal module: the one-modality case of the shared equations, with plain names."""

import torch

from hpvade.models.ambient._module import RegularizedVAE
from hpvade.models.ambient._multimodal_module import RegularizedMultimodalVAE
from hpvade.models.ambient._options import ambient_options, multimodal_options
from hpvade.models.ambient._shared_module import Layout


def test_equals_the_multimodal_module_with_one_modality():
    """One set of components: with the same weights, both give the same loss."""
    sizes = {"n_obs": 100, "ambient": (2,), "dispersion": 2, "library": 2, "n_batch": 2}
    given = {"n_hidden": 8, "n_latent": 3}
    one = RegularizedVAE(Layout({"rna": 20}, **sizes), ambient_options(given)).eval()
    options = multimodal_options(given | {"feature_scaling_modalities": ["rna"]}, ["rna"])
    several = RegularizedMultimodalVAE(Layout({"rna": 20}, **sizes), options).eval()
    names = {"z_encoder": "encoders.rna", "l_encoder": "l_encoders.rna", "decoder": "decoders.rna"}
    state = {}
    for name, value in one.state_dict().items():
        first, _, rest = name.partition(".")
        candidates = [f"{names.get(first, first)}.{rest}", f"{name}.rna", f"{name}_rna", name]
        state[next(c for c in candidates if c in several.state_dict())] = value
    several.load_state_dict(state)
    codes = torch.randint(0, 2, (10, 1)).float()
    x = torch.poisson(torch.full((10, 20), 3.0))
    shared = dict.fromkeys(("batch", "ambient_covs", "dispersion_cov", "library_size_cov"), codes)
    torch.manual_seed(1)
    loss = one({"X": x} | shared)[2]
    torch.manual_seed(1)
    other = several({"X_rna": x} | shared)[2]
    torch.testing.assert_close(loss.loss, other.loss)
    torch.testing.assert_close(loss.reconstruction_loss_sum, other.reconstruction_loss_sum)


def test_continuous_covariates_enter_encoders_and_decoder():
    m = RegularizedVAE(Layout({"rna": 20}, n_continuous=2), ambient_options({"n_hidden": 8, "n_latent": 3})).eval()
    assert m.z_encoder.encoder.fc_layers[0][0].in_features == m.l_encoder.encoder.fc_layers[0][0].in_features == 22
    assert m.decoder.px_decoder.fc_layers[0][0].in_features == 5
    zeros = dict.fromkeys(("ambient_covs", "dispersion_cov", "library_size_cov"), torch.zeros(4, 1))
    tensors = {"X": torch.ones(4, 20), "extra_continuous_covs": torch.randn(4, 2)} | zeros
    covs = m.read_covariates(tensors)
    qz = m.inference(tensors["X"], covs)["qz"].loc
    rho = m.generative(torch.zeros(4, 3), torch.zeros(4, 1), covs)["rho"]
    assert not torch.allclose(qz[0], qz[1]) and not torch.allclose(rho[0], rho[1])


def test_without_background_there_is_no_parameter():
    m = RegularizedVAE(Layout({"rna": 20}), ambient_options({"use_additive_background": False}))
    assert not hasattr(m, "additive_background") and m.n_total_ambient_cats == 0
