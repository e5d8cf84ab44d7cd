"""The literal HP-VADE as a scvi-tools module, ``preset="spec"``."""

import torch
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal

from ...nn._blocks import dead_unit_share
from ...nn._normalize import log1p_cp10k
from ._module import HP_VADE
from ._scvi_module import DeconvolutionModule, kl_to_standard, monitor


class LiteralModule(DeconvolutionModule):
    """The specification as written: `HP_VADE` on log1p cp10k of the model's genes.

    Parameters
    ----------
    n_vars, n_genes, n_types, n_batch, n_studies
        See `DeconvolutionModule`.
    n_hidden, n_latent, lambda_kl, lambda_proto, lambda_bulk, lambda_bulk_recon
        Arguments of `HP_VADE`.
    """

    def __init__(
        self,
        n_vars: int,
        n_genes: int,
        n_types: int,
        n_batch: int = 1,
        n_studies: int = 1,
        *,
        n_latent: int,
        **options,
    ):
        super().__init__(n_vars, n_genes, n_types, n_batch, n_studies)
        self.literal = HP_VADE(n_genes, n_latent, n_types, **options)

    def initialise(self, cells: Tensor, bulk: Tensor) -> None:
        """Nothing to start from: the literal signature starts from Xavier noise."""

    def signature(self) -> Tensor:
        """S (all genes x types) in log1p cp10k units; NaN for genes that the model does not use."""
        full = torch.full_like(self.mean_counts, torch.nan)
        full[self.gene_index] = self.literal.signature().detach()
        return full

    @auto_move_data
    def inference(self, x: Tensor, n_samples: int = 1) -> dict[str, Tensor | Normal]:
        """Posterior of the latent representation."""
        x = x[:, self.gene_index]
        mean, log_variance = self.literal.encode(log1p_cp10k(x))
        qz = Normal(mean, torch.exp(0.5 * log_variance))
        z = qz.sample((n_samples,)) if n_samples > 1 else self.literal.reparameterize(mean, log_variance)
        return {"qz": qz, "z": z, "library": x.sum(dim=1, keepdim=True)}

    @auto_move_data
    def generative(self, z: Tensor, library: Tensor, batch_index: Tensor) -> dict[str, Normal]:
        """Reconstruction in log1p cp10k."""
        return {"px": Normal(self.literal.decode(z), 1.0)}

    def loss(self, tensors, inference_outputs, generative_outputs, **kwargs) -> LossOutput:
        """Loss of the cell stream; `reconstruction_loss` is the squared error per cell, summed over genes.

        Scvi-tools' KL weight in `kwargs` has no effect: the literal loss has no warm-up.
        """
        x = log1p_cp10k(tensors["X"][:, self.gene_index])
        qz, x_hat = inference_outputs["qz"], generative_outputs["px"].loc
        terms = self.literal.cell_terms(x, tensors["labels"].long().flatten(), qz.loc, 2 * qz.scale.log(), x_hat)
        return LossOutput(
            loss=self.literal.weigh_cells(terms),
            reconstruction_loss=(x_hat - x).square().sum(dim=-1),
            kl_local=kl_to_standard(qz),
            extra_metrics={"proto": terms["sc/loss_proto"]},
        )

    def bulk_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the bulk stream, its parts and monitored values."""
        bulk = log1p_cp10k(batch["bulk"])
        terms = self.literal.bulk_terms(bulk, batch["proportions"])
        monitored = monitor(batch["proportions"], self.literal.deconv_net.logits(bulk).detach())
        if not self.training:
            monitored["dead_units"] = torch.tensor(dead_unit_share(self.literal.deconv_net.mlp, bulk))
        parts = {"prop": terms["bulk/loss_prop"], "bulk_recon": terms["bulk/loss_recon"]}
        return self.literal.weigh_bulk(terms), parts | monitored

    def shared_terms(self, cells: LossOutput, bulk: dict[str, Tensor]) -> tuple[nn.Parameter, dict[str, Tensor]]:
        """The parameter that both streams train, and the weighted terms that reach it."""
        weights = self.literal.hparams
        return self.literal.S, {
            "proto": weights["lambda_proto"] * cells.extra_metrics["proto"],
            "bulk_recon": weights["lambda_bulk"] * weights["lambda_bulk_recon"] * bulk["bulk_recon"],
        }

    @torch.inference_mode()
    def predict(self, bulk: Tensor, present: Tensor) -> Tensor:
        """Fractions of cells by the network; see `HPVADEModule.predict`. Genes that the bulk lacks enter as zero."""
        return self.literal(log1p_cp10k(bulk[:, self.gene_index]))
