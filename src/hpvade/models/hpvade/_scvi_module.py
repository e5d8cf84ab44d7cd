"""The module that scvi-tools trains, the default engine; `_literal_module` has the literal one on the same interface.

`forward` is the cell stream, `bulk_losses` the stream of simulated bulk; `predict` gives fractions for bulk.
"""

from collections.abc import Sequence
from functools import partial

import torch
from scvi.distributions import NegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cross_entropy, log_softmax, one_hot, softmax

from ...nn._blocks import dead_unit_share, hidden_layers
from ...nn._likelihood import nb_log_likelihood
from ...nn._normalize import Standardizer, log1p_cp10k
from ...solvers import RobustFit, marker_genes, robust, robust_variable

# Adam moves a parameter by its learning rate whatever its gradient; a signature that follows at a tenth of the pace of
# the networks stays what was measured in a short training (benchmarks/RESULTS.md, "Steps of training")
PACE = 0.1


class DeconvolutionModule(BaseModuleClass):
    """What both configurations share: buffers filled from the reference, and the interface of the two streams.

    Parameters
    ----------
    n_vars, n_genes, n_types, n_batch, n_studies
        Genes of the data, genes the networks see, cell types, batches, studies of the reference.
    """

    # models saved by earlier versions lack them and keep what they start with
    new_buffers = ("size_offset", "interval_scale", "size_sd", "recovery", "stored_platform", "sorted_log_sd")

    def __init__(self, n_vars: int, n_genes: int, n_types: int, n_batch: int = 1, n_studies: int = 1):
        super().__init__()
        self.n_types, self.n_batch, self.n_studies = n_types, n_batch, n_studies
        self.register_buffer("gene_index", torch.arange(n_genes))
        self.register_buffer("gene_score", torch.zeros(n_vars))
        self.register_buffer("mean_counts", torch.ones(n_vars, n_types))
        self.register_buffer("composition", torch.full((n_types,), 1 / n_types))
        self.register_buffer("size_ratio", torch.ones(n_types))
        self.register_buffer("size_offset", torch.zeros(n_types))  # `HPVADE.calibrate`
        self.register_buffer("interval_scale", torch.full((n_types,), 2.0))  # of standard deviations of each type ...
        self.register_buffer("size_sd", torch.full((n_types,), 0.1))  # ... and of log RNA content: found after training
        self.register_buffer("recovery", torch.ones(n_types))  # share of a type's held-out RNA that is found as its own
        self.register_buffer("sorted_log_sd", torch.zeros(n_types))  # see `mark_sorted`; 0 for types measured in cells
        self.register_buffer("network_trained", torch.tensor(False))  # with max_epochs=0 only the reference is read
        # log factor and weight of every gene by `HPVADE.fit_platform`, for the whole reference and each study; genes of
        # weight 0 are not known
        self.register_buffer("stored_platform", torch.zeros(1 + n_studies * (n_studies > 1), 2, n_vars))
        if n_studies > 1:  # what each study says, see `hpvade.reference._studies.Studies`
            self.register_buffer("study_mean_counts", torch.ones(n_studies, n_vars, n_types))
            self.register_buffer("study_measured", torch.ones(n_studies, n_vars, dtype=torch.bool))
            self.register_buffer("study_size_ratio", torch.ones(n_studies, n_types))

    def index_limits(self) -> dict[str, int]:
        """See :func:`hpvade.models._saving.load_tensors`."""
        return {"gene_index": len(self.gene_score)}

    @staticmethod
    def upgrade(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a model saved by an earlier version, under today's names."""
        return {"network_trained": torch.tensor(True)} | tensors

    @torch.no_grad()
    def set_reference(self, gene_score, mean_counts, composition, size_ratio) -> None:
        """Fill the buffers with what the cells say: those for training before it, all of them after it."""
        for name, value in locals().items():
            if name != "self":
                getattr(self, name).copy_(value)

    @torch.no_grad()
    def set_studies(self, study_mean_counts, study_measured, study_size_ratio) -> None:
        """Fill the buffers with what each study says."""
        for name, value in locals().items():
            if name != "self":
                getattr(self, name).copy_(value)

    @torch.no_grad()
    def set_uncertainty(self, interval_scale: Tensor, size_sd: Tensor, recovery: Tensor) -> None:
        """Fill the buffers with what the folds of the reference say; both (types,)."""
        self.interval_scale.copy_(interval_scale)
        self.size_sd.copy_(size_sd)
        self.recovery.copy_(recovery)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Tensor]:
        return {"x": tensors["X"]}

    def _get_generative_input(self, tensors, inference_outputs, transform_batch=None, **kwargs) -> dict[str, Tensor]:
        batch = tensors["batch"].long() if "batch" in tensors else torch.zeros_like(tensors["labels"]).long()
        if transform_batch is not None:
            batch = torch.full_like(batch, transform_batch)
        return {"z": inference_outputs["z"], "library": inference_outputs["library"], "batch_index": batch}

    def rna_to_cells(self, rna: Tensor, sizes: Tensor) -> Tensor:
        """Fractions of cells from fractions of RNA: f_k = (r_k / m_k) / sum_j (r_j / m_j)."""
        return _close(rna / sizes)

    def cells_to_rna(self, cells: Tensor, sizes: Tensor) -> Tensor:
        """Fractions of RNA from fractions of cells: r_k = f_k m_k / sum_j f_j m_j."""
        return _close(cells * sizes)


