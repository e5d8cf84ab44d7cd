"""`HP_VADE`: the literal face of HP-VADE, a LightningModule for users with their own data loaders."""

from typing import Literal

import lightning.pytorch as lp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...nn import Decoder, DeconvolutionNetwork, Encoder

CHOICES = {
    "prop_loss": ("kl", "mse"),
    "recon_loss": ("mse", "bce"),
    "prop_log": ("probs", "logits"),
    "input_norm": (None, "zscore"),
    "signature": ("free", "positive"),
    "on_nonfinite": ("raise", "ignore"),
}
CURE = (
    "Check the batch for NaN or infinite values; on counts or CPM use input_norm='zscore' and prop_log='logits', "
    "or lower learning_rate."
)


class HP_VADE(lp.LightningModule):
    r"""A variational autoencoder of cells and a proportion predictor of bulk, tied by a signature matrix `S`.

    The default arguments give exactly the computation of spec 3.1. A batch is a dict of `sc_data` (B, G),
    `sc_label` (B,) long, `bulk_data` (B', G) and `bulk_prop` (B', K) whose rows sum to one; any linear or logged
    scale is accepted and used as given. With :math:`\hat x = dec(z)`, :math:`p = f(b)` and `y` the labels:

    .. math::
        \begin{aligned}
        L ={} & \overline{(\hat x - x)^2} + \lambda_{kl} KL(q(z|x) \| N(0, I))
              + \lambda_{proto} \overline{(\hat x - S_y)^2} \\
              & + \lambda_{bulk} [KL(p_{true} \| p) + \lambda_{bulk\_recon} \overline{(S p - b)^2}]
        \end{aligned}

    Logged keys: `train_loss`, `sc/loss_recon`, `sc/loss_kl`, `sc/loss_proto`, `bulk/loss_prop`, `bulk/loss_recon`; in
    validation `val_loss` and the five parts with the prefix `val_`.

    Parameters
    ----------
    input_dim
        Number of genes G.
    latent_dim
        Latent size D.
    n_cell_types
        Number of cell types K.
    n_hidden
        Hidden units of each network.
    lambda_proto, lambda_bulk_recon, lambda_bulk, lambda_kl
        Weights of the loss, see above.
    learning_rate
        Of Adam.
    prop_loss
        `"kl"`, or `"mse"`: the mean squared error of the proportions.
    recon_loss
        `"mse"`, or `"bce"`: binary cross-entropy for cells in [0, 1]; the reconstruction is then the sigmoid of the
        decoder, also in the prototype term. The bulk reconstruction stays a mean squared error.
    prop_log
        `"probs"` takes the log of the softmax, which is -inf where the softmax underflows; `"logits"` uses
        `log_softmax`, equal elsewhere and always finite for finite logits.
    input_norm
        `"zscore"` standardises what the encoder and the deconvolution network see, with the statistics stored by
        :meth:`fit_normalization`. Outputs, `S` and every loss term stay on the scale of the data as given.
    signature
        `"free"`, or `"positive"`: the signature matrix is the softplus of the parameter `S`.
    on_nonfinite
        `"raise"` stops on a non-finite loss before the weights change, and refuses to save non-finite weights;
        `"ignore"` does neither. Finite results are the same.

    Raises
    ------
    ValueError
        An option is not one of its choices.

    Examples
    --------
    >>> import torch
    >>> model = HP_VADE(input_dim=50, latent_dim=8, n_cell_types=3)
    >>> batch = {"sc_data": torch.rand(6, 50), "sc_label": torch.tensor([0, 1, 2, 0, 1, 2])}
    >>> batch |= {"bulk_data": torch.rand(4, 50), "bulk_prop": torch.full((4, 3), 1 / 3)}
    >>> sorted(model.losses(batch))
    ['bulk/loss_prop', 'bulk/loss_recon', 'sc/loss_kl', 'sc/loss_proto', 'sc/loss_recon', 'total']
    >>> model.deconvolve(batch["bulk_data"]).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        n_cell_types: int,
        n_hidden: int = 128,
        lambda_proto: float = 1.0,
        lambda_bulk_recon: float = 0.5,
        lambda_bulk: float = 1.0,
        lambda_kl: float = 0.1,
        learning_rate: float = 1e-3,
        *,
        prop_loss: Literal["kl", "mse"] = "kl",
        recon_loss: Literal["mse", "bce"] = "mse",
        prop_log: Literal["probs", "logits"] = "probs",
        input_norm: Literal["zscore"] | None = None,
        signature: Literal["free", "positive"] = "free",
        on_nonfinite: Literal["raise", "ignore"] = "raise",
    ):
        super().__init__()
        self.save_hyperparameters()
        for option, choices in CHOICES.items():
            if self.hparams[option] not in choices:
                raise ValueError(f"{option}={self.hparams[option]!r} is unknown; choose one of {choices}.")
        self.encoder = Encoder(input_dim, latent_dim, n_hidden)
        self.decoder = Decoder(latent_dim, input_dim, n_hidden)
        self.deconv_net = DeconvolutionNetwork(input_dim, n_cell_types, n_hidden)
        self.S = nn.Parameter(torch.empty(input_dim, n_cell_types))
        nn.init.xavier_uniform_(self.S)
        if input_norm is not None:
            for name in ("bulk_mean", "bulk_std", "cell_mean", "cell_std"):
                self.register_buffer(name, torch.full((input_dim,), torch.nan))  # NaN: not fitted yet

    def fit_normalization(self, sc_data: torch.Tensor, bulk_data: torch.Tensor) -> None:
        """Store the mean and standard deviation of each gene over training cells (N, G) and training bulk (M, G).

        A gene that does not vary is only centred.

        Raises
        ------
        ValueError
            `input_norm` is None, the number of genes differs from `input_dim`, or a value is not finite.
        """
        if self.hparams.input_norm is None:
            raise ValueError("input_norm=None keeps no statistics; construct HP_VADE(..., input_norm='zscore').")
        moments = {"cell": self._moments(sc_data, "sc_data"), "bulk": self._moments(bulk_data, "bulk_data")}
        for kind, (mean, std) in moments.items():
            getattr(self, f"{kind}_mean").copy_(mean)
            getattr(self, f"{kind}_std").copy_(std)

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Return `mu` in eval mode, else one draw from N(mu, exp(logvar)); all (B, D)."""
        if not self.training:
            return mu
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, bulk_data: torch.Tensor) -> torch.Tensor:
        """Return the proportions (B', K) of bulk samples (B', G)."""
        return self.deconv_net(self._standardise(bulk_data, "bulk"))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and log-variance, each (B, D), of the latent posterior of cells (B, G)."""
        return self.encoder(self._standardise(x, "cell"))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Return the reconstructed cells (B, G), on the scale of `sc_data`, of latent vectors (B, D)."""
        return self._on_data_scale(self.decoder(z))

    @torch.no_grad()
    def deconvolve(self, bulk: torch.Tensor) -> torch.Tensor:
        """Return the proportions (B', K) of bulk samples (B', G), without gradients."""
        return self(bulk)

    def get_signature_matrix(self) -> np.ndarray:
        """Return the learned signatures (G, K), on the scale of the training data."""
        return self.signature().detach().cpu().numpy().copy()

    def losses(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the five unweighted loss terms and their weighted `total`, all scalars.

        Needs no Trainer. In train mode the latent variables are sampled, in eval mode they are the posterior means.

        Raises
        ------
        TypeError
            `sc_label` is not of dtype long.
        ValueError
            `recon_loss="bce"` and `sc_data` leaves [0, 1].
        RuntimeError
            `input_norm` is set and :meth:`fit_normalization` was not called.
        """
        mu, logvar = self.encode(batch["sc_data"])
        out = self.decoder(self.reparameterize(mu, logvar))
        terms = self.cell_terms(batch["sc_data"], batch["sc_label"], mu, logvar, out)
        terms |= self.bulk_terms(batch["bulk_data"], batch["bulk_prop"])
        return terms | {"total": self.weigh_cells(terms) + self.weigh_bulk(terms)}

    def cell_terms(
        self, x: torch.Tensor, y: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor, out: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the three terms of cells `x` (B, G) with labels `y` (B,), their posterior and the decoder's output."""
        if y.dtype != torch.long:
            raise TypeError(f"batch['sc_label'] has dtype {y.dtype}; expected torch.int64: call .long() on the labels.")
        bce = self.hparams.recon_loss == "bce"
        if bce and ((x < 0) | (x > 1)).any():
            raise ValueError(
                f"recon_loss='bce' needs batch['sc_data'] in [0, 1], found {x.min():g} to {x.max():g}; "
                "rescale the cells or use recon_loss='mse'."
            )
        x_hat = self._on_data_scale(out)
        return {
            "sc/loss_recon": F.binary_cross_entropy_with_logits(out, x) if bce else F.mse_loss(x_hat, x),
            "sc/loss_kl": (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1)).mean(),
            # index_select refuses a label of -1 (a missing category), which S.T[y] would read as the last type
            "sc/loss_proto": F.mse_loss(x_hat, self.signature().T.index_select(0, y)),
        }

    def bulk_terms(self, bulk: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the two terms of bulk samples (B', G) with true proportions (B', K)."""
        p, prop = self._proportion_loss(bulk, truth)
        return {"bulk/loss_prop": prop, "bulk/loss_recon": F.mse_loss(p @ self.signature().T, bulk)}

    def weigh_cells(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of the cell terms."""
        h = self.hparams
        return terms["sc/loss_recon"] + h.lambda_kl * terms["sc/loss_kl"] + h.lambda_proto * terms["sc/loss_proto"]

    def weigh_bulk(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of the bulk terms."""
        h = self.hparams
        return h.lambda_bulk * (terms["bulk/loss_prop"] + h.lambda_bulk_recon * terms["bulk/loss_recon"])

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Log the terms and return the total loss; see :meth:`losses` and `on_nonfinite` for the errors."""
        losses = self._finite_losses(batch)
        total = losses.pop("total")
        self.log("train_loss", total, prog_bar=True, batch_size=len(batch["sc_data"]))
        self.log_dict(losses, batch_size=len(batch["sc_data"]))
        return total

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Log the terms with the prefix `val_` and return the total loss."""
        losses = self._finite_losses(batch)
        total = losses.pop("total")
        logged = {"val_loss": total} | {f"val_{name}": value for name, value in losses.items()}
        self.log_dict(logged, batch_size=len(batch["sc_data"]), sync_dist=True)
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters, `S` among them."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Refuse a checkpoint of non-finite weights: a finite loss can still have a non-finite gradient."""
        if self.hparams.on_nonfinite == "raise":
            for name, parameter in self.named_parameters():
                if not parameter.isfinite().all():
                    at = f"Parameter {name!r} is not finite at step {self.global_step}"
                    raise RuntimeError(f"{at}; this checkpoint was not written. {CURE}")

    def signature(self) -> torch.Tensor:
        """Return the signature matrix (G, K) as the losses see it, with gradient."""
        return F.softplus(self.S) if self.hparams.signature == "positive" else self.S

    def _moments(self, x: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and standard deviation (G,) of `x`, with 1 for a gene that does not vary."""
        if x.ndim != 2 or x.shape[1] != self.hparams.input_dim or len(x) == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected (rows, {self.hparams.input_dim} genes).")
        if not x.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinite values; remove them before fit_normalization.")
        std, mean = torch.std_mean(x.double(), dim=0, correction=0)
        return mean, torch.where(std > 0, std, 1.0)

    def _on_data_scale(self, out: torch.Tensor) -> torch.Tensor:
        return out.sigmoid() if self.hparams.recon_loss == "bce" else out

    def _standardise(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        if self.hparams.input_norm is None:
            return x
        mean, std = getattr(self, f"{kind}_mean"), getattr(self, f"{kind}_std")
        if mean.isnan().any():
            raise RuntimeError("input_norm='zscore' has no statistics yet; call fit_normalization(sc_data, bulk_data).")
        return (x - mean) / std

    def _proportion_loss(self, bulk: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the predicted proportions (B', K) and their loss."""
        if self.hparams.prop_log == "logits":
            logits = self.deconv_net.logits(self._standardise(bulk, "bulk"))
            p, log_p = F.softmax(logits, dim=1), F.log_softmax(logits, dim=1)
        else:
            p = self(bulk)
            log_p = p.log()
        if self.hparams.prop_loss == "mse":
            return p, F.mse_loss(p, truth)
        return p, F.kl_div(log_p, truth, reduction="batchmean")

    def _finite_losses(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `losses(batch)`; with `on_nonfinite="raise"`, name the first term that is not finite."""
        losses = self.losses(batch)
        # the total is not finite when any part is not (even at weight 0): one check, one wait for the device
        if self.hparams.on_nonfinite == "raise" and not losses["total"].isfinite():
            name, value = next((name, value) for name, value in losses.items() if not value.isfinite())
            at = f"Loss term {name!r} is {value.item()} at step {self.global_step}"
            raise RuntimeError(f"{at}; the weights were not changed. {CURE}")
        return losses
