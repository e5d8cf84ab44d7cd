import inspect
import json
from dataclasses import asdict

import pytest

from hpvade.nn.cvae import VAEConfig


def test_cv_01_defaults():
    literal = {
        "input_dim": 2000, "latent_dim": 128, "hidden_dims": [512, 256], "n_cell_types": 50, "n_perturbations": 100,
        "n_experiments": 500, "cell_type_embed_dim": 32, "perturbation_embed_dim": 32, "experiment_embed_dim": 16,
        "kld_weight": 1.0, "reconstruction_weight": 1.0, "learning_rate": 1e-3, "batch_size": 256,
    }  # fmt: skip
    found = asdict(VAEConfig())
    assert {name: found[name] for name in literal} == literal
    parameters = list(inspect.signature(VAEConfig).parameters.values())
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == list(literal)
    assert (found["likelihood"], found["encoder_conditioning"], found["normalization"]) == ("mse", "all", "batch")


def test_json_holds_a_config():
    config = VAEConfig(hidden_dims=(8, 4), control_perturbation=0)
    assert VAEConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_two_configs_share_nothing():
    VAEConfig().hidden_dims.append(3)
    assert VAEConfig().hidden_dims == [512, 256]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": "zinb"}, "likelihood='zinb'"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"hidden_dims": []}, "hidden_dims"),
        ({"hidden_dims": [4, 0]}, "hidden_dims=.4, 0."),
        ({"kld_weight": -1}, "kld_weight=-1"),
        ({"normalization": "none"}, "normalization='none'"),
    ],
)
def test_bad_values_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        VAEConfig(**options)
