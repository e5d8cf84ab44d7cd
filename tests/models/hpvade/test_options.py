"""Options of HPVADE: named once, checked before any work."""

import inspect

import pytest

from hpvade.models.hpvade._module import HP_VADE
from hpvade.models.hpvade._options import PRESETS, module_options
from hpvade.models.hpvade._scvi_module import HPVADEModule


def options_of(cls):
    return {p.name for p in inspect.signature(cls).parameters.values() if p.kind == p.KEYWORD_ONLY}


def test_default_options_are_those_of_the_module():
    assert set(PRESETS["default"]) == options_of(HPVADEModule)


def test_spec_options_and_defaults_are_those_of_the_literal_class():
    parameters = inspect.signature(HP_VADE).parameters
    names = {"n_latent": "latent_dim"}  # given by position
    assert {names.get(name, name) for name in PRESETS["spec"]} <= parameters.keys()
    for name, value in PRESETS["spec"].items():
        if name not in names:
            assert parameters[name].default == value


def test_presets_cannot_be_changed_by_callers():
    module_options("default", {})["n_hidden"] = 5
    assert module_options("default", {})["n_hidden"] == 128
    with pytest.raises(TypeError):
        PRESETS["mine"] = {}


def test_given_options_replace_defaults():
    options = module_options("default", {"n_hidden": 7, "lambda_ref": 0})
    assert options == dict(PRESETS["default"]) | {"n_hidden": 7, "lambda_ref": 0}


@pytest.mark.parametrize(
    ("preset", "given", "error", "message"),
    [
        ("best", {}, ValueError, r"preset='best' is unknown; expected one of \['default', 'spec'\]"),
        ("default", {"n_hiden": 3}, TypeError, r"\['n_hiden'\].*expected some of .*'n_hidden'"),
        ("spec", {"gene_dropout": 0.1}, TypeError, r"\['gene_dropout'\] for preset='spec'"),
        ("default", {"n_latent": 0}, ValueError, "n_latent=0; expected a whole number above 0"),
        ("default", {"n_hidden": 2.5}, ValueError, "n_hidden=2.5"),
        ("default", {"lambda_bulk": -1}, ValueError, "lambda_bulk=-1; expected a number of at least 0"),
        ("default", {"lambda_kl": float("nan")}, ValueError, "lambda_kl=nan"),
        ("default", {"dropout_rate": 1.5}, ValueError, "dropout_rate=1.5; expected"),
        ("default", {"gene_dropout": 1.5}, ValueError, "gene_dropout=1.5; expected"),
        ("default", {"n_layers": True}, ValueError, "n_layers=True"),
        ("default", {"lambda_ref": "1"}, ValueError, "lambda_ref='1'; expected"),
    ],
)
def test_bad_options_are_refused(preset, given, error, message):
    with pytest.raises(error, match=message):
        module_options(preset, given)
