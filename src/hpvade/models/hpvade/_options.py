"""Options of `HPVADE` and their two presets, named once."""

from numbers import Integral, Real
from types import MappingProxyType

import numpy as np

PRESETS = MappingProxyType(
    {
        "default": {
            "n_hidden": 128,
            "n_latent": 32,
            "n_layers": 2,
            "dropout_rate": 0.1,
            "lambda_kl": 1.0,
            "lambda_proto": 1.0,
            "lambda_ref": 0.1,
            "lambda_bulk": 1.0,
            "lambda_bulk_recon": 0.5,
            "gene_dropout": 0.2,
        },
        "spec": {
            "n_hidden": 128,
            "n_latent": 32,
            "lambda_kl": 0.1,
            "lambda_proto": 1.0,
            "lambda_bulk": 1.0,
            "lambda_bulk_recon": 0.5,
        },
    }
)
"""Options of the module, by preset."""


def module_options(preset: str, given: dict) -> dict:
    """Options of the preset with the given ones on top; errors name the choices."""
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; expected one of {sorted(PRESETS)}.")
    options = PRESETS[preset]
    if unknown := sorted(given.keys() - options.keys()):
        raise TypeError(
            f"HPVADE got unknown options {unknown} for preset={preset!r}; expected some of {list(options)}."
        )
    options = options | given
    for name, value in options.items():
        kind, low, high, expected = Real, 0, np.inf, "a number of at least 0"
        if name.startswith("n_"):
            kind, low, high, expected = Integral, 1, np.inf, "a whole number above 0"
        elif "dropout" in name:
            kind, low, high, expected = Real, 0, 1, "a share of at least 0 and below 1"
        if isinstance(value, bool) or not (isinstance(value, kind) and low <= value < high):
            raise ValueError(f"{name}={value!r}; expected {expected}.")
    return options
