"""Registration of cells, and cells of other objects: checked, and their genes aligned by name."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)

from ...io._gene_names import refuse_duplicates
from ...io._modalities import one_modality
from ...io._rows import use_sparse_matrix
from ...reference._checks import check_cells
from .._base import BaseModel


class AnyScale(LayerField):
    """Counts, or values on a log scale, of which setup and new cells warn."""

    takes_logs = True


class CellModel(BaseModel):
    """Base of a model of cells without required labels; it takes other cells with the model's genes in any order."""

    _aligned: AnnData | None = None

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        modality: str | None = None,
        **kwargs,
    ) -> None:
        """Register the cells. Checks everything first; on an error `adata` is unchanged.

        Parameters
        ----------
        adata
            Cells x genes with raw counts and unique gene names.
        layer
            Layer with the counts; `adata.X` when None or ``"X"``.
        batch_key
            Column of `adata.obs` with batches, which the decoder is told.
        labels_key
            Column with cell types, which only :meth:`get_metrics` uses.
        size_factor_key
            Column with the library of each cell, above zero; the sum of its counts when None.
        categorical_covariate_keys, continuous_covariate_keys
            Columns with covariates, which the decoder is told.
        modality
            Of a MuData: the modality to use. ``model.adata`` is this AnnData; columns that it lacks are taken from
            ``mdata.obs``, into its obs. The model is then made, and loaded, with the MuData or with the modality.
        **kwargs
            `source_registry`, when :meth:`load` repeats a setup.

        Raises
        ------
        KeyError
            A column or layer is absent.
        ValueError
            A cell lacks a value in one of the columns, or has no counts; values are negative or not finite; a number
            is expected and not found; genes are duplicated; `adata` is a view or empty.

        Warns
        -----
        UserWarning
            Counts are not integers.

        Examples
        --------
        >>> import hpvade as hp
        >>> hp.IVAE.setup_anndata(hp.datasets.pbmc_reference(), labels_key="cell_type")
        """
        layer = None if layer == "X" else layer
        categorical, continuous = list(categorical_covariate_keys or []), list(continuous_covariate_keys or [])
        setup_method_args = cls._get_setup_method_args(**locals())
        columns = {"batch_key": batch_key, "labels_key": labels_key, "size_factor_key": size_factor_key}
        columns |= {f"categorical_covariate_keys[{i}]": key for i, key in enumerate(categorical)}
        columns |= {f"continuous_covariate_keys[{i}]": key for i, key in enumerate(continuous)}
        with one_modality(adata, modality, columns.values()) as adata:
            check_cells(adata, layer=layer, columns=columns, logged="warning")
            for key in continuous + [size_factor_key] * (size_factor_key is not None):
                _check_numbers(adata.obs[key], key, positive=key == size_factor_key)
            use_sparse_matrix(adata, layer)
            fields = [
                AnyScale(REGISTRY_KEYS.X_KEY, layer, is_count_data=True),
                CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
                NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
                CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical),
                NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous),
            ]
            cls._register(adata, fields, setup_method_args, **kwargs)

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Also check new cells, and put their genes into the model's order, in a copy."""
        if isinstance(adata, AnnData) and adata is not self.adata and adata is not self._aligned:
            given, adata = adata, self._align(adata)
            arguments = self.registry["setup_args"]
            columns = {name: arguments[name] for name in ("batch_key", "size_factor_key")}
            own = adata.copy() if adata.is_view else adata
            check_cells(own, layer=arguments["layer"], columns=columns, logged="warning")
            if adata is not given and self.adata is not None:
                self._keep_one(adata)
        return super()._validate_anndata(adata, copy_if_view)

    def _align(self, adata: AnnData) -> AnnData:
        """Return a copy with the model's genes; `adata` itself where it has them, or lacks some (the base refuses)."""
        genes = np.asarray(self.get_var_names())
        names, layer = adata.var_names.astype(str), self.registry["setup_args"]["layer"]
        X = adata.X if layer is None else adata.layers.get(layer)
        same = np.array_equal(names, genes) and not isinstance(X, sparse.sparray)  # scvi-tools reads matrices only
        if same or not np.isin(genes, names).all():
            return adata
        refuse_duplicates(names, "adata")
        part = adata[:, genes]
        part = part.to_memory() if adata.isbacked else part.copy()
        part.uns.clear()  # what scvi-tools keeps there belongs to the original
        use_sparse_matrix(part, layer)
        return part

    def _keep_one(self, copy: AnnData) -> None:
        """Register a copy in the place of the one before; scvi-tools would keep them all in memory."""
        if self._aligned is not None:
            self.deregister_manager(self._aligned)
        self._aligned = copy
        self.register_manager(self.adata_manager.transfer_fields(copy))


def _check_numbers(values: pd.Series, key: str, *, positive: bool) -> None:
    expected = "finite numbers above 0" if positive else "finite numbers"
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise ValueError(f"adata.obs[{key!r}] holds {values.dtype} values; expected {expected}.")
    bad = ~np.isfinite(values.to_numpy(dtype=float)) | ((values <= 0).to_numpy() if positive else False)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(
            f"adata.obs[{key!r}] is {values.iloc[at]} for cell {str(values.index[at])!r}, and wrong for {bad.sum()} "
            f"cells; expected {expected}."
        )
