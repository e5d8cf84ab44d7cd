"""Denoised expression: scvi-tools' methods for RNA, from posterior means and through the bottleneck."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.model.base import RNASeqMixin

from .._differential import DifferentialExpression
from .._vae import file_order


class ExpressionMethods(DifferentialExpression, RNASeqMixin):
    """Methods of `IVAE` that decode.

    The model offers `_require_bottleneck(method)`, and its module `decoding(from_bottleneck=, sample=)`.
    """

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: Literal["uniform"] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        *,
        from_bottleneck: bool = False,
        **kwargs,
    ) -> pd.DataFrame | np.ndarray:
        """Denoised expression (cells x genes): proportions times `library_size`.

        Parameters
        ----------
        adata, indices, batch_size
            See :meth:`get_latent_representation`.
        transform_batch
            Decode as if all cells came from this batch; the mean over several.
        gene_list
            Genes to return; all when None.
        library_size
            What a row over all genes sums to; ``"latent"``: the cell's own library.
        n_samples
            1 decodes the posterior mean; more, that many samples of the posterior, and averages.
        n_samples_overall
            Samples of the posterior over all cells, for scvi-tools' differential expression.
        weights
            As in scvi-tools, but for importance weights.
        return_mean
            False keeps the samples apart, (samples x cells x genes).
        return_numpy
            Return an array.
        from_bottleneck
            Decode what the bottleneck keeps of the latent vector.
        **kwargs
            As in scvi-tools.

        Raises
        ------
        RuntimeError
            The model is not trained, or `irecon` is 0 and `from_bottleneck` True.
        ValueError
            A batch or gene is unknown; genes of the model are absent.
        """
        self._check_if_trained(warn=False)
        if from_bottleneck:
            self._require_bottleneck("get_normalized_expression(from_bottleneck=True)")
        if gene_list is not None and (unknown := sorted(set(gene_list) - set(self.get_var_names()))):
            raise ValueError(f"gene_list names {unknown[:3]}, which are not genes of the model.")
        cells, position = file_order(self.adata if adata is None else adata, indices)
        with self.module.decoding(from_bottleneck=from_bottleneck, sample=n_samples_overall is not None):
            found = super().get_normalized_expression(
                adata,
                cells,
                transform_batch,
                gene_list,
                library_size,
                n_samples,
                n_samples_overall,
                weights,
                batch_size,
                return_mean,
                return_numpy,
                **kwargs,
            )
        if isinstance(position, slice) or n_samples_overall is not None:
            return found
        return found.iloc[position] if isinstance(found, pd.DataFrame) else found[..., position, :]

    def get_latent_library_size(self, *args, **kwargs):
        """Refused: the library of a cell is observed, not latent."""
        raise NotImplementedError(
            "IVAE has no latent library size: the library is the sum of the cell's counts, or the column given as "
            "`size_factor_key`. Use `get_normalized_expression(library_size='latent')` for expression on its scale."
        )
