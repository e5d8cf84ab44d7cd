from anndata import AnnData

from .._keys import check_key


def summarize(
    adata: AnnData,
    labels_key: str,
    *,
    sample_key: str | None = None,
    study_key: str | None = None,
    layer: str | None = None,
    key_added: str = "n_cells",
) -> AnnData:
    """Sum the counts of a reference per study, donor and type: small, shareable, without data of single cells.

    :meth:`hpvade.HPVADE.setup_anndata` takes the result with ``n_cells_key``. One pass over the cells; memory holds the
    sums.

    Parameters
    ----------
    adata
        Cells x genes, counts.
    labels_key
        Column of `adata.obs` with the cell types.
    sample_key, study_key
        Columns with donors and studies; not told apart when None.
    layer
        Layer with the counts; `adata.X` when None.
    key_added
        Column of the result with the number of cells in each row.

    Returns
    -------
    (Study, donor, type) x genes: sums of counts, and `obs` with the columns named and `key_added`. Combinations without
    cells have no row; `var` is that of `adata`.

    Raises
    ------
    KeyError, ValueError
        As `HPVADE.setup_anndata` for `adata`; two arguments name one column.

    Examples
    --------
    >>> import hpvade as hp
    >>> sums = hp.pp.summarize(hp.datasets.pbmc_reference(), "cell_type", sample_key="donor")
    >>> sums.shape[0], int(sums.obs["n_cells"].sum())
    (7, 2638)
    """
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from ..io._rows import in_memory, iter_rows, pick_matrix
    from ..reference._checks import check_reference

    check_key(key_added)
    columns = [key for key in (study_key, sample_key, labels_key) if key is not None]
    if len({*columns, key_added}) <= len(columns):
        raise ValueError(f"{', '.join(map(repr, [*columns, key_added]))}: expected another column for each argument.")
    check_reference(adata, labels_key, layer=layer, sample_key=sample_key, study_key=study_key)
    groups = in_memory(adata.obs)[columns].astype(str).groupby(columns, sort=True)
    code, table = groups.ngroup().to_numpy(), groups.size().rename(key_added).reset_index()
    sums = np.zeros((len(table), adata.n_vars))
    for rows, block in iter_rows(pick_matrix(adata, layer, "adata")[0]):
        of = code[rows]
        member = sparse.csr_matrix((np.ones(len(of)), (of, np.arange(len(of)))), shape=(len(table), len(of)))
        touched = np.unique(of)
        sums[touched] += (member[touched] @ block).toarray()
    table.index = pd.Index(table[columns].agg("|".join, axis=1))
    table[columns] = table[columns].astype("category")
    if not table.index.is_unique:  # a name holds the bar itself
        table.index = table.index + "|" + pd.Index(map(str, range(len(table))))
    return AnnData(sparse.csr_matrix(sums.astype(np.float32)), obs=table, var=in_memory(adata.var).copy())
