"""What scvi-tools offers for autoencoders of cells, as far as it works."""

import numpy as np
from anndata import AnnData
from scvi.model.base import VAEMixin

from ..io._positions import cell_positions


class VAEMethods(VAEMixin):
    """scvi's VAE methods on cells, without those that give wrong numbers in the oldest version supported."""

    def get_latent_representation(self, adata: AnnData | None = None, indices=None, **kwargs):
        """Latent representation of cells (cells x latent), see scvi-tools; rows in the order of `indices`, always."""
        cells, position = file_order(self.adata if adata is None else adata, indices)
        found = super().get_latent_representation(adata, cells, **kwargs)
        return tuple(part[position] for part in found) if isinstance(found, tuple) else found[position]

    def get_elbo(self, adata: AnnData | None = None, indices=None, *args, **kwargs):
        """Lower bound of the log-likelihood, see scvi-tools; cells in the order of `indices`, always."""
        cells, position = file_order(self.adata if adata is None else adata, indices)
        found = super().get_elbo(adata, cells, *args, **kwargs)
        return found[position] if found.ndim else found

    def get_reconstruction_error(self, adata: AnnData | None = None, indices=None, *args, **kwargs):
        """Minus the log-likelihood of the counts, see scvi-tools; cells in the order of `indices`, always."""
        cells, position = file_order(self.adata if adata is None else adata, indices)
        found = super().get_reconstruction_error(adata, cells, *args, **kwargs)
        return {name: value[position] if value.ndim else value for name, value in found.items()}

    def get_marginal_ll(self, *args, **kwargs):
        """Marginal log-likelihood of the cells, where the module has a ``marginal_ll``."""
        if not hasattr(self.module, "marginal_ll"):
            raise NotImplementedError(f"{type(self).__name__} has no marginal likelihood. Use `get_elbo()`, its bound.")
        return super().get_marginal_ll(*args, **kwargs)

    def get_aggregated_posterior(self, *args, **kwargs):
        """Refused: scvi-tools 1.4.2 takes the variance for the standard deviation."""
        raise NotImplementedError(
            "the aggregated posterior is wrong in scvi-tools 1.4.2. Use `get_latent_representation(return_dist=True)`, "
            "which gives mean and variance per cell."
        )

    def differential_abundance(self, *args, **kwargs):
        """Refused: it stands on :meth:`get_aggregated_posterior`."""
        raise NotImplementedError(
            "differential abundance is wrong in scvi-tools 1.4.2. Compare proportions between samples, or use "
            "`get_latent_representation()` with a method for neighbourhoods, such as pertpy's Milo."
        )


def file_order(adata: AnnData | None, indices) -> tuple[np.ndarray | list | None, np.ndarray | slice]:
    """Cells to ask scvi for, and where the ones of `indices` are in its answer.

    Scvi reads cells of backed data in the order of the file, whatever the order of `indices`. All other data come in
    the order that is asked for.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> file_order(anndata.AnnData(np.ones((3, 2))), [2, 0])
    ([2, 0], slice(None, None, None))
    """
    if indices is None or adata is None or not adata.isbacked:
        return indices, slice(None)
    return np.unique(cell_positions(adata.n_obs, indices), return_inverse=True)
