import inspect

import numpy as np
import pytest

import hpvade as hp
from hpvade.models.ivae._module import IVAEModule
from hpvade.models.ivae._options import module_options

DEFAULTS = {"n_hidden": 128, "n_latent": 10, "n_bottleneck": 2}
WEIGHTS = {"irecon": 1.0, "beta": 1.0, "dip": 0.0, "tc": 0.0, "info": 0.0}


def test_model_and_module_have_the_defaults_of_the_specification():
    for cls in (hp.IVAE, IVAEModule):
        parameters = inspect.signature(cls.__init__).parameters
        options = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert {p.name: p.default for p in options} == DEFAULTS | WEIGHTS


def test_older_names():
    found = module_options(DEFAULTS | WEIGHTS, {"hidden_dim": 64, "latent_dim": 5, "i_dim": 3})
    assert found == WEIGHTS | {"n_hidden": 64, "n_latent": 5, "n_bottleneck": 3}
    with pytest.raises(TypeError, match="latent_dim and n_latent are one option"):
        module_options(DEFAULTS | {"n_latent": 4} | WEIGHTS, {"latent_dim": 5})
    with pytest.raises(TypeError, match="unknown option 'latent'; expected some of"):
        module_options(DEFAULTS | WEIGHTS, {"latent": 5})


@pytest.mark.parametrize("name", list(DEFAULTS))
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "2", None])
def test_iv_15_sizes(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}; expected a whole number above 0"):
        module_options(DEFAULTS | WEIGHTS | {name: value}, {})


@pytest.mark.parametrize("name", list(WEIGHTS))
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "1"])
def test_iv_15_weights(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}; expected a finite number of at least 0"):
        module_options(DEFAULTS | WEIGHTS | {name: value}, {})


def test_iv_15_bottleneck_larger_than_the_latent():
    with pytest.raises(ValueError, match="n_bottleneck=11 is larger than n_latent=10"):
        module_options(DEFAULTS | {"n_bottleneck": 11} | WEIGHTS, {})
    assert module_options(DEFAULTS | {"n_bottleneck": np.int64(10)}, {})["n_bottleneck"] == 10
