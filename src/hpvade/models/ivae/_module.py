"""The module that scvi-tools trains: the networks of `hpvade.nn.ivae`, the count likelihood and six loss terms."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import log_softmax, one_hot

from ...nn._likelihood import nb_log_likelihood
from ._disentanglement import dip, mmd, total_correlation
from ._network import VAE, Encoder, join


class IVAEModule(BaseModuleClass):
    r"""Variational autoencoder of counts with a bottleneck inside (spec 3).

    The encoder sees log1p of the counts; counts are negative binomial around library x proportions. The loss of a
    minibatch is

    .. math::

        R(z) + \lambda_{irecon} R(\mathrm{bottleneck}(z)) + \beta\, w\, \mathrm{KL}
        + \lambda_{dip} \mathrm{DIP} + \lambda_{tc} \mathrm{TC} + \lambda_{info} \mathrm{MMD},

    with :math:`R` minus the log-likelihood, summed over genes, and :math:`w` the warm-up of the KL term; means over
    cells.

    Parameters
    ----------
    n_vars
        Genes G.
    n_batch
        Batches; more than one enter the decoder as one-hot columns.
    n_cats_per_cov
        Categories of each categorical covariate, which enter the decoder as one-hot columns.
    n_continuous_cov
        Continuous covariates, columns of the decoder's input.
    n_hidden, n_latent, n_bottleneck
        Sizes H, D and I.
    irecon, beta, dip, tc, info
        Weights of the terms. A term of weight 0 is not part of the loss; `irecon` 0 also leaves out its computation.
    """

    gene_likelihood = "nb"  # read by scvi-tools' mixin

    def __init__(
        self,
        n_vars: int,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous_cov: int = 0,
        *,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_bottleneck: int = 2,
        irecon: float = 1.0,
        beta: float = 1.0,
        dip: float = 0.0,
        tc: float = 0.0,
        info: float = 0.0,
    ):
        super().__init__()
        self.n_batch, self.n_cats_per_cov = n_batch, tuple(n_cats_per_cov)
        self.weights = {"reconstruction": 1.0, "irecon": irecon, "kl": beta, "dip": dip, "tc": tc, "info": info}
        n_covariates = sum(n for n in (n_batch, *self.n_cats_per_cov) if n > 1) + n_continuous_cov
        self.vae = VAE(n_vars, n_hidden, n_latent, n_bottleneck, n_covariates=n_covariates)
        self.from_bottleneck, self.sampling = False, False

    @torch.no_grad()
    def initialise(self, mean_counts: Tensor, theta: Tensor) -> None:
        """Start the decoder at mean expression and inverse dispersions (G,)."""
        self.vae.decoder.nn[-2].bias.copy_(mean_counts.log())
        self.vae.decoder.disp.copy_(theta.log())

    @contextmanager
    def decoding(self, *, from_bottleneck: bool = False, sample: bool = False) -> Iterator[None]:
        """Inside, decode through the bottleneck, or from samples of the posterior instead of its mean."""
        before = self.from_bottleneck, self.sampling
        self.from_bottleneck, self.sampling = from_bottleneck, sample
        try:
            yield
        finally:
            self.from_bottleneck, self.sampling = before

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Tensor | None]:
        return {"x": tensors[REGISTRY_KEYS.X_KEY], "size_factor": tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)}

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Tensor | None]:
        return {
            "z": inference_outputs["z"],
            "library": inference_outputs["library"],
            "batch_index": tensors[REGISTRY_KEYS.BATCH_KEY],
            "cat_covs": tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        }

    def forward(self, tensors, *, inference_kwargs: dict | None = None, compute_loss: bool = True, **kwargs):
        """Run inference and generation; a loss is computed at a sample of the posterior, for it to be a bound."""
        inference_kwargs = {"sample": compute_loss} | (inference_kwargs or {})
        return super().forward(tensors, inference_kwargs=inference_kwargs, compute_loss=compute_loss, **kwargs)

    @auto_move_data
    def inference(
        self, x: Tensor, size_factor: Tensor | None = None, n_samples: int = 1, sample: bool = False
    ) -> dict[str, Tensor | Normal]:
        """Posterior of the latent vectors; `z` is a sample in training or when asked for, else the mean."""
        q_m, q_s = self.vae.encoder.posterior(torch.log1p(x))
        qz = Normal(q_m, Encoder.scale(q_s), validate_args=False)  # the plan names what is not finite
        z = qz.loc
        if n_samples > 1:
            z = qz.rsample((n_samples,))
        elif self.training or sample or self.sampling:
            z = qz.rsample()
        library = x.sum(dim=1, keepdim=True) if size_factor is None else size_factor
        return {"qz": qz, "z": z, "library": library}

    @auto_move_data
    def generative(
        self,
        z: Tensor,
        library: Tensor,
        batch_index: Tensor,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
        transform_batch: int | None = None,
    ) -> dict[str, NegativeBinomial | Tensor | None]:
        """Distribution of the counts."""
        if transform_batch is not None:
            batch_index = torch.full_like(batch_index, int(transform_batch))
        covariates = self._covariates(batch_index, cat_covs, cont_covs)
        scale = self.vae.decode(self.vae.bottleneck(z) if self.from_bottleneck else z, covariates)
        px = NegativeBinomial(mu=scale * library, theta=self.vae.decoder.disp.exp(), scale=scale)
        return {"px": px, "covariates": covariates}

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight: float = 1.0, n_obs: int | None = None):
        """Loss of a minibatch; `n_obs` is the number of training cells, for the total correlation.

        All terms are in `extra_metrics` of scvi-tools' LossOutput, without their weights; `reconstruction_loss` and
        `kl_local` are per cell, in nats.
        """
        qz, z = inference_outputs["qz"], inference_outputs["z"]
        weights = self.weights | {"kl": kl_weight * self.weights["kl"]}
        reconstruction = self._reconstruction(tensors, inference_outputs, generative_outputs)
        kl = (-qz.scale.log() + (qz.scale.square() + qz.loc.square()) / 2 - 0.5).sum(dim=-1)
        terms = {"reconstruction": reconstruction[0].mean()}
        if self.weights["irecon"] > 0:
            terms["irecon"] = reconstruction[1].mean()
        terms["kl"] = kl.mean()
        penalties = {
            "dip": lambda: dip(qz.loc, qz.scale),
            "tc": lambda: total_correlation(z, qz.loc, qz.scale, n_obs),
            "info": lambda: mmd(torch.randn_like(z), z),
        }
        for name, penalty in penalties.items():
            # a penalty of weight 0 is recorded all the same, at the cost of its value
            with torch.set_grad_enabled(torch.is_grad_enabled() and weights[name] > 0):
                terms[name] = penalty()
        return LossOutput(
            loss=sum(weights[name] * term for name, term in terms.items() if weights[name] > 0),
            reconstruction_loss=reconstruction[0],
            kl_local=kl,
            extra_metrics={name: term.detach() for name, term in terms.items()},
        )

    @torch.inference_mode()
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1, generative_kwargs: dict | None = None) -> Tensor:
        """Counts drawn from the posterior predictive distribution, (B, G) or (B, G, n_samples), on the CPU."""
        _, outputs = self.forward(
            tensors,
            inference_kwargs={"n_samples": n_samples, "sample": True},
            generative_kwargs=generative_kwargs,
            compute_loss=False,
        )
        counts = outputs["px"].sample().cpu()
        return counts if n_samples == 1 else counts.permute(1, 2, 0)

    @torch.no_grad()
    def posterior_mean(self, tensors: dict[str, Tensor]) -> Tensor:
        """Means of the latent vectors (B, D)."""
        return self.inference(**self._get_inference_input(tensors))["qz"].loc

    @torch.no_grad()
    def loadings(self, tensors: dict[str, Tensor], *, of_latent: bool = False) -> Tensor:
        """Sum over cells of d log proportion / d axis, (G, I) of the bottleneck or (G, D) of the latent vector.

        Exact: one forward derivative per axis.
        """
        tensors = {name: value.to(self.device) for name, value in tensors.items() if value is not None}
        inferred = self.inference(**self._get_inference_input(tensors))
        inputs = self._get_generative_input(tensors, inferred)
        covariates = self._covariates(inputs["batch_index"], inputs["cat_covs"], inputs["cont_covs"])
        code = inferred["qz"].loc if of_latent else self.vae.latent_encoder(inferred["qz"].loc)

        def log_proportions(code: Tensor) -> Tensor:
            z = code if of_latent else self.vae.latent_decoder(code)
            return log_softmax(self.vae.decoder.logits(join(z, covariates)), dim=-1)

        axes = torch.eye(code.shape[1], dtype=code.dtype, device=code.device)
        slopes = [torch.func.jvp(log_proportions, (code,), (axis.expand_as(code),))[1].sum(dim=0) for axis in axes]
        return torch.stack(slopes, dim=1)

    def _reconstruction(self, tensors, inference_outputs, generative_outputs) -> Tensor:
        """Minus the log-likelihood per cell, (1, B), or (2, B) with that through the bottleneck."""
        means = [generative_outputs["px"].mu]
        if self.weights["irecon"] > 0:
            code = self.vae.bottleneck(inference_outputs["z"])
            means.append(self.vae.decode(code, generative_outputs["covariates"]) * inference_outputs["library"])
        theta = self.vae.decoder.disp.exp()
        return -nb_log_likelihood(tensors[REGISTRY_KEYS.X_KEY], torch.stack(means), theta)

    def _covariates(self, batch_index: Tensor, cat_covs: Tensor | None, cont_covs: Tensor | None) -> Tensor | None:
        """Columns that the decoder gets beside the latent vector, (B, C); None when there are none."""
        codes = [(batch_index.flatten(), self.n_batch)]
        if cat_covs is not None:
            codes += zip(cat_covs.T, self.n_cats_per_cov, strict=True)
        columns = [one_hot(code.long(), n).to(self.vae.decoder.disp.dtype) for code, n in codes if n > 1]
        if cont_covs is not None:
            columns.append(cont_covs)
        return torch.cat(columns, dim=1) if columns else None
