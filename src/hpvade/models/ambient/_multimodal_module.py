"""`RegularizedMultimodalVAE`: several count modalities of the same cells, decoded from one latent vector."""

import math
from collections.abc import Mapping

import torch
from scvi.module.base import auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from ._penalties import UNIT
from ._priors import lognormal_kl, negative_log_gamma, softplus_inverse
from ._regularized import RegularizedEncoder
from ._shared_module import CONTINUOUS, ENCODER, Layout, X
from ._variational_module import VariationalModule

_NETWORKS = {
    "z_encoder": "encoders",
    "l_encoder": "l_encoders",
    "decoder": "decoders",
    "horseshoe_encoder": "horseshoe_encoders",
}
_PARAMETERS = (
    *("px_r_mu", "px_r_log_sigma", "dispersion_prior_rate_raw", "additive_background", "feature_scaling"),
    *("library_obs_w_mu", "library_obs_w_log_sigma", "modality_scale_raw"),
)


class RegularizedMultimodalVAE(VariationalModule):
    """The model of :class:`RegularizedVAE` for each modality; all decoders see the whole latent vector.

    Parameters
    ----------
    layout
        Sizes; modalities are sorted by name.
    options
        Every option of :class:`hpvade.RegularizedMultimodalVI`.

    Examples
    --------
    >>> from hpvade.models.ambient._options import multimodal_options
    >>> from hpvade.models.ambient._shared_module import Layout
    >>> options = multimodal_options({"n_latent": {"rna": 6, "atac": 4}}, ["atac", "rna"])
    >>> module = RegularizedMultimodalVAE(Layout({"rna": 50, "atac": 30}), options)
    >>> module.modality_names, module.total_latent_dim
    (['atac', 'rna'], 10)
    """

    def __init__(self, layout: Layout, options: dict):
        super().__init__(layout, options)
        self.latent_mode, self.modality_weights = options["latent_mode"], options["modality_weights"]
        self.learnable_modality_scaling = options["learnable_modality_scaling"]
        self.dispersion = options["dispersion"]
        self.background_modalities = self._chosen("additive_background_modalities", "rna", "use_additive_background")
        self.scaling_modalities = self._chosen("feature_scaling_modalities", "atac", "use_feature_scaling")
        self.use_additive_background = bool(self.background_modalities)
        for collection in _NETWORKS.values():
            setattr(self, collection, nn.ModuleDict())
        for collection in _PARAMETERS:
            setattr(self, collection, nn.ParameterDict())
        self.modality_scale_init: dict[str, float] = {}
        own_encoders = self.latent_mode != "single_encoder"
        for name in self.modality_names:
            self.build(name, z_encoder=own_encoders, n_decoder_input=self.total_latent_dim + layout.n_continuous)
            self._build_extras(name)
        self._build_latent_scales()
        if not own_encoders:
            widest = max(self.modality_names, key=lambda name: self.n_hidden_dict[name])
            n_in = sum(layout.n_vars.values()) + layout.n_continuous
            layers = self.layers("encoder", widest)
            self.joint_encoder = RegularizedEncoder(n_in, self.total_latent_dim, layout.encoder, **layers)
        n = len(self.modality_names)
        if self.latent_mode == "weighted_mean" and self.modality_weights == "universal":
            self.modality_weight_params = nn.Parameter(torch.zeros(n))
        if self.latent_mode == "weighted_mean" and self.modality_weights == "cell":
            self.modality_weight_net = nn.Linear(n * self.total_latent_dim, n)

    def _chosen(self, option: str, default: str, switch: str) -> list[str]:
        if not self.options[switch]:
            return []
        chosen = self.options[option]
        return [name for name in ([default] if chosen is None else chosen) if name in self.modality_names]

    def _build_extras(self, name: str) -> None:
        if self.learnable_modality_scaling:
            start = self.option("library_log_means_centering_sensitivity", name) or 1.0
            self.modality_scale_init[name] = start
            self.put("modality_scale_raw", name, nn.Parameter(softplus_inverse(torch.tensor(start * UNIT))))
        if self.options["horseshoe_latent_z_prior_type"] == "lognormal":
            n_in, layers = self.layout.n_vars[name] + self.layout.n_continuous, self.layers("encoder", name)
            encoder = RegularizedEncoder(n_in, self.n_latent_dict[name], self.layout.encoder, **layers)
            self.put("horseshoe_encoder", name, encoder)

    # ------------------------------------------------------------ names of the pieces

    def part(self, kind: str, name: str):
        """Element `name` of the dict of networks or parameters, or the buffer ``kind_name``; None without it."""
        if kind in _NETWORKS or kind in _PARAMETERS:
            collection = getattr(self, _NETWORKS.get(kind, kind))
            return dict(collection.items()).get(name)
        return getattr(self, f"{kind}_{name}", None)

    def put(self, kind: str, name: str, value) -> None:
        """Register the piece under the name that :meth:`part` reads."""
        if kind in _NETWORKS or kind in _PARAMETERS:
            getattr(self, _NETWORKS.get(kind, kind))[name] = value
        else:
            self.register_buffer(f"{kind}_{name}", value)

    def has_background(self, name: str) -> bool:
        """Whether the modality has an additive background."""
        return name in self.background_modalities

    def has_scaling(self, name: str) -> bool:
        """Whether the modality has feature scaling."""
        return name in self.scaling_modalities

    @property
    def total_latent_dim(self) -> int:
        """Size of the latent vector: the sum over modalities, or the common size of a weighted mean."""
        sizes = list(self.n_latent_dict.values())
        return sizes[0] if self.latent_mode == "weighted_mean" else sum(sizes)

    def latent_blocks(self) -> dict[str, slice]:
        """Columns of z that belong to each modality; one block ``"joint"`` of a weighted mean."""
        if self.latent_mode == "weighted_mean":
            return {"joint": slice(0, self.total_latent_dim)}
        return super().latent_blocks()

    def counts(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counts of a minibatch by modality."""
        return {name: tensors[f"{X}_{name}"] for name in self.modality_names}

    # ------------------------------------------------------------ latent modes

    def presence(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which cells have any count in each modality (cells,)."""
        return {name: counts.sum(dim=-1) > 0 for name, counts in x.items()}

    def missing_slices(self, present: dict[str, Tensor]) -> Tensor | None:
        """Where z (cells, D) belongs to a missing modality; in one encoder or a mean no slice belongs to one."""
        if self.latent_mode != "concatenation" or all(bool(has.all()) for has in present.values()):
            return None
        return torch.cat([~has[:, None].expand(-1, self.n_latent_dict[name]) for name, has in present.items()], dim=1)

    def posterior(self, x: dict[str, Tensor], covs: dict, present: dict[str, Tensor]) -> Normal:
        """q(z|x): the modalities' posteriors side by side, of one encoder, or of their weighted mean."""
        continuous = [covs[CONTINUOUS]] if CONTINUOUS in covs else []
        seen = {name: self.encoder_input(name, counts) for name, counts in x.items()}
        if self.latent_mode == "single_encoder":
            inputs = torch.cat([*(seen[name] for name in self.modality_names), *continuous], dim=-1)
            return self.joint_encoder(inputs, covs[ENCODER])[0]
        loc, scale = self._encode(seen, continuous, covs, present)
        if self.latent_mode == "concatenation":
            return Normal(torch.cat(loc, dim=-1), torch.cat(scale, dim=-1))
        weights = self.weights(loc, present)
        mean = sum(w[:, None] * m for w, m in zip(weights.T, loc, strict=True))
        variance = sum((w[:, None] * s).square() for w, s in zip(weights.T, scale, strict=True))
        return Normal(mean, variance.sqrt())

    def _encode(self, seen: dict, continuous: list[Tensor], covs: dict, present: dict) -> tuple[list, list]:
        """Means and scales of each modality's posterior; the prior where it is missing."""
        # so the divergence of a missing modality is zero, and no decoder sees an uncontrolled code
        loc, scale = [], []
        for name in self.modality_names:
            q, _ = self.part("z_encoder", name)(torch.cat([seen[name], *continuous], dim=-1), covs[ENCODER])
            has = present[name][:, None]
            loc.append(torch.where(has, q.loc, torch.zeros_like(q.loc)))
            scale.append(torch.where(has, q.scale, torch.ones_like(q.scale)))
        return loc, scale

    @auto_move_data
    def cell_weights(self, x: dict[str, Tensor], covs: dict) -> Tensor:
        """Weights of the modalities in the mean of each cell (cells, modalities)."""
        present = self.presence(x)
        seen = {name: self.encoder_input(name, counts) for name, counts in x.items()}
        loc, _ = self._encode(seen, [covs[CONTINUOUS]] if CONTINUOUS in covs else [], covs, present)
        return self.weights(loc, present)

    def weights(self, loc: list[Tensor], present: dict[str, Tensor]) -> Tensor:
        """Weights of the modalities in a mean (cells, modalities), zero for missing ones; rows sum to one.

        A cell that has none is at the prior in all of them, and they count as if they were there.
        """
        has = torch.stack([present[name] for name in self.modality_names], dim=-1)
        if self.modality_weights == "universal":
            logits = self.modality_weight_params.expand(len(has), -1)
        elif self.modality_weights == "cell":
            logits = self.modality_weight_net(torch.cat(loc, dim=-1))
        else:
            logits = torch.zeros_like(has, dtype=loc[0].dtype)
        missing = ~has & has.any(dim=-1, keepdim=True)
        return logits.masked_fill(missing, -math.inf).softmax(dim=-1)

    def latent_scale(self, x: dict, covs: dict, present: dict, out: dict) -> Tensor | None:
        """Product of the automatic-relevance and the horseshoe factors, see spec 3.5."""
        scale = super().latent_scale(x, covs, present, out)
        if self.options["horseshoe_latent_z_prior_type"] is None:
            return scale
        factors, a = [], self.options["n_active_latent_per_cell"] / self.total_latent_dim
        variance = math.log(1 + 1 / a)
        continuous = [covs[CONTINUOUS]] if CONTINUOUS in covs else []
        for name in self.modality_names:
            inputs = torch.cat([self.encoder_input(name, x[name]), *continuous], dim=-1)
            q, sample = self.part("horseshoe_encoder", name)(inputs, covs[ENCODER])
            has = present[name][:, None]
            kl = lognormal_kl(q.loc, q.scale, math.log(a) - variance / 2, math.sqrt(variance)).sum(dim=-1)
            out["horseshoe"][name] = kl * present[name]
            factors.append(torch.where(has, (sample if self.training else q.loc).exp(), 1.0))
        is_mean = self.latent_mode == "weighted_mean"
        factor = sum(factors) / len(factors) if is_mean else torch.cat(factors, dim=-1)
        return factor if scale is None else factor * scale

    # ------------------------------------------------------------ scale and learning rates

    def size(self, name: str, library: Tensor) -> Tensor:
        """Factor of a cell's rates, times the modality's learned scale."""
        if not self.learnable_modality_scaling:
            return library.exp()
        return library.exp() * self.modality_scale(name)

    def modality_scale(self, name: str) -> Tensor:
        """Learned scale of a modality."""
        return softplus(self.modality_scale_raw[name]) / UNIT

    def _modality_terms(self, name: str) -> dict[str, Tensor]:
        terms = super()._modality_terms(name)
        if self.learnable_modality_scaling:
            shape = self.options["modality_scale_prior_concentration"]
            rate = shape / self.modality_scale_init[name]
            terms["modality_scale"] = negative_log_gamma(self.modality_scale(name), shape, rate)
        return terms

    def _metrics(self, x, inferred, px, recon, kl_z, terms, n_obs) -> dict[str, Tensor]:
        found = super()._metrics(x, inferred, px, recon, kl_z, terms, n_obs)
        if self.learnable_modality_scaling:
            found |= {f"modality_scale_{name}": self.modality_scale(name) for name in self.modality_names}
        return found

    def get_parameter_groups(self, base_lr: float, modality_lr_multiplier: Mapping[str, float]) -> list[dict]:
        """Optimiser groups: one per modality, and one of what they share.

        Raises
        ------
        ValueError
            A name is not a modality, or a factor is not positive.
        """
        if unknown := sorted(set(modality_lr_multiplier) - set(self.modality_names)):
            raise ValueError(f"Unknown modality {unknown} in modality_lr_multiplier; expected {self.modality_names}.")
        if bad := {name: f for name, f in modality_lr_multiplier.items() if not f > 0}:
            raise ValueError(f"modality_lr_multiplier={bad}; expected positive factors.")
        groups: dict[str, list] = {name: [] for name in [*self.modality_names, ""]}
        collections = {*_NETWORKS.values(), *_PARAMETERS}
        for path, parameter in self.named_parameters():
            first, *rest = path.split(".")
            if parameter.requires_grad:
                groups[rest[0] if first in collections else ""].append(parameter)
        return [
            {"params": parameters, "lr": base_lr * modality_lr_multiplier.get(name, 1.0)}
            for name, parameters in groups.items()
            if parameters
        ]
