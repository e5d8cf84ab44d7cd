"""Denoised expression of the reference's cells, with the arguments of scvi-tools."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ..._text import listed
from ...io._positions import cell_positions


class CellExpressionMethods:
    """`HPVADE`'s expression of cells; needs ``module``, ``_validate_anndata`` and ``_batch_code``."""

    @torch.inference_mode()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: np.ndarray | None = None,
        *,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1.0,
        n_samples: int = 1,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        silent: bool = True,
    ) -> pd.DataFrame | np.ndarray:
        """Denoised expression of cells (cells x genes that the networks see).

        Parameters
        ----------
        adata
            Cells with the genes of the reference; the reference when None.
        indices
            Cells; all when None.
        transform_batch
            Decode as if all cells came from this batch; the mean over several.
        gene_list
            Genes to return, in this order; all that the networks see when None.
        library_size
            What a row sums to over all genes of the networks; ``"latent"``: the cell's own counts on these.
        n_samples
            One: decoded from the posterior mean. More: from that many draws of the posterior, the same at every call.
        batch_size
            Cells per pass.
        return_mean, return_numpy
            Average the draws; return an array, as it always is when draws are not averaged.
        silent
            In scvi-tools' signature only.

        Returns
        -------
        Cells x genes; an array draws x cells x genes with ``n_samples`` above one and ``return_mean=False``.

        Raises
        ------
        NotImplementedError
            With ``preset="spec"``, whose decoder has no scale.
        ValueError
            `transform_batch` or a gene is unknown; `n_samples` is below one.
        """
        if self.preset == "spec":
            raise NotImplementedError(
                "the literal decoder is unbounded. Use preset='default', or hpvade.HP_VADE.decode."
            )
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples!r}; expected at least 1.")
        self._check_if_trained(warn=False)
        genes, columns = self._network_genes(gene_list)
        adata = self._validate_anndata(adata)
        indices = cell_positions(adata.n_obs, indices)
        order, position = np.unique(indices, return_inverse=True)  # backed data come in this order, whatever is asked
        named = [transform_batch] if transform_batch is None or isinstance(transform_batch, str) else transform_batch
        batches = [None if name is None else self._batch_code(name) for name in named]
        draws = torch.Generator().manual_seed(0)
        rows = []
        for tensors in self._make_data_loader(adata, order, batch_size):
            found = self.module.inference(**self.module._get_inference_input(tensors))
            size = found["library"] if library_size == "latent" else library_size
            mean, sd = found["qz"].loc, found["qz"].scale
            latent = [mean]
            if n_samples > 1:
                latent = [mean + sd * torch.randn(mean.shape, generator=draws).to(sd) for _ in range(n_samples)]
            decoded = [self._decoded(tensors, found | {"z": z}, batches, columns) * size for z in latent]
            if return_mean:
                decoded = [torch.stack(decoded).mean(dim=0)]
            rows.append(torch.stack(decoded).cpu().numpy())
        values = np.concatenate(rows, axis=1)[:, position]
        if n_samples > 1 and not return_mean:
            return values
        return values[0] if return_numpy else pd.DataFrame(values[0], index=adata.obs_names[indices], columns=genes)

    def _decoded(self, tensors: dict, outputs: dict, batches: list, columns: np.ndarray) -> torch.Tensor:
        """Shares of expression (cells x genes), the mean over batches."""
        shares = []
        for batch in batches:
            inputs = self.module._get_generative_input(tensors, outputs, transform_batch=batch)
            shares.append(self.module.generative(**inputs)["px"].get_normalized("scale")[:, columns])
        return torch.stack(shares).mean(dim=0)

    def _network_genes(self, gene_list: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """Names of genes that the networks see, and their columns."""
        known = pd.Index(np.asarray(self.get_var_names())[self.module.gene_index.cpu().numpy()])
        if gene_list is None:
            return known.to_numpy(), np.arange(len(known))
        asked = pd.Index(gene_list)
        columns = known.get_indexer(asked)
        if (columns < 0).any():
            raise ValueError(
                f"gene_list names {listed(list(asked[columns < 0]), 3)}, which are none of the {len(known)} genes that "
                "the networks see. Train with a larger n_genes; get_signature_matrix() has all genes."
            )
        return asked.to_numpy(), columns
