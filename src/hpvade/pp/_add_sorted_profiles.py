from collections.abc import Mapping, Sequence

import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._text import listed

_MIN_GENES = 500
_REMEDY = "Name the profiles as the types are called, or pass mapping={'profile': 'type'}."


def add_sorted_profiles(
    sums: AnnData,
    profiles: pd.DataFrame | AnnData,
    types: Sequence[str],
    *,
    labels_key: str,
    sample_key: str | None = None,
    study_key: str | None = None,
    n_cells_key: str = "n_cells",
    mapping: Mapping[str, str] | None = None,
    rna_content: Mapping[str, float] | None = None,
) -> AnnData:
    """Add types that no single-cell study has, such as neutrophils, from profiles of sorted cells measured as bulk.

    Types that both have say how the two platforms see each gene, in every study by itself; the new types are moved by
    that factor. Their RNA content is set beside that of the other types by tables. The result goes to
    :meth:`hpvade.HPVADE.setup_anndata` with ``n_cells_key``; a model made of it names such types in its provenance, and
    gives wider intervals for them.

    Parameters
    ----------
    sums
        Sums of cells x genes, see :func:`~hpvade.pp.summarize`.
    profiles
        Genes x profiles (DataFrame) or profiles x genes (AnnData), linear scale and divided by gene length where the
        protocol is full-length: TPM. Several of one type are averaged.
    types
        Types to add; none that `sums` has.
    labels_key, sample_key, study_key, n_cells_key
        Columns of `sums.obs`, as for :meth:`hpvade.HPVADE.setup_anndata`.
    mapping
        ``{name of a profile: type}``, for profiles with other names than the types; profiles that then name neither a
        type of `sums` nor a new one are left out.
    rna_content
        ``{type: size}``, up to a common factor, with the new types and one or more that `sums` has. When None, the
        tables of EPIC, quanTIseq and ABIS, which know the types of blood.

    Returns
    -------
    `sums` on the genes that both have, with one row more for each new type of each donor (and study), whose counts are
    what as many cells as the donor's other types have would give. ``obs["sorted_profile"]`` says which rows these are,
    ``uns["hpvade_sorted_profiles"]`` (new types x quantities) how far to trust them: ``log_sd``, the spread over genes
    that the factor leaves on shared types in turn; ``size_log_sd``, between the tables; ``n_shared``, types in common.

    Raises
    ------
    KeyError
        A column is absent, or no profile has the name of a type asked for.
    ValueError
        `sums` has a type already or holds single cells; no type in common; fewer than 500 genes in common; values that
        are negative, not finite or on a log scale; no RNA content for a type.
    TypeError
        `rna_content` is no dict.

    Examples
    --------
    >>> import hpvade as hp
    >>> cells, _ = hp.datasets.planted_cohort(n_types=4, n_genes=600, seed=0)
    >>> sums = hp.pp.summarize(cells, "cell_type", sample_key="donor")
    >>> profiles = sums.to_df().groupby(sums.obs["cell_type"], observed=True).mean().T
    >>> known = sums[sums.obs["cell_type"] != "type_3"].copy()
    >>> sizes = {"type_3": 1.0, "type_0": 1.0}
    >>> whole = hp.pp.add_sorted_profiles(
    ...     known, profiles, ["type_3"], labels_key="cell_type", sample_key="donor", rna_content=sizes
    ... )
    >>> sorted(whole.obs["cell_type"].unique())
    ['type_0', 'type_1', 'type_2', 'type_3']
    """
    import numpy as np
    from scipy import sparse

    from ..io._rows import in_memory
    from ..reference._checks import check_reference
    from ..reference._sorted import rna_contents, to_scale_of_cells

    check_reference(
        sums, labels_key, sample_key=sample_key, batch_key=None, study_key=study_key, n_cells_key=n_cells_key
    )
    obs = in_memory(sums.obs)
    labels = obs[labels_key].astype(str).to_numpy()
    types = [types] if isinstance(types, str) else [str(name) for name in types]
    if there := [name for name in types if name in labels]:
        raise ValueError(f"sums has {listed(there)} already; expected types that it lacks.")
    table = _read_profiles(profiles, mapping, {*labels, *types})
    if absent := [name for name in types if name not in table.columns]:
        raise KeyError(f"no profile is named {listed(absent)}; found {listed(table.columns, 40)}. {_REMEDY}")
    genes = sums.var_names[sums.var_names.isin(table.index)]
    if len(genes) < _MIN_GENES:
        raise ValueError(
            f"sums and profiles share {len(genes)} gene names; expected {_MIN_GENES} or more. sums has "
            f"{listed(sums.var_names, 3)}, the profiles {listed(table.index, 3)}; see hpvade.pp.map_genes."
        )
    table, own = table.loc[genes], sums[:, genes]
    counts = own.X.toarray() if sparse.issparse(own.X) else np.asarray(own.X)
    counts, n_cells = counts.astype(float), obs[n_cells_key].to_numpy(dtype=float)
    studies = obs[study_key].astype(str).to_numpy() if study_key else np.zeros(len(obs), dtype=str)
    donors = obs[sample_key].astype(str).to_numpy() if sample_key else np.zeros(len(obs), dtype=str)
    rows, new_obs, found = [], [], []
    for study in np.unique(studies):
        of = studies == study
        measured = counts[of].sum(axis=0) > 0
        names = [name for name in np.unique(labels[of]) if name in table.columns]
        if not names:
            where = f"study {study!r} and the profiles" if study_key else "sums and the profiles"
            raise ValueError(f"{where} have no type in common; found {listed(table.columns, 40)}. {_REMEDY}")
        of_type = {name: of & (labels == name) for name in np.unique(labels[of])}
        cells = np.stack([counts[of_type[name]][:, measured].sum(axis=0) for name in names], axis=1)
        moved = to_scale_of_cells(cells, table.loc[measured, names].to_numpy(), table.loc[measured, types].to_numpy())
        own_size = np.array([counts[rows_].sum() / n_cells[rows_].sum() for rows_ in of_type.values()])
        size, size_sd = rna_contents(list(of_type), own_size, types, rna_content)
        found.append((moved.log_sd, size_sd, len(names)))
        typical = dict(zip(of_type, own_size, strict=True))
        for donor in np.unique(donors[of]):
            here = of & (donors == donor)
            depth = np.mean(np.log(counts[here].sum(axis=1) / n_cells[here] / [typical[t] for t in labels[here]]))
            n = max(round(n_cells[here].mean()), 2)
            for k, name in enumerate(types):
                row = np.zeros(len(genes))
                row[measured] = np.round(n * size[k] * np.exp(depth) * moved.shares[:, k])
                rows.append(row)
                named = {labels_key: name, n_cells_key: n, sample_key: donor, study_key: study}
                new_obs.append({key: value for key, value in named.items() if key is not None})
    return _joined(own, new_obs, np.stack(rows), found, types)


