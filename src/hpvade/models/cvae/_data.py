"""Registration of cells with their conditions, and cells of other objects: checked, their names turned into ids."""

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField, LayerField, NumericalObsField

from ...io._modalities import one_modality
from .._base import BaseModel
from ._cells import Cells, read_cells
from ._setup import check_setup, use_sparse_matrix
from ._vocabulary import Vocabulary

_SIZE_FACTOR = "size_factor"


class ConditionModel(BaseModel):
    """Base of a model of cells with a cell type, a perturbation and an experiment."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str,
        *,
        perturbation_key: str | None = None,
        experiment_key: str | None = None,
        control_category: str = "control",
        unlabeled_category: str | None = None,
        layer: str | None = None,
        size_factor_key: str | None = None,
        modality: str | None = None,
        **kwargs,
    ) -> None:
        """Register cells. Checks everything first; on an error `adata` is unchanged.

        Parameters
        ----------
        adata
            Cells x genes with raw counts and unique gene names.
        labels_key, perturbation_key, experiment_key
            Columns of `adata.obs` with the cell type, the perturbation and the experiment (donor, batch) of each cell.
            Perturbation and experiment may be None: then all cells have the same, and there is no column to make up.
        control_category
            Name of the control in `perturbation_key`; effects are differences to it.
        unlabeled_category
            Name in `labels_key` of cells whose type is not known.
        layer
            Layer with the counts; `adata.X` when None.
        size_factor_key
            Column of `adata.obs` with size factors, in place of the total counts.
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
            Values are missing; there is one cell type only; counts are negative, not finite, logged, or all zero in a
            cell; size factors are not positive; genes are duplicated; `adata` is a view or empty.

        Examples
        --------
        >>> import hpvade as hp
        >>> adata = hp.datasets.planted_contexts(100, 50, fields={"condition": 2})
        >>> hp.ConditionalVAE.setup_anndata(
        ...     adata, "cell_type", perturbation_key="condition", control_category="condition_0"
        ... )
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        keys = {"labels_key": labels_key, "perturbation_key": perturbation_key, "experiment_key": experiment_key}
        with one_modality(adata, modality, [*keys.values(), size_factor_key]) as adata:
            new = "source_registry" not in kwargs
            check_setup(adata, keys, control_category, unlabeled_category, layer, size_factor_key, new=new)
            use_sparse_matrix(adata, layer)
            fields = [
                LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=True),
                CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
                CategoricalObsField("perturbation", perturbation_key),
                CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, experiment_key),
            ]
            if size_factor_key is not None:
                fields.append(NumericalObsField(_SIZE_FACTOR, size_factor_key))
            cls._register(adata, fields, setup_method_args, **kwargs)

    @property
    def _vocabularies(self) -> dict[str, Vocabulary]:
        """Names by key of the registry: labels, perturbation, batch (experiments)."""
        arguments = self.registry["setup_args"]
        keys = {"labels": "labels_key", "perturbation": "perturbation_key", "batch": "experiment_key"}
        return {
            key: Vocabulary(
                arguments[argument],
                tuple(str(name) for name in self.get_state_registry(key)["categorical_mapping"]),
                arguments["unlabeled_category"] if key == "labels" else None,
            )
            for key, argument in keys.items()
        }

    @property
    def _control(self) -> int | None:
        """Id of the control; None when no cell is one, or there are no perturbations."""
        vocabulary = self._vocabularies["perturbation"]
        if vocabulary.column is None:
            return None
        return vocabulary.ids_by_name().get(str(self.get_setup_arg("control_category")))

    @property
    def _default_control(self) -> str:
        return str(self.get_setup_arg("control_category"))

    def _read(self, adata: AnnData | None, indices, used=("labels", "perturbation", "batch"), unseen="error") -> Cells:
        adata = self._require_data() if adata is None else adata
        cells = read_cells(
            adata,
            indices,
            self._vocabularies,
            np.asarray(self.get_var_names()),
            layer=self.get_setup_arg("layer"),
            size_factor_key=self.get_setup_arg("size_factor_key"),
            used=used,
            unseen=unseen,
            check=adata is not self.adata,
        )
        if cells.size_factors is not None:
            cells.size_factors = cells.size_factors * float(self.module.size_factor_scale)
        return cells

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Also name values of the columns that the model was not trained on, before scvi-tools fails on them."""
        if isinstance(adata, AnnData) and adata is not self.adata:
            for vocabulary in self._vocabularies.values():
                if vocabulary.column is not None and vocabulary.column in adata.obs:
                    vocabulary.ids(adata.obs[vocabulary.column])
        return super()._validate_anndata(adata, copy_if_view)
