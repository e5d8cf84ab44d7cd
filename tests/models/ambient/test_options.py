"""Options of the regularised models: named once, checked before any work."""

import pytest

from hpvade.models.ambient._options import (
    MULTIMODAL,
    PER_MODALITY,
    SHARED,
    ambient_options,
    multimodal_options,
)

MODALITIES = ["atac", "rna"]


def test_defaults_of_the_specification():
    expected = {
        "n_hidden": 128,
        "n_latent": 10,
        "n_layers": 1,
        "dropout_rate": 0.1,
        "library_log_vars_weight": 0.5,
        "dispersion_hyper_prior_mean": 1 / 3,
        "dispersion_hyper_prior_alpha": 9.0,
        "feature_scaling_prior_alpha": 200.0,
        "decoder_weight_l2": 0.1,
        "bg_init_gene_fraction": 0.2,
        "n_active_latent_per_cell": 20.0,
        "encoder_input": "library_normalized",
    }
    assert {name: ambient_options({})[name] for name in expected} == expected
    assert ambient_options({}) == dict(SHARED)
    assert MULTIMODAL.keys() - SHARED.keys() == {
        *("latent_mode", "modality_weights", "additive_background_modalities", "feature_scaling_modalities"),
        *("learnable_modality_scaling", "modality_scale_prior_concentration", "horseshoe_latent_z_prior_type"),
    }


BOOLS = [name for name, value in MULTIMODAL.items() if isinstance(value, bool)]


@pytest.mark.parametrize("name", BOOLS)
def test_rv_27_text_for_a_bool_is_refused_by_name(name):
    with pytest.raises(TypeError, match=f"{name}='true' is a str; it must be bool"):
        multimodal_options({name: "true"}, MODALITIES)
    assert multimodal_options({name: 0}, MODALITIES)[name] is False
    assert multimodal_options({name: 1}, MODALITIES)[name] is True


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"n_hiden": 3}, TypeError, r"unknown options \['n_hiden'\]"),
        ({"latent_mode": "concatenation"}, TypeError, "latent_mode"),
        ({"gene_likelihood": "zinb"}, ValueError, r"gene_likelihood='zinb' is not offered; .* Zero inflation"),
        ({"gene_likelihood": "poisson"}, ValueError, "gene_likelihood='poisson' is not offered"),
        ({"latent_distribution": "ln"}, ValueError, "latent_distribution='ln' is not offered"),
        ({"dispersion": "gene-cell"}, ValueError, r"expected one of \['gene-batch', 'gene'\]"),
        ({"init_decoder_bias": "max"}, ValueError, "init_decoder_bias='max'"),
        ({"dispersion_prior_direction": "log"}, ValueError, "dispersion_prior_direction='log'"),
        ({"n_latent": 0}, ValueError, "n_latent=0; expected a whole number above 0"),
        ({"n_hidden": 2.5}, ValueError, "n_hidden=2.5"),
        ({"dropout_rate": 1.0}, ValueError, "dropout_rate=1.0; expected a number of at least 0 and below 1"),
        ({"decoder_weight_l2": -1.0}, ValueError, "decoder_weight_l2=-1.0"),
        ({"additive_bg_prior_beta": 0.0}, ValueError, "additive_bg_prior_beta=0.0; expected a number above 0"),
        ({"dispersion_hyper_prior_mean": float("nan")}, ValueError, "dispersion_hyper_prior_mean=nan"),
        ({"n_layers": True}, ValueError, "n_layers=True"),
    ],
)
def test_rv_27_bad_options_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        ambient_options(given)


def test_rv_11_options_by_modality():
    options = multimodal_options({"n_hidden": {"rna": 32, "atac": 16}, "n_latent": 5}, MODALITIES)
    assert options["n_hidden"] == {"atac": 16, "rna": 32} and options["n_latent"] == {"atac": 5, "rna": 5}
    partial = multimodal_options({"decoder_bias_multiplier": {"atac": 2.0}}, MODALITIES)
    assert partial["decoder_bias_multiplier"] == {"atac": 2.0, "rna": None}
    assert all(isinstance(options[name], dict) for name in PER_MODALITY)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_hidden": {"rna": 32}}, r"n_hidden=\{'rna': 32\} has no value for \['atac'\]"),
        ({"n_hidden": {"rna": 32, "atac": 3, "adt": 2}}, r"unknown modalities \['adt'\]"),
        ({"additive_background_modalities": ["adt"]}, r"unknown modalities \['adt'\]"),
        ({"latent_mode": "weighted_mean", "n_latent": {"rna": 3, "atac": 4}}, "needs one n_latent for all"),
        ({"latent_mode": "sum"}, "latent_mode='sum' is not offered"),
        ({"latent_mode": "single_encoder", "horseshoe_latent_z_prior_type": "lognormal"}, "encoder per modality"),
        ({"horseshoe_latent_z_prior_type": "gamma"}, "is not offered"),
    ],
)
def test_rv_27_bad_options_by_modality(given, message):
    with pytest.raises(ValueError, match=message):
        multimodal_options(given, MODALITIES)
