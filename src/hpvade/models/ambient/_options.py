"""Options of the two regularised models: each named once, checked before any work, passed on as one dict."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType

from ..._text import warn

SHARED = MappingProxyType(
    {
        "n_hidden": 128,
        "n_latent": 10,
        "n_layers": 1,
        "dropout_rate": 0.1,
        "dispersion": "gene-batch",
        "gene_likelihood": "gamma_poisson",
        "latent_distribution": "normal",
        "library_log_vars_weight": 0.5,
        "library_log_means_centering_sensitivity": None,
        "library_n_hidden": 16,
        "scale_activation": "softplus",
        "use_additive_background": True,
        "use_batch_in_decoder": False,
        "regularise_dispersion": True,
        "dispersion_hyper_prior_mean": 1 / 3,
        "dispersion_hyper_prior_alpha": 9.0,
        "dispersion_prior_direction": "inverse_sqrt",
        "additive_bg_prior_alpha": 1.0,
        "additive_bg_prior_beta": 100.0,
        "regularise_background": False,
        "use_feature_scaling": True,
        "feature_scaling_prior_alpha": 200.0,
        "feature_scaling_prior_beta": 200.0,
        "use_batch_norm": "none",
        "use_layer_norm": "both",
        "compute_pearson": False,
        "dispersion_init": "prior",
        "dispersion_init_bio_frac": 0.9,
        "dispersion_init_theta_min": 0.01,
        "dispersion_init_theta_max": 20.0,
        "px_r_init_mean": None,
        "px_r_init_std": None,
        "additive_bg_init_mean": None,
        "additive_bg_init_std": None,
        "decoder_weight_l2": 0.1,
        "decoder_cov_weight_l2": 0.0,
        "init_decoder_bias": "mean",
        "bg_init_gene_fraction": 0.2,
        "decoder_bias_multiplier": None,
        "residual_library_encoder": True,
        "library_obs_w_prior_rate": 1.0,
        "encoder_input": "library_normalized",
        "z_sparsity_prior": None,
        "n_active_latent_per_cell": 20.0,
        "decoder_hidden_l1": 0.0,
        "hidden_activation_sparsity": False,
        "n_active_hidden_per_cell": 40.0,
        "use_kl_z": True,
        "use_ard_z_sigma_scale": False,
    }
)
"""Options of both models with their defaults."""

MULTIMODAL = MappingProxyType(
    {
        **SHARED,
        "latent_mode": "concatenation",
        "modality_weights": "equal",
        "additive_background_modalities": None,
        "feature_scaling_modalities": None,
        "learnable_modality_scaling": False,
        "modality_scale_prior_concentration": 5.0,
        "horseshoe_latent_z_prior_type": None,
    }
)
"""Options of the multimodal model with their defaults."""

_SIDES = ("none", "encoder", "decoder", "both")
_CHOICES = {
    "dispersion": ("gene-batch", "gene"),
    "gene_likelihood": ("gamma_poisson", "nb"),
    "latent_distribution": ("normal",),
    "scale_activation": ("softplus",),
    "dispersion_prior_direction": ("inverse_sqrt", "sqrt"),
    "use_batch_norm": _SIDES,
    "use_layer_norm": _SIDES,
    "dispersion_init": ("prior", "data"),
    "init_decoder_bias": ("mean", "topN", None),
    "encoder_input": ("library_normalized", "log1p"),
    "z_sparsity_prior": (None, "gamma"),
    "latent_mode": ("concatenation", "single_encoder", "weighted_mean"),
    "modality_weights": ("equal", "universal", "cell"),
    "horseshoe_latent_z_prior_type": (None, "lognormal"),
}
_HINTS = {
    "gene_likelihood": " Zero inflation and Poisson counts are not offered: dispersion and ambient RNA explain zeros.",
    "latent_distribution": " The ambient and dispersion priors were derived for a normal latent space.",
}
_LIBRARY_HIDDEN = 32
_WHOLE = ("n_hidden", "n_latent", "n_layers", "library_n_hidden")
_ANY_NUMBER = ("px_r_init_mean", "additive_bg_init_mean")
_FROM_ZERO = (
    "px_r_init_std",
    "additive_bg_init_std",
    "decoder_weight_l2",
    "decoder_cov_weight_l2",
    "decoder_hidden_l1",
)
_SHARES = {"dropout_rate": (0, 1), "dispersion_init_bio_frac": (0, 1)}
_MODALITIES = ("additive_background_modalities", "feature_scaling_modalities")
_EVERY_MODALITY = (
    *("n_hidden", "n_latent", "n_layers", "dispersion", "library_log_vars_weight"),
    *("dispersion_hyper_prior_mean", "dispersion_hyper_prior_alpha"),
)
_SOME_MODALITIES = ("library_log_means_centering_sensitivity", "decoder_bias_multiplier")
PER_MODALITY = (*_EVERY_MODALITY, *_SOME_MODALITIES)
"""Options that the multimodal model takes as one value or as ``{modality: value}``."""


def ambient_options(given: Mapping) -> dict:
    """Options of `AmbientRegularizedSCVI`: the defaults with the given ones on top; errors name the choices."""
    return {name: _checked(name, value) for name, value in _merge("AmbientRegularizedSCVI", SHARED, given).items()}


def multimodal_options(given: Mapping, modalities: Sequence[str]) -> dict:
    """Options of `RegularizedMultimodalVI`; those of :data:`PER_MODALITY` become one value per modality."""
    options = _merge("RegularizedMultimodalVI", MULTIMODAL, given)
    for name, value in options.items():
        if name in PER_MODALITY:
            values = _spread(name, value, modalities)
            options[name] = {modality: _checked(name, v) for modality, v in values.items()}
        elif name in _MODALITIES and value is not None:
            options[name] = _known(name, list(value), modalities)
        elif name not in _MODALITIES:
            options[name] = _checked(name, value)
    sizes = set(options["n_latent"].values())
    if options["latent_mode"] == "weighted_mean" and len(sizes) > 1:
        raise ValueError(f"latent_mode='weighted_mean' needs one n_latent for all, found {options['n_latent']}.")
    if options["latent_mode"] == "single_encoder" and options["horseshoe_latent_z_prior_type"]:
        raise ValueError(
            "horseshoe_latent_z_prior_type needs an encoder per modality; use latent_mode='concatenation'."
        )
    return options


def warn_of_large_library_encoder(options: Mapping) -> None:
    """Warn when the library encoder is large enough to explain expression."""
    if options["library_n_hidden"] > _LIBRARY_HIDDEN:
        warn(
            f"library_n_hidden={options['library_n_hidden']} is above {_LIBRARY_HIDDEN}: a strong library encoder "
            "explains expression, which the latent space should. The recommended value is 16."
        )


def _merge(model: str, defaults: Mapping, given: Mapping) -> dict:
    if unknown := sorted(given.keys() - defaults.keys()):
        raise TypeError(f"{model} got unknown options {unknown}; expected some of {list(defaults)}.")
    return {**defaults, **given}


def _spread(name: str, value, modalities: Sequence[str]) -> dict:
    if not isinstance(value, Mapping):
        return dict.fromkeys(modalities, value)
    _known(name, list(value), modalities)
    if (missing := [m for m in modalities if m not in value]) and name in _EVERY_MODALITY:
        raise ValueError(f"{name}={dict(value)} has no value for {missing}; expected one for each of {modalities}.")
    return {modality: value.get(modality, SHARED[name]) for modality in modalities}


def _known(name: str, found: list[str], modalities: Sequence[str]) -> list[str]:
    if unknown := [m for m in found if m not in modalities]:
        raise ValueError(f"{name} names unknown modalities {unknown}; expected some of {list(modalities)}.")
    return found


def _checked(name: str, value):
    default = MULTIMODAL[name]
    if isinstance(default, bool):
        if isinstance(value, bool) or (isinstance(value, Integral) and value in (0, 1)):
            return bool(value)
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; it must be bool (or 0 or 1).")
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(
                f"{name}={value!r} is not offered; expected one of {list(_CHOICES[name])}.{_HINTS.get(name, '')}"
            )
        return value
    if value is None and default is None or (name == "bg_init_gene_fraction" and value is None):
        return value
    kind, low, closed, expected = Real, 0, False, "a number above 0"
    if name in _WHOLE:
        kind, expected = Integral, "a whole number above 0"
    elif name in _ANY_NUMBER:
        low, expected = -float("inf"), "a number"
    elif name in _FROM_ZERO or name in _SHARES:
        closed, expected = True, "a number of at least 0"
    high = _SHARES.get(name, (0, float("inf")))[1]
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits or not (low < value < high or (closed and value == low)):
        below = f" and below {high}" if name in _SHARES else ""
        raise ValueError(f"{name}={value!r}; expected {expected}{below}.")
    return value
