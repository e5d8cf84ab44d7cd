"""Priors of the parameters that all cells share, as penalties of the loss; equations in `_priors`."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ._priors import dispersion_kl, lognormal_exponential_kl, lognormal_kl, negative_log_gamma

UNIT = 0.7  # softplus(0) / 0.7 is close to one
ARD_PRIOR = (-math.log(2) / 2, math.sqrt(math.log(2)))


class Penalties:
    """Penalties of `SharedModule`; needs its parts and options."""

    def global_terms(self) -> dict[str, Tensor]:
        """Priors of parameters that all cells share, each summed over its own parameters, by name and modality."""
        terms: dict[str, Tensor] = {}
        for name in self.modality_names:
            for key, value in self._modality_terms(name).items():
                terms[f"{key}/{name}"] = value
        if self.use_ard_z_sigma_scale:
            kl = lognormal_kl(self.ard_loc, self.ard_log_scale.exp(), *ARD_PRIOR)
            terms["ard/"] = kl.sum()
        return terms

    def _modality_terms(self, name: str) -> dict[str, Tensor]:
        options, terms = self.options, {}
        if self.regularise_dispersion:
            rate = softplus(self.part("dispersion_prior_rate_raw", name))
            direction = options["dispersion_prior_direction"]
            mu, log_sigma = self.part("px_r_mu", name), self.part("px_r_log_sigma", name)
            terms["dispersion_kl"] = dispersion_kl(mu, log_sigma, rate, direction).sum()
            alpha = self.option("dispersion_hyper_prior_alpha", name)
            beta = alpha * self.part("dispersion_prior_mean", name)
            terms["dispersion_rate"] = negative_log_gamma(rate, alpha, beta).sum()
        if self.has_background(name) and self.regularise_background:
            prior = self.additive_bg_prior_alpha, self.additive_bg_prior_beta
            terms["background"] = negative_log_gamma(self.part("additive_background", name).exp(), *prior).sum()
        if self.has_scaling(name):
            factors = softplus(self.part("feature_scaling", name)) / UNIT
            prior = options["feature_scaling_prior_alpha"], options["feature_scaling_prior_beta"]
            terms["feature_scaling"] = negative_log_gamma(factors, *prior).sum()
        decoder = self.part("decoder", name)
        if self.decoder_weight_l2:
            squares = sum(weight.square().sum() for weight in decoder.weights())
            terms["decoder_weight_penalty"] = self.decoder_weight_l2 * squares
        if options["decoder_cov_weight_l2"]:
            terms["decoder_covariates"] = options["decoder_cov_weight_l2"] * decoder.covariate_weights().square().sum()
        if options["decoder_hidden_l1"]:
            absolute = sum(weight.abs().sum() for weight in decoder.px_decoder.weights())
            terms["decoder_l1_penalty"] = options["decoder_hidden_l1"] * absolute
        if self.residual_library_encoder:
            mean, scale = self.part("library_obs_w_mu", name), self.part("library_obs_w_log_sigma", name).exp()
            rate = torch.full_like(mean, options["library_obs_w_prior_rate"])
            terms["library_obs_w"] = lognormal_exponential_kl(mean, scale, rate)
        return terms

    @property
    def dispersion_hyper_prior_mean(self) -> float | dict[str, float]:
        """Mean of the prior of the dispersion's rate, as given or found in the data; a dict of several modalities."""
        found = {name: float(self.part("dispersion_prior_mean", name)) for name in self.modality_names}
        return found if len(found) > 1 else next(iter(found.values()))

    def _decoder_weight_l2_penalty(self) -> Tensor:
        """Sum over modalities of the penalty on decoder weights."""
        terms = self.global_terms()
        return sum(value for key, value in terms.items() if key.startswith("decoder_weight_penalty"))
