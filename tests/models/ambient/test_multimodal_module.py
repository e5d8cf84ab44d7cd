"""Latent modes, missing modalities, scales and optimiser groups (spec 3.5, 3.6)."""

import math

import pytest
import torch
from torch.distributions import LogNormal, Normal, kl_divergence

from hpvade.models.ambient._multimodal_module import RegularizedMultimodalVAE
from hpvade.models.ambient._options import multimodal_options
from hpvade.models.ambient._shared_module import Layout

LAYOUT = Layout({"rna": 20, "atac": 12}, n_obs=100, n_batch=2, ambient=(2,), dispersion=2, library=2)


def module(**options):
    torch.manual_seed(0)
    given = {"n_hidden": 8, "n_latent": 3} | options
    return RegularizedMultimodalVAE(LAYOUT, multimodal_options(given, ["atac", "rna"]))


def batch(n=16, missing=4):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 2, (n, 1), generator=generator).float()
    keys = ("batch", "ambient_covs", "dispersion_cov", "library_size_cov")
    x = {f"X_{m}": torch.poisson(torch.full((n, g), 3.0), generator=generator) for m, g in LAYOUT.n_vars.items()}
    x["X_atac"][:missing] = 0
    return x | dict.fromkeys(keys, codes)


def run(m, tensors, seed=2, **kwargs):
    torch.manual_seed(seed)
    inferred = m.inference(**m._get_inference_input(tensors), **kwargs)
    return inferred, m.generative(**m._get_generative_input(tensors, inferred))


def test_rv_02_names_of_the_parameters():
    m = module(n_latent={"rna": 4, "atac": 2}, additive_background_modalities=["rna", "atac"])
    state = {name: tuple(value.shape) for name, value in m.state_dict().items()}
    expected = {
        "px_r_mu.rna": (20, 2),
        "px_r_log_sigma.atac": (12, 2),
        "dispersion_prior_rate_raw.rna": (2,),
        "additive_background.rna": (20, 2),
        "additive_background.atac": (12, 2),
        "feature_scaling.atac": (1, 12),
        "library_obs_w_mu.rna": (),
        "library_log_means_rna": (1, 2),
        "library_log_vars_atac": (1, 2),
        "library_global_log_mean_rna": (),
        "library_log_sensitivity_atac": (),
        "encoders.rna.mean_encoder.weight": (4, 8),
        "decoders.atac.px_decoder.fc_layers.Layer 0.0.weight": (8, 6),
        "l_encoders.rna.mean_encoder.weight": (1, 16),
    }
    assert {name: state.get(name) for name in expected} == expected
    assert "feature_scaling.rna" not in state and len(m.modality_scale_raw) == 0


def test_rv_11_modalities_are_alphabetical_and_defaults_go_to_their_modality():
    m = module(n_latent={"rna": 4, "atac": 2})
    assert m.modality_names == ["atac", "rna"] and m.total_latent_dim == 6
    assert m.latent_blocks() == {"atac": slice(0, 2), "rna": slice(2, 6)}
    assert set(m.additive_background) == {"rna"} and set(m.feature_scaling) == {"atac"}
    inferred, _ = run(m.eval(), batch())
    tensors = batch()
    q = m.encoders["rna"](m.encoder_input("rna", tensors["X_rna"]), torch.zeros(16, 0))[0]
    torch.testing.assert_close(inferred["qz"].loc[:, 2:], q.loc)


