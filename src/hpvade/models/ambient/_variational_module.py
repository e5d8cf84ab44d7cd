"""Inference, generation, loss and sampling over the modalities of a module; the latent mode is the subclass's."""

import math

import torch
from scvi.distributions import NegativeBinomial
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ...nn._likelihood import nb_log_likelihood
from ._priors import negative_log_gamma
from ._shared_module import SharedModule

_ACTIVE = 0.01  # nats of divergence from which a latent dimension counts as used


class VariationalModule(SharedModule):
    """Equations 3.3 to 3.5 over all modalities.

    The subclass defines `posterior`, which returns q(z|x) of the full latent vector, and how inputs and outputs are
    packed (:meth:`counts`, :meth:`pack`).
    """

    @property
    def total_latent_dim(self) -> int:
        """Size of the latent vector that the decoders see."""
        return sum(self.n_latent_dict.values())

    def counts(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counts of a minibatch by modality."""
        raise NotImplementedError

    def pack(self, values: dict):
        """What :meth:`inference` and :meth:`generative` return for values by modality."""
        return values

    def unpack(self, value) -> dict:
        """Inverse of :meth:`pack`."""
        return value

    def metric(self, key: str, name: str) -> str:
        """Name under which a metric of a modality is logged."""
        return f"{key}_{name}"

    def posterior(self, x: dict[str, Tensor], covs: dict, present: dict[str, Tensor]) -> Normal:
        """q(z|x) of the whole latent vector; N(0, I) in the slice of a missing modality."""
        raise NotImplementedError

    def missing_slices(self, present: dict[str, Tensor]) -> Tensor | None:
        """Where z (cells, D) belongs to a missing modality; None when nothing is missing."""
        return None

    def _build_latent_scales(self) -> None:
        if self.use_ard_z_sigma_scale:
            self.ard_loc = nn.Parameter(torch.zeros(self.total_latent_dim))
            self.ard_log_scale = nn.Parameter(torch.full((self.total_latent_dim,), math.log(0.1)))

    # ------------------------------------------------------------ inputs

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"x": self.pack(self.counts(tensors)), "covs": self.read_covariates(tensors)}

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: dict, **kwargs) -> dict:
        outputs = inference_outputs
        return {"z": outputs["z"], "library": outputs["library"], "covs": self.read_covariates(tensors)}

    # ------------------------------------------------------------ inference and generation

    @auto_move_data
    def inference(self, x, covs: dict, n_samples: int = 1, present: dict[str, Tensor] | None = None) -> dict:
        """Posteriors of the latent vector and of the library size, and samples of them.

        Parameters
        ----------
        x
            Counts (cells, G); by modality in the multimodal module.
        covs
            See `read_covariates`.
        n_samples
            More than one adds a leading axis to the samples.
        present
            Which cells have each modality (cells,); see `presence` when None.

        Returns
        -------
        `z`, `qz`, `library`, `ql` (Normal of the log library size), `present`, and with such priors `z_scale`, what
        `z` was multiplied with, and `horseshoe`, its divergence by modality.
        """
        x = self.unpack(x)
        if present is None:
            present = self.presence(x)
        if len(x) > 1:
            x = {name: counts * present[name][:, None] for name, counts in x.items()}
        qz = self.posterior(x, covs, present)
        z = qz.rsample() if n_samples == 1 else qz.rsample((n_samples,))
        out = {"qz": qz, "present": present, "horseshoe": {}}
        missing = self.missing_slices(present)
        if missing is not None and not self.training:
            z = z.masked_fill(missing, 0.0)
        scale = self.latent_scale(x, covs, present, out)
        if scale is not None:
            z, out["z_scale"] = z * scale, scale
        ql, library = {}, {}
        for name, counts in x.items():
            ql[name], library[name] = self._library(name, counts, covs, present[name], n_samples)
        return out | {"z": z, "ql": self.pack(ql), "library": self.pack(library)}

    def latent_scale(self, x: dict, covs: dict, present: dict, out: dict) -> Tensor | None:
        """What z is multiplied with (D,) or (cells, D): drawn in training, the median in evaluation."""
        if not self.use_ard_z_sigma_scale:
            return None
        noise = self.ard_log_scale.exp() * torch.randn_like(self.ard_loc) if self.training else 0.0
        return (self.ard_loc + noise).exp()

    def _library(self, name: str, x: Tensor, covs: dict, present: Tensor, n_samples: int):
        """Library posterior; the prior in cells that lack the modality, so that its divergence is zero there."""
        ql, library = self.infer_library(name, x, covs, n_samples)
        if ql is None or len(self.modality_names) == 1:
            return ql, library
        prior, has = self.library_prior(name, covs), present[:, None]
        ql = Normal(torch.where(has, ql.loc, prior.loc), torch.where(has, ql.scale, prior.scale))
        return ql, ql.rsample() if n_samples == 1 else ql.rsample((n_samples,))

    @auto_move_data
    def generative(self, z: Tensor, library, covs: dict, transform_batch: int | None = None) -> dict:
        """Distributions of the counts and the priors.

        Returns
        -------
        `px` (with the rate's parts `rho`, `background`, `scaling` and the decoder's `hidden` values), `pz`, `pl`.
        """
        if transform_batch is not None:
            covs = self.set_batch(covs, transform_batch)
        library = self.unpack(library)
        parts = {name: self.generate(name, z, library[name], covs) for name in self.modality_names}
        keys = ("px", "rho", "background", "scaling", "hidden")
        out = {key: self.pack({name: part[key] for name, part in parts.items()}) for key in keys}
        pl = {name: self.library_prior(name, covs) for name in self.modality_names}
        return out | {"pz": Normal(torch.zeros_like(z), torch.ones_like(z)), "pl": self.pack(pl)}

    # ------------------------------------------------------------ loss

    def forward(self, tensors, *args, loss_kwargs: dict | None = None, compute_loss: bool = True, **kwargs):
        """As scvi's, with the stored number of training cells when `loss_kwargs` has no `n_obs`."""
        loss_kwargs = dict(loss_kwargs or {})
        if compute_loss and "n_obs" not in loss_kwargs:
            loss_kwargs |= {"n_obs": int(self.n_obs_training), "skip_n_obs_check": True}
        return super().forward(tensors, *args, loss_kwargs=loss_kwargs, compute_loss=compute_loss, **kwargs)

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict,
        generative_outputs: dict,
        kl_weight: float = 1.0,
        n_obs: int = 1,
        skip_n_obs_check: bool = False,
    ) -> LossOutput:
        """Mean over cells of reconstruction and divergences, plus the priors of shared parameters over `n_obs`.

        Parameters
        ----------
        kl_weight
            Weight of the latent terms; the library's divergence has no warm-up.
        n_obs
            Number of training cells, also in validation.
        skip_n_obs_check
            Do not insist that `n_obs` is at least the number of cells.

        Raises
        ------
        AssertionError
            `n_obs` is smaller than the minibatch.
        """
        x, inferred = self.counts(tensors), inference_outputs
        cells = len(next(iter(x.values())))
        assert skip_n_obs_check or n_obs >= cells, (
            f"n_obs={n_obs} is smaller than the minibatch of {cells} cells; expected the number of training cells. "
            "scvi-tools passes it in training; call `module(tensors)`, or pass n_obs to `loss`."
        )
        px, present = self.unpack(generative_outputs["px"]), inferred["present"]
        recon = {name: -self.log_likelihood(px[name], x[name]) * present[name] for name in x}
        kl_z = kl_divergence(inferred["qz"], Normal(0.0, 1.0))  # cells x D
        kl_l = self._library_kl(inferred, generative_outputs, cells, like=kl_z)
        metrics, latent = {}, kl_z.sum(dim=-1) if self.options["use_kl_z"] else torch.zeros_like(kl_l)
        for key, value in self._sparsity(inferred, generative_outputs).items():
            metrics[key] = value.mean()
            latent = latent + value
        terms = self.global_terms()
        shared = sum(terms.values(), torch.zeros((), device=kl_l.device))
        total = sum(recon.values())
        loss = (total + kl_weight * latent + kl_l).mean() + shared / n_obs
        with torch.no_grad():
            metrics |= self._metrics(x, inferred, px, recon, kl_z, terms, n_obs)
        one = len(recon) == 1
        return LossOutput(
            loss=loss,
            reconstruction_loss=total if one else {f"reconstruction_loss_{k}": v for k, v in recon.items()},
            kl_local={"kl_divergence_z": latent, "kl_divergence_l": kl_l},
            kl_global=shared,
            extra_metrics=metrics,
        )

    @staticmethod
    def log_likelihood(px: NegativeBinomial, x: Tensor) -> Tensor:
        """Log-likelihood of each cell (..., cells), as ``px.log_prob(x).sum(-1)`` but faster."""
        return px.log_prob(x).sum(dim=-1) if px.mu.ndim > x.ndim else nb_log_likelihood(x, px.mu, px.theta)

    def _library_kl(self, inferred: dict, generated: dict, cells: int, like: Tensor) -> Tensor:
        ql, pl = self.unpack(inferred["ql"]), self.unpack(generated["pl"])
        pairs = [(ql[name], pl[name]) for name in ql if ql[name] is not None]
        return sum((kl_divergence(q, p).sum(dim=-1) for q, p in pairs), torch.zeros(cells).to(like))

    def _sparsity(self, inferred: dict, generated: dict) -> dict[str, Tensor]:
        """Optional local terms (cells,), by the name they are logged under."""
        options, terms = self.options, {}
        if options["z_sparsity_prior"] == "gamma":
            z = inferred["z"].abs()
            shape = options["n_active_latent_per_cell"] / z.shape[-1]
            terms["z_sparsity_penalty"] = negative_log_gamma(z, shape, 1.0).sum(dim=-1)
        if options["hidden_activation_sparsity"]:
            for name, hidden in self.unpack(generated["hidden"]).items():
                shape = options["n_active_hidden_per_cell"] / hidden.shape[-1]
                key = "hidden_sparsity_penalty" if len(self.modality_names) == 1 else f"hidden_sparsity_{name}"
                value = negative_log_gamma(hidden, shape, 1.0).sum(dim=-1)
                terms[key] = value * inferred["present"][name]
        return terms | {f"horseshoe_kl_{name}": value for name, value in inferred["horseshoe"].items()}

    def _metrics(
        self, x: dict, inferred: dict, px: dict, recon: dict, kl_z: Tensor, terms: dict, n_obs: int
    ) -> dict[str, Tensor]:
        """Monitored scalars; penalties on weights as they enter the loss, divided by the number of training cells."""
        found = {}
        for name, block in self.latent_blocks().items():
            loc, kl = inferred["qz"].loc[:, block], kl_z[:, block]
            found[self.metric("z_var", name)] = loc.var(dim=0, correction=0).mean()
            found[self.metric("n_active_dims", name)] = (kl.mean(dim=0) > _ACTIVE).sum().to(loc)
            if len(recon) > 1:
                found[f"kl_z_{name}"] = kl.sum(dim=-1).mean()
        for name in self.modality_names:
            if len(recon) > 1:
                found[f"recon_loss_{name}"] = recon[name].sum() / inferred["present"][name].sum().clamp(min=1)
            if self.residual_library_encoder:
                found[self.metric("library_obs_w", name)] = self.part("library_obs_w_mu", name).exp().detach()
            if self.compute_pearson:
                gene, cell = _pearson(x[name], px[name].mu)
                found[self.metric("pearson_gene", name)], found[self.metric("pearson_cell", name)] = gene, cell
        thetas = [self.part("px_r_mu", name).exp().mean() for name in self.modality_names]
        found["theta_mean"] = torch.stack(thetas).mean()
        for key in ("dispersion_kl", "decoder_weight_penalty", "decoder_l1_penalty"):
            values = [value for term, value in terms.items() if term.startswith(f"{key}/")]
            if values:
                found[key] = sum(values).detach() / (1 if key == "dispersion_kl" else n_obs)
        return found

    def latent_blocks(self) -> dict[str, slice]:
        """Columns of z that belong to each modality."""
        blocks, start = {}, 0
        for name in self.modality_names:
            blocks[name] = slice(start, start + self.n_latent_dict[name])
            start += self.n_latent_dict[name]
        return blocks

    # ------------------------------------------------------------ sampling

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1, generative_kwargs: dict | None = None):
        """Counts from the posterior predictive on the CPU: (cells, G), or (cells, G, n_samples)."""
        kwargs = {"inference_kwargs": {"n_samples": n_samples}, "generative_kwargs": generative_kwargs}
        _, generated = self.forward(tensors, compute_loss=False, **kwargs)
        counts = {name: px.sample().cpu() for name, px in self.unpack(generated["px"]).items()}
        return self.pack({k: v if n_samples == 1 else v.permute(1, 2, 0) for k, v in counts.items()})

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self, tensors: dict[str, Tensor], n_mc_samples: int, return_mean: bool = False, n_mc_samples_per_pass: int = 1
    ):
        """Importance-sampled log-likelihood of each cell, dispersion at its median; see scvi-tools.

        The proposal is the posterior of latent vector and library size.
        """
        x, weights = self.counts(tensors), []
        covs = self.read_covariates(tensors)
        for _ in range(math.ceil(n_mc_samples / n_mc_samples_per_pass)):
            inferred = self.inference(self.pack(x), covs, n_samples=max(n_mc_samples_per_pass, 2))
            generated = self.generative(inferred["z"], inferred["library"], covs)
            z, present = inferred["z"], inferred["present"]
            if "z_scale" in inferred:
                z = z / inferred["z_scale"]
            log_w = (Normal(0.0, 1.0).log_prob(z) - inferred["qz"].log_prob(z)).sum(dim=-1)
            px, pl, ql = (self.unpack(v) for v in (generated["px"], generated["pl"], inferred["ql"]))
            library = self.unpack(inferred["library"])
            for name in x:
                log_w = log_w + self.log_likelihood(px[name], x[name]) * present[name]
                if ql[name] is not None:
                    log_w = log_w + (pl[name].log_prob(library[name]) - ql[name].log_prob(library[name])).sum(dim=-1)
            weights.append(log_w)
        log_w = torch.cat(weights)
        log_likelihood = (log_w.logsumexp(dim=0) - math.log(len(log_w))).cpu()
        return log_likelihood.mean().item() if return_mean else log_likelihood


def _pearson(x: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Mean correlation over genes and over cells of observed and expected shares of each cell."""
    x = x / x.sum(dim=-1, keepdim=True).clamp(min=1)
    rate = rate / rate.sum(dim=-1, keepdim=True)

    def correlation(dim: int) -> Tensor:
        a, b = x - x.mean(dim=dim, keepdim=True), rate - rate.mean(dim=dim, keepdim=True)
        norm = (a.square().sum(dim=dim) * b.square().sum(dim=dim)).sqrt()
        return ((a * b).sum(dim=dim) / norm.clamp(min=1e-12)).mean()

    return correlation(0), correlation(1)
