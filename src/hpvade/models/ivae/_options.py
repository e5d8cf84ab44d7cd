"""Options of `IVAE`, their older names, and what they may be."""

import math
from numbers import Integral, Real

OLD_NAMES = {"hidden_dim": "n_hidden", "latent_dim": "n_latent", "i_dim": "n_bottleneck"}
DEFAULT_SIZES = {"n_hidden": 128, "n_latent": 10, "n_bottleneck": 2}
WEIGHTS = ("irecon", "beta", "dip", "tc", "info")


def module_options(options: dict, old: dict) -> dict:
    """Options of the module, those given by an older name put in place.

    Parameters
    ----------
    options
        Values of all sizes and weights by name.
    old
        Values given by their older names.

    Raises
    ------
    TypeError
        A name is unknown, or an option is given by both of its names.
    ValueError
        A size is not a whole number above zero, the bottleneck is larger than the latent vector, or a weight is
        negative or not finite.

    Examples
    --------
    >>> module_options({"n_hidden": 128, "n_latent": 10, "n_bottleneck": 2}, {"latent_dim": 5})
    {'n_hidden': 128, 'n_latent': 5, 'n_bottleneck': 2}
    """
    options = dict(options)
    for name, value in old.items():
        if name not in OLD_NAMES:
            raise TypeError(
                f"IVAE got an unknown option {name!r}; expected some of {[*DEFAULT_SIZES, *WEIGHTS, *OLD_NAMES]}."
            )
        if options[OLD_NAMES[name]] != DEFAULT_SIZES[OLD_NAMES[name]]:
            raise TypeError(f"{name} and {OLD_NAMES[name]} are one option; give {OLD_NAMES[name]} only.")
        options[OLD_NAMES[name]] = value
    for name in DEFAULT_SIZES:
        _check(name, options[name], Integral, 1, "a whole number above 0")
    for name in WEIGHTS:
        if name in options:
            _check(name, options[name], Real, 0, "a finite number of at least 0")
    if options["n_bottleneck"] > options["n_latent"]:
        raise ValueError(
            f"n_bottleneck={options['n_bottleneck']} is larger than n_latent={options['n_latent']}; expected a "
            "bottleneck of at most n_latent axes, usually 2 or 3."
        )
    return options


def _check(name: str, value, kind: type, low: float, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value < math.inf:
        raise ValueError(f"{name}={value!r}; expected {expected}.")
