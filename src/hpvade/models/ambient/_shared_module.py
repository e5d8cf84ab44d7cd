"""What the single- and the multimodal module share: one modality's networks, parameters, equations and penalties.

A module has `modality_names`; `part(kind, name)` finds a parameter, buffer or network of one of them, under the names
that each module gives it (`px_r_mu` or `px_r_mu["rna"]`, `library_log_means` or `library_log_means_rna`).
"""

import math
from dataclasses import dataclass

import torch
from scvi.distributions import NegativeBinomial
from scvi.module.base import BaseModuleClass
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from ._penalties import UNIT, Penalties
from ._priors import (
    softplus_inverse,
)
from ._regularized import RegularizedDecoderSCVI, RegularizedEncoder

BATCH, X = "batch", "X"
AMBIENT, DISPERSION, LIBRARY = "ambient_covs", "dispersion_cov", "library_size_cov"
SCALING, ENCODER, CONDITIONING = "feature_scaling_covs", "encoder_covs", "extra_categorical_covs"
CONTINUOUS, SIZE_FACTOR = "extra_continuous_covs", "size_factor"


@dataclass(frozen=True)
class Layout:
    """Sizes that the registered data decide.

    Attributes
    ----------
    n_vars
        Features of each modality.
    n_obs
        Registered cells.
    n_batch, ambient, dispersion, library, scaling, conditioning, encoder
        Numbers of categories; for the joint covariates one number per key.
    n_continuous
        Continuous covariates.
    batch_is_group
        Whether the batch is the source of ambient, dispersion and library groups.
    """

    n_vars: dict[str, int]
    n_obs: int = 1
    n_batch: int = 1
    ambient: tuple[int, ...] = (1,)
    dispersion: int = 1
    library: int = 1
    scaling: tuple[int, ...] = ()
    conditioning: tuple[int, ...] = ()
    encoder: tuple[int, ...] = ()
    n_continuous: int = 0
    batch_is_group: bool = True


