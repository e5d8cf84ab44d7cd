"""Cells that a trained model is given: checked before scvi-tools registers them, and as they were when it cannot."""

import contextlib
import warnings
from collections.abc import Iterator

from anndata import AnnData
from mudata import MuData
from scvi.data.fields import LayerField

from .._text import check_adata
from ..io._rows import is_integer, iter_rows, pick_matrix, refuse_bad_values, use_sparse_matrix
from ..reference._checks import refuse_small

_SLOTS = ("uns", "obsm", "layers")


def check_new_cells(data: AnnData | MuData, fields: list) -> None:
    """Raise unless every matrix that a model reads is there and holds finite values of 0 or more on a linear scale.

    A field with `takes_logs` may hold logged values. SciPy's sparse arrays become matrices, which scvi-tools can read.

    Raises
    ------
    KeyError
        The layer is absent.
    ValueError
        A view; no cells; no matrix; a value that is negative, NaN or infinite; a cell whose sum is too large; values
        on a log scale.
    """
    for field in fields:
        inner = getattr(field, "adata_field", field)
        if not isinstance(inner, LayerField):
            continue
        if inner is field:
            check_adata(data, "adata")
        part = data if inner is field else field.get_modality(data)
        name = "adata" if inner is field else f"mdata[{field.mod_key!r}]"
        if part.is_view:
            raise ValueError(f"{name} is a view of another object; run `adata = adata.copy()` first.")
        if not part.n_obs:
            raise ValueError(f"{name} has no cells; expected one or more. See what was filtered before.")
        X, name = pick_matrix(part, inner.attr_key, name)
        largest, whole = 0.0, True
        for rows, block in iter_rows(X):
            refuse_bad_values(block, rows, name, part.obs_names, part.var_names)
            largest, whole = max(largest, block.data.max(initial=0)), whole and bool(is_integer(block.data).all())
        if not whole and not getattr(inner, "takes_logs", False):
            refuse_small(largest, name)
        use_sparse_matrix(part, inner.attr_key)


@contextlib.contextmanager
def fitting(data: AnnData | MuData, registry: dict) -> Iterator[None]:
    """Have scvi-tools register new cells: an error says what the model expects, and leaves `data` as they were."""
    parts = [data, *(data.mod.values() if isinstance(data, MuData) else ())]
    before = [
        (part, part.obs.copy(), {slot: dict(getattr(part, slot, None) or {}) for slot in _SLOTS}) for part in parts
    ]
    try:
        with warnings.catch_warnings():  # true of cells to learn from
            warnings.filterwarnings("ignore", "Category .* has fewer than 3 cells")
            warnings.filterwarnings("ignore", "Training will be faster when sparse matrix is formatted as CSR")
            warnings.filterwarnings("ignore", ".* does not contain unnormalized count data")
            yield
    except Exception as error:
        for part, obs, slots in before:
            part.obs = obs
            for slot, values in slots.items():
                for name in set(getattr(part, slot, None) or {}) - set(values):
                    del getattr(part, slot)[name]
        arguments = {name: value for name, value in registry["setup_args"].items() if value is not None}
        raise (KeyError if isinstance(error, KeyError) else ValueError)(
            f"these cells do not fit the model: {error.args[0] if error.args else error} Expected the columns and "
            f"categories that it was set up with: {arguments}."
        ) from error
