"""Registration of cells with their contexts, and the streams of cells that training reads."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from anndata import AnnData
from scvi.data.fields import LayerField

from ..._text import check_adata
from ...io._gene_names import refuse_duplicates
from ...io._modalities import one_modality
from ...io._rows import pick_matrix, use_sparse_matrix
from ...reference._checks import check_counts
from .._base import BaseModel
from ._chunk_files import ChunkDataModule
from ._context_data import Chunk, ContextDataModule
from ._context_field import CONTEXT_KEY, MODES, ContextField, describe


class ContextModel(BaseModel):
    """Base of a model of cells with metadata fields."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        context_keys: Sequence[str],
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        missing: Literal["category", "mask", "error"] = "category",
        modality: str | None = None,
        **kwargs,
    ) -> None:
        """Register cells and their metadata. Checks everything first; on an error `adata` is unchanged.

        Parameters
        ----------
        adata
            Cells x genes with raw counts and unique gene names.
        context_keys
            Columns of `adata.obs`, of text, categories, booleans, whole numbers or tuples. Columns with one category
            are skipped with a warning.
        layer
            Layer with the counts; `adata.X` when None.
        batch_key
            Column with technical batches: one more field, with a head of its own.
        missing
            Cells without a value: ``"category"`` makes them the category ``<missing>``, to which nothing is
            translated; with ``"mask"`` the field's head adds nothing; ``"error"`` refuses them.
        modality
            Of a MuData: the modality to use. ``model.adata`` is this AnnData; columns that it lacks are taken from
            ``mdata.obs``, into its obs. The model is then made, and loaded, with the MuData or with the modality.
        **kwargs
            `source_registry`, when :meth:`load` repeats a setup.

        Raises
        ------
        KeyError
            A column or the layer is absent.
        ValueError
            No field has two categories; a column holds measurements, or values are missing and must not be; with a
            trained model, a value is unknown; expression is negative, not finite or logged; genes are duplicated;
            `adata` is a view or empty.
        """
        if isinstance(context_keys, str):
            context_keys = [context_keys]
        keys = [str(key) for key in context_keys]
        keys += [str(batch_key)] if batch_key is not None and str(batch_key) not in keys else []
        setup_method_args = cls._get_setup_method_args(**{k: v for k, v in locals().items() if k != "keys"})
        if missing not in MODES:
            raise ValueError(f"missing={missing!r}; expected one of {MODES}.")
        with one_modality(adata, modality, keys) as adata:
            _check_cells(adata, layer)
            field = ContextField(keys, missing)
            if "source_registry" not in kwargs:
                field.validate_field(adata)
                describe(adata.obs, keys, missing)  # its warnings come again from the registration
            use_sparse_matrix(adata, layer)
            cls._register(adata, [LayerField("X", layer, is_count_data=False), field], setup_method_args, **kwargs)

    @property
    def fields(self) -> list[str]:
        """Names of the fields with a head, in the order of every result."""
        return list(self.registry["field_registries"][CONTEXT_KEY]["state_registry"]["fields"])

    @property
    def categories(self) -> dict[str, list]:
        """Categories by field, without ``<missing>``."""
        state = self.registry["field_registries"][CONTEXT_KEY]["state_registry"]
        return dict(zip(state["fields"], map(list, state["categories"]), strict=True))

    def _in_memory(self, split_by: str | None) -> ContextDataModule:
        if self.adata is None:
            raise ValueError("the model has no cells; pass `datamodule`, or use CycleAE.load(dir, adata).")
        if split_by is not None and split_by not in self.adata.obs:
            raise KeyError(f"split_by={split_by!r} is not a column of adata.obs; found {list(self.adata.obs)}.")
        X = self.adata_manager.get_from_registry("X")
        X = X.tocsr() if hasattr(X, "tocsr") and getattr(X, "format", "csr") != "csr" else X
        codes = np.asarray(self.adata_manager.get_from_registry(CONTEXT_KEY)).astype(np.int64)
        groups = None if split_by is None else self.adata.obs[split_by].astype(str).to_numpy()
        return ContextDataModule([Chunk("adata", self.adata.n_obs, lambda: X)], codes, groups=groups)

    def _streamed(self, datamodule: ChunkDataModule, split_by: str | None) -> ChunkDataModule:
        state = self.registry["field_registries"][CONTEXT_KEY]["state_registry"]
        if split_by is not None:
            raise ValueError("split_by is an option of ChunkDataModule; set it there.")
        if datamodule.state != state or not np.array_equal(datamodule.genes, np.asarray(self.get_var_names())):
            raise ValueError(
                "datamodule has other fields, categories or genes than the model; expected those of its registry. Make "
                "the model with CycleAE(registry=datamodule.registry)."
            )
        return datamodule


def _check_cells(adata: AnnData, layer: str | None) -> None:
    """Refuse what is no AnnData, a view, empty, with duplicate genes, or with values that are no counts, as logged."""
    check_adata(adata, "adata")
    if adata.is_view:
        raise ValueError("adata is a view of another AnnData; run `adata = adata.copy()` first.")
    if not (adata.n_obs and adata.n_vars):
        raise ValueError(
            f"adata is empty: {adata.n_obs} cells x {adata.n_vars} genes. Expected cells and genes: see what was "
            "filtered before."
        )
    refuse_duplicates(adata.var_names, "adata")
    X, name = pick_matrix(adata, layer, "adata")
    check_counts(X, name, adata.obs_names, adata.var_names, allow_empty=True)