class SharedModule(Penalties, BaseModuleClass):
    """One modality's model, for as many modalities as `modality_names` lists.

    Parameters
    ----------
    layout
        Sizes.
    options
        Checked options, see :mod:`hpvade.models.ambient._options`; per-modality ones as dicts.
    """

    modality_names: list[str]

    def __init__(self, layout: Layout, options: dict):
        super().__init__()
        self.layout, self.options = layout, options
        for name in (
            *("gene_likelihood", "use_batch_in_decoder", "regularise_dispersion", "decoder_weight_l2"),
            *("regularise_background", "additive_bg_prior_alpha", "additive_bg_prior_beta", "use_ard_z_sigma_scale"),
            *("residual_library_encoder", "latent_distribution", "compute_pearson"),
        ):
            setattr(self, name, options[name])
        self.use_observed_lib_size = False
        self.modality_names = sorted(layout.n_vars)
        self.n_batch = layout.n_batch
        self.n_cats_per_ambient_cov = list(layout.ambient)
        self.n_total_ambient_cats = sum(layout.ambient) if options["use_additive_background"] else 0
        self.n_dispersion_cats, self.n_library_cats = layout.dispersion, layout.library
        self.n_latent_dict = {name: self.option("n_latent", name) for name in self.modality_names}
        self.n_hidden_dict = {name: self.option("n_hidden", name) for name in self.modality_names}
        batch = (layout.n_batch,) if self.use_batch_in_decoder else ()
        self.decoder_cats = [n if n > 1 else 0 for n in (*batch, *layout.conditioning)]
        self.register_buffer("n_obs_training", torch.tensor(layout.n_obs))
        self.trainable_masks: dict[str, Tensor] = {}  # of a query: where parameters may change

    # ------------------------------------------------------------ one modality's pieces

    def option(self, key: str, name: str):
        """Value of an option for modality `name`."""
        value = self.options[key]
        return value[name] if isinstance(value, dict) else value

    def part(self, kind: str, name: str):
        """Parameter, buffer or network of modality `name`; None when the model has none of this kind."""
        raise NotImplementedError

    def put(self, kind: str, name: str, value) -> None:
        """Register a parameter, buffer or network of modality `name`."""
        raise NotImplementedError

    def layers(self, side: str, name: str, key: str = "n_hidden") -> dict:
        """Options of the layers of an encoder or decoder."""
        options = self.options
        return {
            "n_hidden": self.option(key, name),
            "n_layers": self.option("n_layers", name) if key == "n_hidden" else 1,
            "dropout_rate": options["dropout_rate"],
            "batch_norm": options["use_batch_norm"] in (side, "both"),
            "layer_norm": options["use_layer_norm"] in (side, "both"),
        }

    def has_background(self, name: str) -> bool:
        """Whether the modality has an additive background."""
        return self.options["use_additive_background"]

    def has_scaling(self, name: str) -> bool:
        """Whether the modality has feature scaling."""
        return self.options["use_feature_scaling"]

    def build(self, name: str, *, z_encoder: bool = True, n_decoder_input: int) -> None:
        """Create the networks, parameters and buffers of a modality, at their starting values without data."""
        layout, n_vars = self.layout, self.layout.n_vars[name]
        n_in = n_vars + layout.n_continuous
        if z_encoder:
            layers = self.layers("encoder", name)
            self.put("z_encoder", name, RegularizedEncoder(n_in, self.n_latent_dict[name], layout.encoder, **layers))
        layers = self.layers("encoder", name, "library_n_hidden")
        self.put("l_encoder", name, RegularizedEncoder(n_in, 1, layout.encoder, **layers))
        layers = self.layers("decoder", name)
        self.put("decoder", name, RegularizedDecoderSCVI(n_decoder_input, n_vars, self.decoder_cats, **layers))
        self._build_dispersion(name, n_vars)
        if self.has_background(name):
            start = math.log(self.option("additive_bg_prior_alpha", name) / self.option("additive_bg_prior_beta", name))
            start = _or(self.options["additive_bg_init_mean"], start)
            noise = _or(self.options["additive_bg_init_std"], 0.01) * torch.randn(n_vars, sum(layout.ambient))
            self.put("additive_background", name, nn.Parameter(start + noise))
        if self.has_scaling(name):
            self.put("feature_scaling", name, nn.Parameter(torch.zeros(max(sum(layout.scaling), 1), n_vars)))
        sensitivity = _or(self.option("library_log_means_centering_sensitivity", name), 1.0)
        log_sensitivity = torch.tensor(math.log(sensitivity))
        self.put("library_log_means", name, log_sensitivity.expand(1, layout.library).clone())
        self.put("library_log_vars", name, torch.ones(1, layout.library))
        self.put("library_global_log_mean", name, torch.zeros(()))
        self.put("library_log_sensitivity", name, log_sensitivity)
        self.put("median_total", name, torch.ones(()))
        nn.init.constant_(self.part("l_encoder", name).mean_encoder.bias, float(log_sensitivity))
        if self.residual_library_encoder:
            self.put("library_obs_w_mu", name, nn.Parameter(torch.zeros(())))
            self.put("library_obs_w_log_sigma", name, nn.Parameter(torch.full((), -2.0)))

    def _build_dispersion(self, name: str, n_vars: int) -> None:
        grouped = self.option("dispersion", name) == "gene-batch"
        shape = (n_vars, self.layout.dispersion) if grouped else (n_vars,)
        mean = self.option("dispersion_hyper_prior_mean", name)
        sign = -2 if self.options["dispersion_prior_direction"] == "inverse_sqrt" else 2
        start, spread = (sign * math.log(mean), 0.1) if self.regularise_dispersion else (0.0, 1.0)
        start, spread = _or(self.options["px_r_init_mean"], start), _or(self.options["px_r_init_std"], spread)
        self.put("px_r_mu", name, nn.Parameter(start + spread * torch.randn(shape)))
        self.put("px_r_log_sigma", name, nn.Parameter(torch.full(shape, math.log(0.1))))
        if self.regularise_dispersion:
            self.put("dispersion_prior_mean", name, torch.tensor(float(mean)))
            rate = torch.full(shape[1:] or (1,), 1 / mean)
            self.put("dispersion_prior_rate_raw", name, nn.Parameter(softplus_inverse(rate)))

    @torch.no_grad()
    def initialise(self, name: str, start: dict[str, Tensor]) -> None:
        """Move a modality to starting values from data.

        Parameters
        ----------
        start
            Any of: `library_log_means` and `library_log_vars` (n_lib,) as found in the data, `median_total`,
            `decoder_mean` (G,), `background` (G, A) mean normalised expression per ambient category, `theta` (G,),
            which also gives the mean of the dispersion's prior.
        """
        log_sensitivity = self.part("library_log_sensitivity", name)
        if "library_log_means" in start:
            means = start["library_log_means"]
            self.part("library_global_log_mean", name).copy_(means.mean())
            self.part("library_log_means", name).copy_((means - means.mean() + log_sensitivity)[None])
            weight = self.option("library_log_vars_weight", name)
            self.part("library_log_vars", name).copy_((start["library_log_vars"] * weight)[None])
            self.part("median_total", name).copy_(start["median_total"])
        if "decoder_mean" in start:
            mean = start["decoder_mean"].clamp(min=0.01) * _or(self.option("decoder_bias_multiplier", name), 1.0)
            self.part("decoder", name).px_scale_decoder[0].bias.copy_(softplus_inverse(mean))
        background = self.part("additive_background", name)
        if "background" in start and background is not None:
            share = self.options["bg_init_gene_fraction"] * start["background"]
            noise = _or(self.options["additive_bg_init_std"], 0.01) * torch.randn_like(background)
            background.copy_((share.clamp(min=1e-8) / len(self.layout.ambient)).log() + noise)
        if "theta" in start:
            mu = self.part("px_r_mu", name)
            mu.copy_(start["theta"].log().reshape(-1, *[1] * (mu.ndim - 1)).expand_as(mu))
            if self.regularise_dispersion:
                power = -0.5 if self.options["dispersion_prior_direction"] == "inverse_sqrt" else 0.5
                mean = (start["theta"] ** power).mean()
                self.part("dispersion_prior_mean", name).copy_(mean)
                self.part("dispersion_prior_rate_raw", name).copy_(softplus_inverse(1 / mean))

    # ------------------------------------------------------------ equations

    def presence(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which cells have each modality (cells,): all, unless the module knows missing ones."""
        return {name: torch.ones(len(counts), dtype=torch.bool, device=counts.device) for name, counts in x.items()}

    def encoder_input(self, name: str, x: Tensor) -> Tensor:
        """What the z-encoder sees: log1p of counts at the median library size, or of plain counts."""
        if self.options["encoder_input"] == "log1p":
            return torch.log1p(x)
        return torch.log1p(x * (self.part("median_total", name) / x.sum(dim=-1, keepdim=True).clamp(min=1)))

    def infer_library(self, name: str, x: Tensor, covs: dict, n_samples: int) -> tuple[Normal | None, Tensor]:
        """Posterior of the log library size (cells, 1) and a sample of it."""
        if SIZE_FACTOR in covs:
            centre = self.part("library_global_log_mean", name) - self.part("library_log_sensitivity", name)
            library = covs[SIZE_FACTOR].log() - centre
            return None, library if n_samples == 1 else library.expand(n_samples, *library.shape)
        inputs = [torch.log1p(x), *_present(covs, CONTINUOUS)]
        ql, _ = self.part("l_encoder", name)(torch.cat(inputs, dim=-1), covs[ENCODER])
        if self.residual_library_encoder:
            shift = self.part("library_log_sensitivity", name)
            observed = x.sum(dim=-1, keepdim=True).clamp(min=1).log() - self.part("library_global_log_mean", name)
            weight = self.part("library_obs_w_mu", name)
            if self.training:
                weight = weight + self.part("library_obs_w_log_sigma", name).exp() * torch.randn_like(weight)
            ql = Normal(shift + weight.exp() * observed + ql.loc, ql.scale)
        return ql, ql.rsample() if n_samples == 1 else ql.rsample((n_samples,))

    def background(self, name: str, covs: dict) -> Tensor | float:
        """Additive background s of each cell (cells, G): the sum over ambient keys."""
        if not self.has_background(name):
            return 0.0
        return covs[AMBIENT] @ self.part("additive_background", name).exp().T

    def feature_scaling_of(self, name: str, covs: dict) -> Tensor | float:
        """Technical factor y of each cell (cells, G), or of all cells (1, G): the product over scaling keys."""
        if not self.has_scaling(name):
            return 1.0
        factors = softplus(self.part("feature_scaling", name)) / UNIT
        if not self.layout.scaling:
            return factors
        sizes = list(self.layout.scaling)
        parts = zip(covs[SCALING].split(sizes, dim=-1), factors.split(sizes), strict=True)
        return math.prod(one_hot @ rows for one_hot, rows in parts)

    def theta(self, name: str, covs: dict) -> Tensor:
        """Dispersion of each cell: one draw per gene and group in training, the median in evaluation."""
        log_theta = self.part("px_r_mu", name)
        if self.training:
            log_theta = log_theta + self.part("px_r_log_sigma", name).exp() * torch.randn_like(log_theta)
        theta = log_theta.exp()
        if theta.ndim == 1:
            return theta
        return theta.T if theta.shape[1] == 1 else covs[DISPERSION] @ theta.T

    def generate(self, name: str, z: Tensor, library: Tensor, covs: dict) -> dict:
        """Distribution of the counts: rate = exp(library) (rho + s) y, with its parts."""
        inputs = [z, *(c.expand(*z.shape[:-1], -1) for c in _present(covs, CONTINUOUS))]
        rho, hidden = self.part("decoder", name)(torch.cat(inputs, dim=-1), covs[CONDITIONING])
        background, scaling = self.background(name, covs), self.feature_scaling_of(name, covs)
        rate = self.size(name, library) * (rho + background) * scaling
        scale = rho / rho.sum(dim=-1, keepdim=True)
        px = NegativeBinomial(mu=rate, theta=self.theta(name, covs), scale=scale)
        return {"px": px, "rho": rho, "background": background, "scaling": scaling, "hidden": hidden}

    def size(self, name: str, library: Tensor) -> Tensor:
        """Factor of a cell's rates."""
        return library.exp()

    def library_prior(self, name: str, covs: dict) -> Normal:
        """Prior of the log library size (cells, 1)."""
        means = covs[LIBRARY] @ self.part("library_log_means", name).T
        return Normal(means, (covs[LIBRARY] @ self.part("library_log_vars", name).T).sqrt())

    # ------------------------------------------------------------ covariates

    def read_covariates(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """One-hot matrices of the covariates of a minibatch, by registry key."""
        layout, cells = self.layout, len(next(iter(tensors.values())))
        sizes = {
            AMBIENT: layout.ambient,
            DISPERSION: (layout.dispersion,),
            LIBRARY: (layout.library,),
            SCALING: layout.scaling,
        }
        x = next(value for key, value in tensors.items() if key.startswith(X))
        covs = {key: one_hot_joint(tensors.get(key), n, cells, x) for key, n in sizes.items()}
        covs[ENCODER] = _drop_single(one_hot_joint(tensors.get(ENCODER), layout.encoder, cells, x), layout.encoder)
        codes = [tensors[CONDITIONING]] if layout.conditioning else []
        if self.use_batch_in_decoder:
            codes.insert(0, tensors[BATCH])
        cats = ((layout.n_batch,) if self.use_batch_in_decoder else ()) + layout.conditioning
        joint = torch.cat(codes, dim=-1) if codes else None
        covs[CONDITIONING] = _drop_single(one_hot_joint(joint, cats, cells, x), cats)
        covs |= {key: tensors[key] for key in (CONTINUOUS, SIZE_FACTOR) if key in tensors}
        return covs

    def set_batch(self, covs: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
        """Covariates as if all cells came from one batch."""
        changed, n = dict(covs), self.layout.n_batch
        code = nn.functional.one_hot(torch.tensor(int(batch)), n).to(covs[LIBRARY])
        if self.layout.batch_is_group:
            for key in (AMBIENT, DISPERSION, LIBRARY):
                changed[key] = code.expand_as(covs[key])
        if self.use_batch_in_decoder and n > 1:
            rest = covs[CONDITIONING][:, n:]
            changed[CONDITIONING] = torch.cat([code.expand(len(rest), n), rest], dim=1)
        return changed


def one_hot_joint(codes: Tensor | None, sizes: tuple[int, ...], cells: int, like: Tensor) -> Tensor:
    """Concatenated one-hots (cells, sum of sizes) of integer codes (cells, keys), as the type of `like`."""
    out = torch.zeros(cells, sum(sizes), dtype=like.dtype, device=like.device)
    if codes is not None and sizes:
        starts = torch.tensor([0, *sizes[:-1]], device=like.device).cumsum(0)
        out.scatter_(1, codes.long().reshape(cells, -1) + starts, 1.0)
    return out


def _drop_single(one_hot: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Without the columns of covariates that have one category."""
    if all(n > 1 for n in sizes):
        return one_hot
    kept = [part for part, n in zip(one_hot.split(list(sizes), dim=1), sizes, strict=True) if n > 1]
    return torch.cat([one_hot[:, :0], *kept], dim=1)


def _present(covs: dict, key: str) -> list[Tensor]:
    return [covs[key]] if key in covs else []


def _or(value, default):
    return default if value is None else value