def _read_profiles(
    profiles: pd.DataFrame | AnnData, mapping: Mapping[str, str] | None, wanted: set[str]
) -> pd.DataFrame:
    """Genes x types, the profiles of one type averaged."""
    from ..reference._checks import check_signature

    table = profiles.to_df().T if isinstance(profiles, AnnData) else profiles
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"profiles is a {type(profiles).__name__}; expected a DataFrame (genes x types) or an AnnData.")
    names = [str(name) for name in table.columns]
    if absent := [name for name in mapping or {} if name not in names]:
        raise KeyError(f"mapping names {listed(absent)}, which are no profiles; found {listed(names, 40)}.")
    of_type = [dict(mapping or {}).get(name, name) for name in names]
    table = table.loc[:, [name in wanted for name in of_type]]
    if table.shape[1] > 1:
        check_signature(table)
        if (largest := table.to_numpy().max()) < 30 and table.sum().median() > 100 * largest:
            raise ValueError(
                f"the profiles' largest value is {largest:.3g}: they look logged; expected a linear scale."
            )
    table = (table / table.sum()).set_axis([name for name in of_type if name in wanted], axis=1)
    return table.T.groupby(level=0).mean().T.set_axis(table.index.astype(str))


def _joined(own: AnnData, new_obs: list[dict], rows, found: list, types: list[str]) -> AnnData:
    """The sums and the new rows, marked."""
    import numpy as np
    from scipy import sparse

    table = pd.DataFrame(new_obs)
    table.index = pd.Index("sorted|" + table.astype(str).agg("|".join, axis=1))
    obs = pd.concat([own.obs.assign(sorted_profile=False), table.assign(sorted_profile=True)])
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            obs[name] = obs[name].astype(str).astype("category")
    X = sparse.vstack([sparse.csr_matrix(own.X), sparse.csr_matrix(rows)]).astype(np.float32)
    result = AnnData(sparse.csr_matrix(X), obs=obs, var=own.var.copy())
    log_sd, size_sd, n_shared = zip(*found, strict=True)
    result.uns[Keys.SORTED_PROFILES] = pd.DataFrame(
        {"log_sd": np.mean(log_sd), "size_log_sd": np.mean(size_sd, axis=0), "n_shared": min(n_shared)}, index=types
    )
    return result
