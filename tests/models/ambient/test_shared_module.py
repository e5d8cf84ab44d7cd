"""Parameters, equations and priors of one modality (spec 3.2 to 3.5)."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Gamma
from torch.nn.functional import softplus

from hpvade.models.ambient._module import RegularizedVAE
from hpvade.models.ambient._options import ambient_options
from hpvade.models.ambient._shared_module import Layout, one_hot_joint

LAYOUT = Layout({"rna": 30}, n_obs=64, n_batch=3, ambient=(3, 2), dispersion=4, library=5, scaling=(2, 3))


def module(layout=LAYOUT, **options):
    torch.manual_seed(0)
    return RegularizedVAE(layout, ambient_options({"n_hidden": 8, "n_latent": 3} | options))


def batch(n=16, layout=LAYOUT, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def codes(*sizes):
        return torch.stack([torch.randint(0, k, (n,), generator=generator) for k in sizes], dim=1).float()

    return {
        "X": torch.poisson(torch.full((n, 30), 3.0), generator=generator),
        "batch": codes(layout.n_batch),
        "ambient_covs": codes(*layout.ambient),
        "dispersion_cov": codes(layout.dispersion),
        "library_size_cov": codes(layout.library),
        "feature_scaling_covs": codes(*layout.scaling) if layout.scaling else codes(1),
    }


def test_rv_02_names_shapes_and_starting_values_without_data():
    m = module()
    state = {name: tuple(value.shape) for name, value in m.state_dict().items()}
    expected = {
        "px_r_mu": (30, 4),
        "px_r_log_sigma": (30, 4),
        "dispersion_prior_rate_raw": (4,),
        "additive_background": (30, 5),
        "feature_scaling": (5, 30),
        "library_log_means": (1, 5),
        "library_log_vars": (1, 5),
        "library_global_log_mean": (),
        "library_log_sensitivity": (),
        "library_obs_w_mu": (),
        "library_obs_w_log_sigma": (),
        "z_encoder.encoder.fc_layers.Layer 0.0.weight": (8, 30),
        "l_encoder.encoder.fc_layers.Layer 0.0.weight": (16, 30),
        "l_encoder.mean_encoder.weight": (1, 16),
        "decoder.px_decoder.fc_layers.Layer 0.0.weight": (8, 3),
        "decoder.px_scale_decoder.0.weight": (30, 8),
    }
    assert {name: state.get(name) for name in expected} == expected
    assert m.px_r_mu.mean().item() == pytest.approx(math.log(9), abs=0.05)
    assert m.px_r_mu.std().item() == pytest.approx(0.1, abs=0.03)
    assert (m.px_r_log_sigma == math.log(0.1)).all()
    torch.testing.assert_close(softplus(m.dispersion_prior_rate_raw), torch.full((4,), 3.0))
    assert m.additive_background.mean().item() == pytest.approx(math.log(0.01), abs=0.01)
    assert (m.feature_scaling == 0).all()
    assert m.library_obs_w_mu.item() == 0 and m.library_obs_w_log_sigma.item() == -2


def test_rv_02_gene_dispersion_and_no_scaling_keys():
    m = module(Layout({"rna": 30}), dispersion="gene")
    assert m.px_r_mu.shape == (30,) and m.dispersion_prior_rate_raw.shape == (1,)
    assert m.feature_scaling.shape == (1, 30)


def test_rv_02_attributes_that_outside_checks_read():
    m = module()
    assert (m.gene_likelihood, m.dispersion, m.use_observed_lib_size) == ("gamma_poisson", "gene-batch", False)
    assert (m.use_additive_background, m.use_batch_in_decoder, m.regularise_dispersion) == (True, False, True)
    assert (m.n_cats_per_ambient_cov, m.n_total_ambient_cats, m.decoder_weight_l2) == ([3, 2], 5, 0.1)
    assert m.modality_names == ["rna"] and m.n_latent_dict == {"rna": 3}


def test_start_from_data_follows_the_formulas():
    m = module(bg_init_gene_fraction=0.3, library_log_means_centering_sensitivity=0.5, decoder_bias_multiplier=2.0)
    generator = torch.Generator().manual_seed(0)
    background, mean = torch.rand(30, 5, generator=generator), torch.rand(30, generator=generator)
    mean[0] = 0.0
    start = {
        "library_log_means": torch.tensor([5.0, 6.0, 7.0, 8.0, 9.0]),
        "library_log_vars": torch.ones(5),
        "median_total": torch.tensor(12.0),
        "decoder_mean": mean,
        "background": background,
        "theta": torch.full((30,), 2.0),
    }
    m.initialise("rna", start)
    assert m.library_global_log_mean.item() == 7
    torch.testing.assert_close(m.library_log_means, torch.tensor([[-2.0, -1, 0, 1, 2]]) + math.log(0.5))
    assert (m.library_log_vars == 0.5).all()
    assert m.l_encoder.mean_encoder.bias.item() == pytest.approx(math.log(0.5))
    torch.testing.assert_close(softplus(m.decoder.px_scale_decoder[0].bias), 2 * mean.clamp(min=0.01))
    expected = (0.3 * background).clamp(min=1e-8) / 2  # two ambient keys
    assert (m.additive_background.exp() / expected - 1).abs().max() < 0.05
    torch.testing.assert_close(m.px_r_mu.exp(), torch.full((30, 4), 2.0))


def test_rv_05_rate_several_ambient_keys_add_and_scaling_keys_multiply():
    m = module().eval()
    with torch.no_grad():
        m.feature_scaling.normal_()
        m.additive_background.normal_()
    tensors = batch()
    covs = m.read_covariates(tensors)
    z, library = torch.randn(16, 3), torch.randn(16, 1)
    px = m.generative(z, library, covs)["px"]
    rho = m.decoder(z, covs["extra_categorical_covs"])[0]
    ambient, scale = tensors["ambient_covs"].long(), tensors["feature_scaling_covs"].long()
    beta, y = m.additive_background.exp().T, softplus(m.feature_scaling) / 0.7
    s = beta[ambient[:, 0]] + beta[3 + ambient[:, 1]]
    expected = library.exp() * (rho + s) * y[scale[:, 0]] * y[2 + scale[:, 1]]
    torch.testing.assert_close(px.mu, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(px.scale, rho / rho.sum(1, keepdim=True))
    torch.testing.assert_close(px.theta, m.px_r_mu.exp().T[tensors["dispersion_cov"].long().ravel()])


def test_theta_is_drawn_per_gene_and_group_in_training():
    m = module()
    tensors = batch(64)
    covs, group = m.read_covariates(tensors), tensors["dispersion_cov"].long().ravel()
    theta = m.theta("rna", covs)
    for k in range(4):
        own = theta[group == k]
        assert (own == own[0]).all()
    assert not torch.equal(theta, m.theta("rna", covs))


def test_library_prior_is_that_of_the_group():
    m = module()
    m.initialise(
        "rna",
        {
            "library_log_means": torch.arange(5.0),
            "library_log_vars": torch.arange(1.0, 6),
            "median_total": torch.tensor(1.0),
        },
    )
    tensors = batch()
    prior, group = m.library_prior("rna", m.read_covariates(tensors)), tensors["library_size_cov"].long().ravel()
    torch.testing.assert_close(prior.loc[:, 0], group.float() - 2)
    torch.testing.assert_close(prior.scale[:, 0].square(), 0.5 * (group + 1.0))


def test_rv_17_doubling_a_cell_leaves_the_default_encoder_input():
    x = batch()["X"]
    m = module()
    m.median_total.fill_(50.0)
    torch.testing.assert_close(m.encoder_input("rna", x), m.encoder_input("rna", 2 * x))
    assert m.encoder_input("rna", x).exp().sub(1).sum(1).sub(50).abs().max() < 1e-3
    plain = module(encoder_input="log1p")
    assert (plain.encoder_input("rna", x) - plain.encoder_input("rna", 2 * x)).abs().max() > 0.1
    torch.testing.assert_close(plain.encoder_input("rna", x), x.log1p())


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_rv_19_residual_library(weight):
    m = module().eval()
    with torch.no_grad():
        m.library_obs_w_mu.fill_(weight)
        m.library_global_log_mean.fill_(4.0)
    tensors = batch()
    covs = m.read_covariates(tensors)
    x = tensors["X"]
    ql, _ = m.infer_library("rna", x, covs, 1)
    encoded = m.l_encoder(x.log1p(), covs["encoder_covs"])[0]
    expected = math.exp(weight) * (x.sum(1, keepdim=True).log() - 4) + encoded.loc
    torch.testing.assert_close(ql.loc, expected)
    torch.testing.assert_close(ql.loc, m.infer_library("rna", x, covs, 1)[0].loc, rtol=0, atol=0)
    m.train()
    draws = [m.infer_library("rna", x, covs, 1)[0].loc for _ in range(2)]
    assert not torch.equal(*draws)


def test_rv_03_dispersion_and_rate_priors_are_the_gamma_density():
    terms = module(regularise_background=True, decoder_cov_weight_l2=0.3, decoder_hidden_l1=0.2).global_terms()
    m = module(regularise_background=True, decoder_cov_weight_l2=0.3, decoder_hidden_l1=0.2)
    rate = softplus(m.dispersion_prior_rate_raw)
    torch.testing.assert_close(terms["dispersion_rate/rna"], -Gamma(9.0, 3.0).log_prob(rate).sum())
    background = -Gamma(1.0, 100.0).log_prob(m.additive_background.exp()).sum()
    torch.testing.assert_close(terms["background/rna"], background)
    y = softplus(m.feature_scaling) / 0.7
    torch.testing.assert_close(terms["feature_scaling/rna"], -Gamma(200.0, 200.0).log_prob(y).sum())
    weights = [m.decoder.px_decoder.fc_layers[0][0].weight, m.decoder.px_scale_decoder[0].weight]
    torch.testing.assert_close(terms["decoder_weight_penalty/rna"], 0.1 * sum(w.square().sum() for w in weights))
    torch.testing.assert_close(terms["decoder_l1_penalty/rna"], 0.2 * weights[0].abs().sum())


def test_rv_26_optional_penalties_are_off_by_default():
    assert {name.split("/")[0] for name in module().global_terms()} == {
        *("dispersion_kl", "dispersion_rate", "feature_scaling", "decoder_weight_penalty", "library_obs_w")
    }
    without = module(
        regularise_dispersion=False, use_feature_scaling=False, decoder_weight_l2=0.0, residual_library_encoder=False
    )
    assert without.global_terms() == {}


def test_rv_26_ard_divergence_is_that_of_the_log_normals():
    m = module(use_ard_z_sigma_scale=True)
    found = m.global_terms()["ard/"].item()
    prior = torch.distributions.Normal(-math.log(2) / 2, math.sqrt(math.log(2)))
    expected = 3 * torch.distributions.kl_divergence(torch.distributions.Normal(0.0, 0.1), prior).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_hot_of_several_covariates():
    found = one_hot_joint(torch.tensor([[1, 0], [0, 2]]), (2, 3), 2, torch.zeros(1))
    np.testing.assert_array_equal(found, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])


def test_categories_of_the_batch_can_be_replaced():
    layout = Layout({"rna": 30}, n_batch=3, ambient=(3,), dispersion=3, library=3)
    m = module(layout, use_batch_in_decoder=True)
    tensors = batch(layout=layout)
    tensors |= dict.fromkeys(("ambient_covs", "dispersion_cov", "library_size_cov"), tensors["batch"])
    moved = m.set_batch(m.read_covariates(tensors), 2)
    expected = torch.tensor([0.0, 0.0, 1.0]).expand(16, 3)
    for key in ("ambient_covs", "dispersion_cov", "library_size_cov", "extra_categorical_covs"):
        torch.testing.assert_close(moved[key], expected)
