"""Cells of any AnnData as minibatches of tensors, without registering it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from ...io._positions import cell_positions
from ...io._rows import iter_rows, pick_matrix
from ...reference._checks import check_cells
from .._genes import refuse_other_genes
from ._vocabulary import Vocabulary


@dataclass
class Batch:
    """A minibatch: counts `x` (B, G), ids (B,) and where its cells stand among those asked for."""

    x: Tensor
    cell_types: Tensor
    perturbations: Tensor
    experiments: Tensor
    library: Tensor
    rows: np.ndarray


@dataclass
class Cells:
    """Cells of an AnnData, checked, with the ids of their names.

    Parameters
    ----------
    adata
        The cells.
    chosen
        Their numbers, in the order asked for.
    ids
        Ids (all cells of `adata`,) by ``"labels"``, ``"perturbation"`` and ``"batch"``.
    X
        Matrix of counts.
    size_factors
        Of all cells of `adata`, if the model uses them.
    """

    adata: AnnData
    chosen: np.ndarray
    ids: dict[str, np.ndarray]
    X: object
    size_factors: np.ndarray | None

    def __len__(self) -> int:
        return len(self.chosen)

    def of(self, key: str) -> np.ndarray:
        """Ids of the chosen cells."""
        return self.ids[key][self.chosen]

    def batches(self, device: torch.device, batch_size: int) -> Iterator[Batch]:
        """Go over the chosen cells in the order of the matrix."""
        order = np.argsort(self.chosen, kind="stable")
        numbers = self.chosen[order]
        # in memory only the chosen cells are gone over
        loaded = isinstance(self.X, np.ndarray) or (sparse.issparse(self.X) and self.X.format == "csr")
        X, position = (self.X[numbers], np.arange(len(numbers))) if loaded else (self.X, numbers)
        for rows, block in iter_rows(X, batch_size):
            first, last = np.searchsorted(position, [rows.start, rows.stop])
            if first == last:
                continue
            cells = numbers[first:last]
            x = torch.from_numpy(block[position[first:last] - rows.start].toarray().astype(np.float32)).to(device)
            library = x.sum(dim=1, keepdim=True)
            if self.size_factors is not None:
                library = torch.from_numpy(self.size_factors[cells].astype(np.float32)).to(device)[:, None]
            types, perturbations, experiments = (
                torch.from_numpy(self.ids[key][cells]).to(device) for key in ("labels", "perturbation", "batch")
            )
            yield Batch(x, types, perturbations, experiments, library, order[first:last])


def read_cells(
    adata: AnnData,
    indices,
    vocabularies: dict[str, Vocabulary],
    genes: np.ndarray,
    *,
    layer: str | None,
    size_factor_key: str | None,
    used: tuple[str, ...],
    unseen: str,
    check: bool,
) -> Cells:
    """Check the genes, counts and names of `adata`, and find the ids of its cells. Nothing is written.

    Columns in `used` must exist, but for the labels: where these are absent, no type is known. Columns that are not
    used may be absent or hold any name.

    Raises
    ------
    KeyError
        A column that is used is absent.
    ValueError
        Other genes; negative, missing or no counts; a name that the model was not trained on.
    """
    refuse_other_genes(adata, genes, "model")
    if check:
        columns = {"experiment_key": vocabularies["batch"].column}
        check_cells(adata, layer=layer, columns={name: key for name, key in columns.items() if key in adata.obs})
    ids = {}
    for key, vocabulary in vocabularies.items():
        column = vocabulary.column
        if column is not None and column in adata.obs:
            lenient = "unk" if key not in used else unseen  # what is not used may have any name
            ids[key] = vocabulary.ids(adata.obs[column], lenient)
        elif column is not None and key in used and key != "labels":
            raise KeyError(f"{column!r} is not a column of adata.obs, which the model needs; found {list(adata.obs)}.")
        else:
            ids[key] = np.full(adata.n_obs, 0 if column is None else vocabulary.unknown)
    size_factors = None
    if size_factor_key is not None:
        if size_factor_key not in adata.obs:
            raise KeyError(f"size_factor_key={size_factor_key!r} is not a column of adata.obs.")
        size_factors = adata.obs[size_factor_key].to_numpy(dtype=float)
    chosen = cell_positions(adata.n_obs, indices)
    return Cells(adata, chosen, ids, pick_matrix(adata, layer, "adata")[0], size_factors)