def test_rv_16_missing_modality_takes_the_prior_and_costs_nothing():
    m, tensors = module(), batch()
    inferred, generated = run(m, tensors)
    loc, scale = inferred["qz"].loc[:4, :3], inferred["qz"].scale[:4, :3]
    assert (loc == 0).all() and (scale == 1).all() and (inferred["z"][:4, :3] != 0).all()  # training: drawn
    m.eval()
    evaluated, _ = run(m, tensors)
    assert (evaluated["z"][:4, :3] == 0).all() and (evaluated["z"][4:, :3] != 0).all()
    found = m.loss(tensors, inferred, generated, n_obs=100)
    assert (found.reconstruction_loss["reconstruction_loss_atac"][:4] == 0).all()
    assert (kl_divergence(inferred["qz"], Normal(0.0, 1.0))[:4, :3] == 0).all()
    own = kl_divergence(inferred["ql"]["atac"], generated["pl"]["atac"])
    assert (own[:4].abs() < 1e-6).all() and (own[4:] > 1e-6).all()


@pytest.mark.parametrize("mode", ["concatenation", "single_encoder", "weighted_mean"])
def test_rv_16_garbage_in_an_absent_block_changes_nothing(mode):
    m, tensors = module(latent_mode=mode).eval(), batch()
    inputs = m._get_inference_input(tensors)
    present = m.presence(inputs["x"])
    torch.manual_seed(0)
    clean = m.inference(**inputs, present=present)
    inputs["x"]["atac"][:4] = 1e4 * torch.rand(4, 12)
    torch.manual_seed(0)
    dirty = m.inference(**inputs, present=present)
    torch.testing.assert_close(clean["qz"].loc, dirty["qz"].loc, rtol=0, atol=0)
    torch.testing.assert_close(clean["z"], dirty["z"], rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["equal", "universal", "cell"])
def test_a_cell_without_any_counts_has_weights_and_the_mean_of_the_prior(weights):
    m, tensors = module(latent_mode="weighted_mean", modality_weights=weights).eval(), batch()
    inputs = m._get_inference_input(tensors)
    for counts in inputs["x"].values():
        counts[:2] = 0
    w = m.cell_weights(**inputs)
    torch.testing.assert_close(w.sum(1), torch.ones(16))
    assert (w[:2] > 0).all() and (w[2:4] == torch.tensor([0.0, 1.0])).all()
    found = m.inference(**inputs)["qz"]
    assert (found.loc[:2] == 0).all() and torch.isfinite(found.scale).all()


@pytest.mark.parametrize("weights", ["equal", "universal", "cell"])
def test_rv_11_weighted_mean(weights):
    m, tensors = module(latent_mode="weighted_mean", modality_weights=weights).eval(), batch()
    if weights == "universal":
        m.modality_weight_params.data = torch.tensor([0.3, -0.4])
    inputs = m._get_inference_input(tensors)
    w = m.cell_weights(**inputs)
    assert (w[:4] == torch.tensor([0.0, 1.0])).all()
    torch.testing.assert_close(w.sum(1), torch.ones(16))
    if weights == "equal":
        assert (w[4:] == 0.5).all()
    if weights == "universal":
        torch.testing.assert_close(w[4:], torch.tensor([0.3, -0.4]).softmax(0).expand(12, 2))
    if weights == "cell":
        assert w[4:].std(0).min() > 0
    none = torch.zeros(16, 0)
    q = {k: m.encoders[k](m.encoder_input(k, tensors[f"X_{k}"]), none)[0] for k in ("atac", "rna")}
    qz = m.inference(**inputs)["qz"]
    torch.testing.assert_close(qz.loc, w[:, :1] * q["atac"].loc + w[:, 1:] * q["rna"].loc)
    variance = (w[:, :1] * q["atac"].scale).square() + (w[:, 1:] * q["rna"].scale).square()
    torch.testing.assert_close(qz.variance, variance)


def test_rv_11_single_encoder_sees_all_modalities_at_the_widest_size():
    m = module(latent_mode="single_encoder", n_hidden={"rna": 9, "atac": 5})
    assert m.joint_encoder.encoder.fc_layers[0][0].weight.shape == (9, 32)
    assert len(m.encoders) == 0 and m.joint_encoder.mean_encoder.out_features == 6


