"""Columns of `adata.obs` as scvi-tools registers them, but for categories that no cell has."""

from anndata import AnnData
from scvi.data.fields import CategoricalObsField


class UsedCategoriesField(CategoricalObsField):
    """A column whose unused categories are no categories of the model.

    Labels that were merged with ``.loc``, declared, or cut off with a subset stay among a column's categories; a model
    would learn a type or a donor that no cell has. The user's column stays as it is.
    """

    def register_field(self, adata: AnnData) -> dict:
        """See scvi-tools; the column is put back afterwards."""
        key = None if self.is_default else self._original_attr_key
        given = None if key is None else adata.obs[key]
        if given is None or given.dtype != "category":
            return super().register_field(adata)
        adata.obs[key] = given.cat.remove_unused_categories()
        try:
            return super().register_field(adata)
        finally:
            adata.obs[key] = given