class HPVADEModule(DeconvolutionModule):
    r"""The default engine: a count VAE over cells, a signature in linear space, a scale-free proportion network.

    Cells: q(z|x) from standardised log1p cp10k, counts negative binomial around library x softmax decoder.
    Signature: :math:`S_{gk} = \bar x_{gk} \exp(\Delta_{gk})`, mean counts per cell. :math:`\bar x` is measured; the
    change :math:`\Delta`, 0 for genes that the networks do not see, is trained by the multinomial likelihood of the
    counts of cells of its type, by the simulated bulk at its true fractions, and a prior around 0. Training sees
    :math:`\bar x` of the training cells, every answer that of all cells.
    Bulk: fractions of cells from a network on scale-free input, KL divergence to the realised fractions.
    Every term is a mean over genes or samples, so that the weights compare.

    Parameters
    ----------
    n_vars, n_genes, n_types, n_batch, n_studies
        See `DeconvolutionModule`.
    n_hidden, n_latent, n_layers, dropout_rate
        Sizes of the networks.
    lambda_kl, lambda_proto, lambda_ref, lambda_bulk, lambda_bulk_recon
        Weights of the KL divergence, the signature's likelihood, its prior, the bulk terms, the bulk reconstruction.
    gene_dropout
        Most genes hidden from the proportion network in training, so that bulk lacking genes needs no retraining.
    """

    def __init__(
        self,
        n_vars: int,
        n_genes: int,
        n_types: int,
        n_batch: int = 1,
        n_studies: int = 1,
        *,
        n_hidden: int,
        n_latent: int,
        n_layers: int,
        dropout_rate: float,
        lambda_kl: float,
        lambda_proto: float,
        lambda_ref: float,
        lambda_bulk: float,
        lambda_bulk_recon: float,
        gene_dropout: float,
    ):
        super().__init__(n_vars, n_genes, n_types, n_batch, n_studies)
        self.lambda_kl, self.lambda_proto, self.lambda_ref = lambda_kl, lambda_proto, lambda_ref
        self.lambda_bulk, self.lambda_bulk_recon, self.gene_dropout = lambda_bulk, lambda_bulk_recon, gene_dropout
        self.cell_input = Standardizer(n_genes, scale_free=False)
        self.encoder = hidden_layers(n_genes, n_hidden, 1, dropout_rate)
        self.posterior = nn.Linear(n_hidden, 2 * n_latent)
        n_covariates = n_batch if n_batch > 1 else 0
        self.decoder = hidden_layers(n_latent + n_covariates, n_hidden, 1, 0.0)
        self.profile = nn.Linear(n_hidden, n_genes)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))
        self.log_change = nn.Parameter(torch.zeros(n_genes, n_types))
        self.register_buffer("log_S_ref", torch.zeros(n_genes, n_types))  # of the training cells, model genes
        self.register_buffer("bulk_weight", torch.ones(n_genes))
        self.bulk_input = Standardizer(n_genes, scale_free=True)
        self.bulk_hidden = hidden_layers(n_genes, n_hidden, n_layers, dropout_rate)
        self.bulk_logits = nn.Linear(n_hidden, n_types)

    @torch.no_grad()
    def initialise(self, cells: Tensor, bulk: Tensor) -> None:
        """Start from the reference: signature, input statistics and the decoder's bias, from training data only.

        Parameters
        ----------
        cells
            Counts of training cells (cells x all genes); a sample of them will do.
        bulk
            Simulated training bulk (samples x model genes).
        """
        self.log_S_ref.copy_((self.mean_counts[self.gene_index] + 1e-3).log())
        cells = cells[:, self.gene_index]
        self.cell_input.fit(cells)
        self.bulk_input.fit(bulk)
        precision = 1 / log1p_cp10k(bulk).var(dim=0, correction=0).clamp(min=1e-2)
        self.bulk_weight.copy_(precision / precision.mean())
        self.profile.bias.copy_((cells.mean(dim=0) + 1e-3).log())

    def signature(self) -> Tensor:
        """S (all genes x types): measured mean counts per cell times what training learned."""
        return self.mean_counts * self.learned()

    def study_signature(self, study: int) -> Tensor:
        """`signature` as one study measured it (all genes x types)."""
        return self.study_mean_counts[study] * self.learned()

    def change(self) -> Tensor:
        """Delta (model genes x types): log change of the measured signature."""
        return PACE * self.log_change

    def learned(self) -> Tensor:
        """Factors (all genes x types) that training put on the measured signature; 1 where networks do not look."""
        return torch.ones_like(self.mean_counts).index_copy(0, self.gene_index, self.change().exp())

    @staticmethod
    def upgrade(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take from models of the first version what training learned, and leave the drift of all other genes."""
        tensors = DeconvolutionModule.upgrade(tensors)
        if "log_S" in tensors:
            seen = tensors["gene_index"]
            start, end = tensors["log_S_ref"][seen], tensors.pop("log_S")[seen]
            tensors |= {"log_S_ref": start, "log_change": (end - start) / PACE}
        return tensors

    @auto_move_data
    def inference(self, x: Tensor, n_samples: int = 1) -> dict[str, Tensor | Normal]:
        """Posterior of the latent representation."""
        x = x[:, self.gene_index]
        mean, raw = self.posterior(self.encoder(self.cell_input(x))).chunk(2, dim=1)
        qz = Normal(mean, nn.functional.softplus(raw) + 1e-4)
        z = qz.rsample() if n_samples == 1 else qz.rsample((n_samples,))
        return {"qz": qz, "z": z, "library": x.sum(dim=1, keepdim=True)}

    @auto_move_data
    def generative(self, z: Tensor, library: Tensor, batch_index: Tensor) -> dict[str, NegativeBinomial]:
        """Distribution of the counts of the model's genes."""
        if self.n_batch > 1:
            covariates = one_hot(batch_index.flatten(), self.n_batch).to(z.dtype)
            z = torch.cat([z, covariates.expand(*z.shape[:-1], -1)], dim=-1)
        hidden = self.decoder(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)
        scale = softmax(self.profile(hidden), dim=-1)
        return {"px": NegativeBinomial(mu=scale * library, theta=self.log_theta.exp(), scale=scale)}

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight: float = 1.0) -> LossOutput:
        """Loss of the cell stream; `reconstruction_loss` and `kl_local` per cell in nats."""
        x = tensors["X"][:, self.gene_index]
        labels = tensors["labels"].long().flatten()
        n_genes = x.shape[1]
        px = generative_outputs["px"]
        reconstruction = -nb_log_likelihood(x, px.mu, px.theta)
        kl = kl_to_standard(inference_outputs["qz"])
        # multinomial likelihood of the counts under the type's column, against the start's: its optimum is the mean
        change = log_softmax(self.log_S_ref + self.change(), 0) - log_softmax(self.log_S_ref, 0)
        # sums per type by a product: the gradient of indexing by label adds up in an order that threads decide
        counts = one_hot(labels, self.n_types).to(x.dtype).T @ x
        proto = -(counts * change.T).sum() / x.sum().clamp(min=1)
        prior = self.change().square().mean()
        cells = (reconstruction.mean() + kl_weight * self.lambda_kl * kl.mean()) / n_genes
        loss = cells + self.lambda_proto * proto + self.lambda_ref * prior
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl_local=kl,
            extra_metrics={"cells": cells.detach(), "proto": proto, "prior": prior},
        )

    def logits(self, bulk: Tensor, present: Tensor | None = None) -> Tensor:
        """Logits of the fractions of cells (samples x types) from bulk on the model's genes, any scale."""
        return self.bulk_logits(self.bulk_hidden(self.bulk_input(bulk, present)))

    def bulk_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the bulk stream, its parts and monitored values."""
        bulk, truth = batch["bulk"], batch["proportions"]
        present = None
        if self.training and self.gene_dropout > 0:
            kept = 1 - self.gene_dropout * torch.rand((), device=bulk.device)
            present = (torch.rand(bulk.shape[1], device=bulk.device) < kept).float()
        logits = self.logits(bulk, present)
        prop = _kl(truth, logits)
        mixture = truth @ (self.log_S_ref + self.change()).exp().T
        recon = (self.bulk_weight * (log1p_cp10k(mixture) - log1p_cp10k(bulk)).square()).mean()
        monitored = monitor(truth, logits.detach())
        if not self.training:
            monitored["dead_units"] = torch.tensor(dead_unit_share(self.bulk_hidden, self.bulk_input(bulk)))
        loss = self.lambda_bulk * (prop + self.lambda_bulk_recon * recon)
        return loss, {"prop": prop, "bulk_recon": recon, **monitored}

    def shared_terms(self, cells: LossOutput, bulk: dict[str, Tensor]) -> tuple[nn.Parameter, dict[str, Tensor]]:
        """The parameter that both streams train, and the weighted terms that reach it."""
        return self.log_change, {
            "proto": self.lambda_proto * cells.extra_metrics["proto"],
            "prior": self.lambda_ref * cells.extra_metrics["prior"],
            "bulk_recon": self.lambda_bulk * self.lambda_bulk_recon * bulk["bulk_recon"],
        }

    @torch.inference_mode()
    def predict(self, bulk: Tensor, present: Tensor) -> Tensor:
        """Fractions of cells by the network alone, RNA content as in the reference; (samples x types).

        `bulk` (samples x all genes) on any linear scale; `present` bool (all genes,).
        """
        return softmax(self.logits(bulk[:, self.gene_index], present[self.gene_index].float()), dim=1)

    @torch.inference_mode()
    def refine(
        self,
        bulk: Tensor,
        present: Tensor,
        depth: Tensor,
        anchor: Tensor | None,
        *,
        signature: Tensor | None = None,
        platform: Tensor | None = None,
        variable: Sequence[int] = (),
        **options,
    ) -> tuple[Tensor, RobustFit]:
        """Robust regression on the learned signature, over the genes that the bulk has and that tell types apart.

        `bulk` (samples x all genes) as shares of the sample's total; `signature` (all genes x types) in place of the
        model's; `platform` (2 x all genes), log factor and weight of the genes in place of the cohort's; `variable`:
        types whose profiles differ from sample to sample (index). Returns the index of these genes and the fit.
        """
        signature = self.signature() if signature is None else signature
        signature = signature / signature.sum(dim=0)
        genes = self._markers(signature, present & (self.gene_score > 0))
        if platform is not None:
            known = torch.where(platform[1, genes] > 0, platform[:, genes], torch.nan)
            options |= {"gene_factor": known[0], "gene_weight": known[1]}
        solver = partial(robust_variable, variable=variable) if variable else robust
        return genes, solver(bulk[:, genes], signature[genes], depth=depth, anchor=anchor, **options)

    def _markers(self, signature: Tensor, allowed: Tensor) -> Tensor:
        """Markers of the signature; the last answer is kept for the next call with the same."""
        found = getattr(self, "_last_markers", None)
        if found is None or not (_same(found[0], signature) and _same(found[1], allowed)):
            found = signature.clone(), allowed, marker_genes(signature, allowed)
            object.__setattr__(self, "_last_markers", found)  # no part of the model: not saved, not moved
        return found[2]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and torch.equal(a, b)


def _close(x: Tensor, dim: int = -1) -> Tensor:
    return x / x.sum(dim=dim, keepdim=True).clamp(min=1e-30)


def kl_to_standard(qz: Normal) -> Tensor:
    """KL(q(z|x) || N(0, I)) per cell."""
    return kl_divergence(qz, Normal(torch.zeros_like(qz.loc), torch.ones_like(qz.scale))).sum(dim=-1)


def _kl(truth: Tensor, logits: Tensor) -> Tensor:
    """KL(truth || softmax(logits)), mean over samples."""
    return cross_entropy(logits, truth) - torch.special.entr(truth).sum(dim=1).mean()


def monitor(truth: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """RMSE of the fractions and the skill against predicting the batch's mean for every sample."""
    rmse = (softmax(logits, dim=1) - truth).square().mean().sqrt()
    constant = (truth - truth.mean(dim=0)).square().mean().sqrt()
    return {"rmse": rmse, "rmse_skill": 1 - rmse / constant.clamp(min=1e-12)}