def test_all_decoders_see_the_whole_latent_vector():
    m, tensors = module().eval(), batch()
    z = torch.randn(16, 6)
    library = {name: torch.zeros(16, 1) for name in ("atac", "rna")}
    covs = m.read_covariates(tensors)
    base = m.generative(z, library, covs)["rho"]
    for block in m.latent_blocks().values():
        moved = z.clone()
        moved[:, block] += 1
        rho = m.generative(moved, library, covs)["rho"]
        assert all((rho[name] != base[name]).any() for name in rho)


def test_modality_scale_multiplies_the_rates_and_has_its_prior():
    m = module(learnable_modality_scaling=True, library_log_means_centering_sensitivity={"rna": 1.0, "atac": 0.2})
    assert m.modality_scale_init == {"atac": 0.2, "rna": 1.0}
    torch.testing.assert_close(m.modality_scale("atac"), torch.tensor(0.2))
    m.modality_scale_raw["atac"].data += 0.5
    w = m.modality_scale("atac")
    torch.testing.assert_close(m.size("atac", torch.tensor(1.0)), w * math.e)
    expected = -torch.distributions.Gamma(5.0, 5.0 / 0.2).log_prob(w)
    torch.testing.assert_close(m.global_terms()["modality_scale/atac"], expected)


def test_rv_26_horseshoe_scales_z_and_adds_its_divergence():
    tensors = batch()
    m = module(horseshoe_latent_z_prior_type="lognormal", n_active_latent_per_cell=3.0).eval()
    inferred, generated = run(m, tensors)
    a = 3.0 / 6
    v0 = math.log(1 + 1 / a)
    prior = LogNormal(math.log(a) - v0 / 2, math.sqrt(v0))
    q, _ = m.horseshoe_encoders["rna"](m.encoder_input("rna", tensors["X_rna"]), torch.zeros(16, 0))
    expected = kl_divergence(LogNormal(q.loc, q.scale), prior).sum(1)
    torch.testing.assert_close(inferred["horseshoe"]["rna"], expected)
    assert (inferred["horseshoe"]["atac"][:4] == 0).all()
    torch.testing.assert_close(inferred["z_scale"][:, 3:], q.loc.exp())
    found = m.loss(tensors, inferred, generated, kl_weight=0.0, n_obs=100).loss
    full = m.loss(tensors, inferred, generated, kl_weight=1.0, n_obs=100).loss
    kl_z = kl_divergence(inferred["qz"], Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(full - found, (kl_z + sum(inferred["horseshoe"].values())).mean(), rtol=1e-3, atol=1e-3)


def test_rv_11_optimiser_groups_hold_every_parameter_once():
    m = module(latent_mode="weighted_mean", modality_weights="cell")
    groups = m.get_parameter_groups(1e-3, {"atac": 2.0})
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(m.parameters()))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for part in (m.encoders["atac"], m.decoders["atac"], m.l_encoders["atac"]):
        assert {rates[id(p)] for p in part.parameters()} == {2e-3}
    assert rates[id(m.px_r_mu["atac"])] == 2e-3 and rates[id(m.px_r_mu["rna"])] == 1e-3
    assert rates[id(m.modality_weight_net.weight)] == 1e-3
    with pytest.raises(ValueError, match=r"Unknown modality \['protein'\]"):
        m.get_parameter_groups(1e-3, {"protein": 2.0})
    with pytest.raises(ValueError, match="expected positive factors"):
        m.get_parameter_groups(1e-3, {"rna": 0.0})


def test_rv_18_metrics_by_modality():
    m, tensors = module(compute_pearson=True, learnable_modality_scaling=True), batch()
    found = m.loss(tensors, *run(m, tensors), n_obs=100).extra_metrics
    for name in ("atac", "rna"):
        keys = ("recon_loss", "kl_z", "z_var", "n_active_dims", "library_obs_w", "modality_scale", "pearson_gene")
        assert {f"{key}_{name}" for key in keys} <= found.keys()
    assert all(value.ndim == 0 for value in found.values())
