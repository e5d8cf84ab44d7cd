from anndata import AnnData


def ambient_profile(raw: AnnData, *, max_counts: int = 100, batch_key: str | None = None, layer: str | None = None):
    """Profile of the ambient RNA, measured in droplets without a cell.

    Give it to :meth:`hpvade.AmbientRegularizedSCVI.get_clean_reference`. Without raw matrices the model finds the
    profile from the cells.

    Parameters
    ----------
    raw
        All droplets x genes, as in ``raw_feature_bc_matrix.h5`` of Cell Ranger, not the filtered cells. In memory or
        backed.
    max_counts
        Droplets with more counts may hold a cell and are left out.
    batch_key
        Column of `raw.obs` with the batch of each droplet; all droplets are one batch when None.
    layer
        Layer with the counts; `raw.X` when None.

    Returns
    -------
    pandas.DataFrame
        Genes x batches, columns sum to one; without `batch_key` the only column is ``"all"``.

    Raises
    ------
    KeyError
        The column or layer is absent.
    ValueError
        A batch has fewer than 1,000 counts in such droplets: too few for a profile, as when cells alone are given.
        A droplet has no batch; genes are duplicated; values are negative, not finite or logged.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> raw = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (2000, 6)).astype("float32"))
    >>> ambient_profile(raw).round(1)["all"].tolist()
    [0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    """
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from .._text import check_adata
    from ..io._gene_names import refuse_duplicates
    from ..io._rows import in_memory, is_integer, iter_rows, pick_matrix, refuse_bad_values
    from ..reference._checks import refuse_small

    check_adata(raw, "raw")
    X, name = pick_matrix(raw, layer, "raw")
    refuse_duplicates(raw.var_names, "raw")
    obs = in_memory(raw.obs)
    if batch_key is not None and batch_key not in obs:
        raise KeyError(f"batch_key={batch_key!r} is not a column of raw.obs; found {list(obs)}.")
    if batch_key is not None and (n_missing := int(obs[batch_key].isna().sum())):
        raise ValueError(
            f"raw.obs[{batch_key!r}] has no value for {n_missing} of {raw.n_obs} droplets; expected the batch of each. "
            f"Fill them in, or leave them out: `raw = raw[raw.obs[{batch_key!r}].notna()].copy()`."
        )
    batch = np.full(raw.n_obs, "all") if batch_key is None else obs[batch_key].astype(str).to_numpy()
    names, codes = np.unique(batch, return_inverse=True)
    sums, largest, whole = np.zeros((len(names), raw.n_vars)), 0.0, True
    for rows, block in iter_rows(X):
        refuse_bad_values(block, rows, name, raw.obs_names, raw.var_names)
        largest, whole = max(largest, block.data.max(initial=0)), whole and bool(is_integer(block.data).all())
        totals = block.sum(axis=1).A1
        empty = np.flatnonzero(totals <= max_counts)
        member = sparse.csr_matrix((np.ones(len(empty)), (codes[rows][empty], empty)), (len(names), block.shape[0]))
        sums += (member @ block).toarray()
    if not whole:
        refuse_small(largest, name)
    few = np.flatnonzero(sums.sum(axis=1) < 1000)
    if len(few):
        raise ValueError(
            f"droplets with at most {max_counts} counts have {sums[few[0]].sum():.0f} counts in all in batch "
            f"{str(names[few[0]])!r}; expected at least 1000. Pass the raw matrix of all droplets, not the filtered "
            "one, or raise max_counts."
        )
    return pd.DataFrame((sums / sums.sum(axis=1, keepdims=True)).T, index=raw.var_names, columns=names)
