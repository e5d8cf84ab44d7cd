from anndata import AnnData


def simulate_bulk(
    adata: AnnData,
    labels_key: str,
    n_samples: int,
    *,
    n_cells: int = 1000,
    alpha: float = 1.0,
    sparse: float = 0.0,
    sample_key: str | None = None,
    layer: str | None = None,
    seed: int | None = None,
) -> AnnData:
    """Simulate bulk samples with known composition from labelled cells.

    Compositions are Dirichlet; cells per type are multinomial; counts are exact sums of cells drawn with replacement.
    In 70 % of the samples the cells of a type come from one donor, drawn per type, which gives the samples the
    variance of real ones (Hu and Chikina, Genome Biology 2024).

    Parameters
    ----------
    adata
        Cells x genes, counts.
    labels_key
        Column of `adata.obs` with the cell types.
    n_samples
        Number of samples.
    n_cells
        Cells per sample; fractions are multiples of 1 / n_cells.
    alpha
        Dirichlet concentration per type: large for even compositions, small for samples of few types.
    sparse
        Share of samples that hold a random subset of the types only.
    sample_key
        Column of `adata.obs` with the donor of each cell.
    layer
        Layer with the counts; `adata.X` when None.
    seed
        Seed; drawn from torch's generator when None, so that `scvi.settings.seed` decides.

    Returns
    -------
    Samples x genes, counts; `obsm["proportions"]` holds the realised fractions of cells and
    `obsm["rna_proportions"]` the realised fractions of RNA, as DataFrames.

    Raises
    ------
    KeyError, ValueError
        As `HPVADE.setup_anndata` for `adata`; if `n_samples`, `n_cells`, `alpha` or `sparse` is out of range.

    Examples
    --------
    >>> import hpvade as hp
    >>> bulk = hp.pp.simulate_bulk(hp.datasets.pbmc_reference(), "cell_type", 3, n_cells=100, seed=0)
    >>> bulk.obsm["proportions"].sum(axis=1).tolist()
    [1.0, 1.0, 1.0]
    """
    from ..io._rows import in_memory, pick_matrix
    from ..reference._checks import check_reference
    from ..reference._simulate import simulate_from_cells

    check_reference(adata, labels_key, layer=layer, sample_key=sample_key)
    obs = in_memory(adata.obs)
    labels = obs[labels_key].astype("category").cat.remove_unused_categories().cat
    donors = obs[labels_key].map(lambda _: 0) if sample_key is None else obs[sample_key]
    return simulate_from_cells(
        pick_matrix(adata, layer, "adata")[0],
        labels.codes.to_numpy().astype(int),
        donors.astype("category").cat.codes.to_numpy().astype(int),
        labels.categories.astype(str).tolist(),
        adata.var_names,
        n_samples,
        n_cells=n_cells,
        alpha=alpha,
        sparse_share=sparse,
        seed=seed,
    )
