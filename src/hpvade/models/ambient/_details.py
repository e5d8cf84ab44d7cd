"""Where the loss of a trained model comes from, and counts and sizes of one modality."""

import numpy as np
import pandas as pd
import torch
from torch.distributions import Normal, kl_divergence

from ..._text import whole_number
from ._fixed_draws import fixed_draws


class DetailMethods:
    """Parts of the loss, for both regularised models."""

    @torch.inference_mode()
    def get_per_dim_kl(self, adata=None, indices=None, *, batch_size: int | None = None) -> pd.Series:
        """Divergence of each latent axis from the prior, in nats, mean over cells; near zero where it carries nothing.

        Parameters
        ----------
        adata, indices
            Cells; those of the model, and all, when None.
        batch_size
            Cells per pass.

        Returns
        -------
        (latent,); with several modalities an axis is named by the one it belongs to.
        """
        adata = self._validate_anndata(adata)
        total, n = 0.0, 0
        for inferred, _ in self._posterior_means(adata, self._positions(adata, indices)[0], batch_size):
            kl = kl_divergence(inferred["qz"], Normal(0.0, 1.0)).double()
            total, n = total + kl.sum(dim=0).cpu().numpy(), n + len(kl)
        blocks = self.module.latent_blocks() if len(self.module.modality_names) > 1 else {}
        names = np.array([f"latent_{i}" for i in range(len(total))], dtype=object)
        for name, block in blocks.items() if len(blocks) > 1 else ():
            names[block] = [f"{name}_{i}" for i in range(block.stop - block.start)]
        return pd.Series(total / n, index=names, name="kl")

    @torch.inference_mode()
    def get_per_feature_reconstruction_loss(
        self, adata=None, indices=None, *, modality: str | None = None, batch_size: int | None = None
    ) -> pd.Series:
        """Minus the log-likelihood of each feature's counts at posterior means, in nats, mean over cells (features,).

        Cells that lack the modality are left out.

        Parameters
        ----------
        adata, indices
            Cells; those of the model, and all, when None.
        modality
            In the multimodal model, which one.
        batch_size
            Cells per pass.
        """
        name = self._modality(modality)
        adata = self._validate_anndata(adata)
        total, n = 0.0, 0
        for inferred, generated, tensors in self._with_counts(adata, indices, batch_size):
            present = inferred["present"][name]
            loss = -self.module.unpack(generated["px"])[name].log_prob(self.module.counts(tensors)[name]).double()
            total, n = total + loss[present].sum(dim=0).cpu().numpy(), n + int(present.sum())
        return pd.Series(total / max(n, 1), index=self._features(name), name="reconstruction_loss")

    def _with_counts(self, adata, indices, batch_size):
        """Outputs of inference and of generation at posterior means, with the minibatches they belong to."""
        order = self._positions(adata, indices)[0]
        outputs = self._posterior_means(adata, order, batch_size)
        for (inferred, generated), tensors in zip(
            outputs, self._make_data_loader(adata, order, batch_size), strict=True
        ):
            yield inferred, generated, {key: value.to(self.module.device) for key, value in tensors.items()}


class ModalityCounts:
    """What scvi-tools tells of the counts of one kind, for each modality of the multimodal model."""

    @torch.inference_mode()
    def posterior_predictive_sample(
        self,
        mdata=None,
        indices=None,
        *,
        modality: str | None = None,
        n_samples: int = 1,
        batch_size: int | None = None,
    ):
        """Counts drawn from the posterior predictive, ambient part included; the same at every call.

        Returns
        -------
        (cells x features), with `n_samples` above one (cells x features x samples); a dict of all modalities when
        `modality` is None.
        """
        whole_number("n_samples", n_samples)
        mdata = self._validate_anndata(mdata)
        order, back = self._positions(mdata, indices)
        names, rows = self._wanted(modality), []
        with fixed_draws():
            for tensors in self._make_data_loader(mdata, order, batch_size):
                drawn = self.module.sample(tensors, n_samples)
                rows.append({name: drawn[name].numpy() for name in names})
        found = {name: np.concatenate([part[name] for part in rows])[back] for name in names}
        return found if modality is None else found[modality]

    @torch.inference_mode()
    def get_likelihood_parameters(
        self, mdata=None, indices=None, *, modality: str | None = None, batch_size: int | None = None
    ) -> dict:
        """Mean and inverse dispersion of the counts (cells x features) at posterior means, ambient part included.

        Returns
        -------
        ``{"mean": ..., "dispersions": ...}``; a dict of these by modality when `modality` is None.
        """
        mdata = self._validate_anndata(mdata)
        order, back = self._positions(mdata, indices)
        names = self._wanted(modality)
        rows = {name: {"mean": [], "dispersions": []} for name in names}
        for _, generated in self._posterior_means(mdata, order, batch_size):
            for name in names:
                px = self.module.unpack(generated["px"])[name]
                for key, value in (("mean", px.mu), ("dispersions", px.theta)):
                    rows[name][key].append(value.expand_as(px.mu).cpu().numpy())
        found = {
            name: {key: np.concatenate(parts)[back] for key, parts in values.items()} for name, values in rows.items()
        }
        return found if modality is None else found[modality]

    def get_latent_library_size(
        self, mdata=None, indices=None, *, modality: str | None = None, batch_size: int | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Library sizes (cells x 1), those of :meth:`get_library_size`; a dict of all modalities when None."""
        found = {
            name: self.get_library_size(mdata, indices, modality=name, batch_size=batch_size).to_numpy()[:, None]
            for name in self._wanted(modality)
        }
        return found if modality is None else found[modality]

    def _wanted(self, modality: str | None) -> list[str]:
        return self.module.modality_names if modality is None else [self._modality(modality)]
