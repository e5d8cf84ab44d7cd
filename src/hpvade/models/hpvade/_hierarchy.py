"""Groups of similar types, and answers at every level of such a tree."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from ..._keys import Keys, check_key
from ...io._frames import as_bulk
from ...io._names import writable
from ...reference._measured import placed
from ...solvers import marker_genes
from ._estimate import Estimate, estimate

LEAF = "type"
FLOOR = 5e-5  # share of the total added before logs, as in `marker_genes`
EMPTY = 1e-9  # a group's share below which it has no split
MIN_COHORT = 4  # James and Stein: shrinking towards an estimated mean helps from four on


def cut_tree(log_signature: np.ndarray, levels: int) -> np.ndarray:
    """Group columns by complete linkage on the correlation distance, cut where the mean silhouette is highest.

    Genes are centred: two types are alike that deviate from the mean type alike.

    Parameters
    ----------
    log_signature
        (genes x types).
    levels
        Number of cuts: those with the highest silhouettes; they are nested.

    Returns
    -------
    (types x levels): number of the group, coarse to fine.

    Examples
    --------
    >>> import numpy as np
    >>> cut_tree(np.array([[5.0, 5, 0, 0], [4, 5, 1, 0], [0, 0, 5, 4], [0, 1, 5, 5]]), 1).ravel()
    array([1, 1, 2, 2], dtype=int32)
    """
    # uncentred, what all types express makes them alike, and the first cut splits off one outlying type
    centred = log_signature - log_signature.mean(axis=1, keepdims=True)
    distance = pdist(centred.T, "correlation").clip(min=0)
    tree, square = linkage(distance, "complete"), squareform(distance, checks=False)
    cuts = {k: fcluster(tree, k, "maxclust") for k in range(2, log_signature.shape[1])}
    # ties in the tree may leave fewer groups than asked for
    score = {k: silhouette_score(square, c, metric="precomputed") for k, c in cuts.items() if c.max() == k}
    if len(score) < levels:
        raise ValueError(
            f"levels={levels}; {log_signature.shape[1]} types can be cut into {len(score)} levels at most."
        )
    best = sorted(sorted(score, key=score.get, reverse=True)[:levels])
    return np.column_stack([cuts[k] for k in best])


def shrink_splits(amounts: np.ndarray, groups: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Draw the splits of groups towards the cohort's mean split, each sample by how uncertain its own is.

    For sample n, a group with total :math:`P_n = \sum_{k \in g} p_{nk}` and split :math:`q_{nk} = p_{nk} / P_n`,

    .. math:: v_n = \sum_{k \in g} \frac{a_{nk}^\top \Sigma_n a_{nk}}{P_n^2},\quad a_{nk} = e_k - q_{nk} 1_g, \qquad
              \tau^2 = \Big(\sum_k \mathrm{var}_n(q_{nk}) - \mathrm{mean}_n(v_n)\Big)_+, \qquad
              \tilde q_n = \bar q + \frac{\tau^2}{\tau^2 + v_n} (q_n - \bar q),

    with the error variance :math:`v_n` by the delta method, the true spread :math:`\tau^2` by moments, and
    :math:`\bar q` the mean with weights :math:`1 / (\tau^2 + v_n)`.

    Parameters
    ----------
    amounts
        (samples x types): fractions p.
    groups
        (types,): group of each type.
    covariance
        (samples x types x types): of the fractions.

    Returns
    -------
    splits, weight
        (samples x types): parts of each type in its group, and (samples x groups), groups sorted by name: the weight
        of the sample's own split. Groups of one type are one. Groups found in fewer than four samples keep their
        splits; a sample without the group gets the mean.

    References
    ----------
    Efron and Morris, Journal of the American Statistical Association 70 (1975).
    """
    names = np.unique(groups)
    splits, weight = np.ones_like(amounts), np.ones((len(amounts), len(names)))
    for j, name in enumerate(names):
        member = groups == name
        if member.sum() < 2:
            continue
        total = amounts[:, member].sum(axis=1)
        there = total > EMPTY
        part = amounts[there][:, member] / total[there, None]
        if there.sum() < MIN_COHORT:
            mean, own = np.full(member.sum(), 1 / member.sum()), np.ones(len(part))
        else:
            along = np.eye(member.sum()) - part[:, :, None]  # row k: e_k - q_k 1
            sigma = covariance[there][:, member][:, :, member] / total[there, None, None] ** 2
            error = np.einsum("nki,nij,nkj->n", along, sigma, along).clip(min=1e-12)
            spread = max(part.var(axis=0, ddof=1).sum() - error.mean(), 0.0)
            precision = 1 / (spread + error)
            mean, own = precision @ part / precision.sum(), spread * precision
        new = np.tile(mean, (len(amounts), 1))
        new[there] += own[:, None] * (part - mean)
        splits[:, member], weight[:, j] = new, 0.0
        weight[there, j] = own
    return splits, weight


class HierarchyMethods:
    """Answers at several levels; needs ``cell_types``, ``module``, ``preset`` and ``_require_trained`` of `HPVADE`."""

    def get_hierarchy(self, *, levels: int = 1) -> pd.DataFrame:
        """Group the types by similarity of their signatures.

        Complete linkage on the correlation distance of log signatures, each gene minus its mean over the types, over
        the genes that tell the types apart; cut where the mean silhouette is highest.

        Parameters
        ----------
        levels
            Number of levels above the types: the cuts with the highest silhouettes.

        Returns
        -------
        Types x levels (``"level_1"``, the coarsest, ...): the name of the group, its types joined by " + ". Groups of
        a level lie within one group of the level before.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            There are fewer than three types, or too few for so many levels.

        Examples
        --------
        >>> model.get_hierarchy()  # doctest: +SKIP
        """
        self._require_trained("get_hierarchy")
        types, possible = self.cell_types, len(self.cell_types) - 2
        if possible < 1:
            raise ValueError(
                f"the model has {len(types)} types; expected three or more to group them by similarity. Pass your own "
                "tree: hierarchy={type: group}."
            )
        if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= possible:
            raise ValueError(f"levels={levels!r}; expected a whole number from 1 to {possible} for {len(types)} types.")
        with torch.no_grad():
            # the literal signature is not a linear one
            signature = self.module.mean_counts if self.preset == "spec" else self.module.signature()
            signature = signature / signature.sum(dim=0)
            genes = marker_genes(signature, self.module.gene_score > 0)
            log_signature = torch.log(signature[genes] + FLOOR).double().cpu().numpy()
        cuts = cut_tree(log_signature, levels)
        names = [[" + ".join(np.array(types)[cut == group]) for group in cut] for cut in cuts.T]
        columns = {f"level_{i + 1}": name for i, name in enumerate(names)}
        return pd.DataFrame(columns, index=pd.Index(types, name=LEAF))

    def deconvolve_hierarchy(
        self,
        bulk_adata: AnnData,
        *,
        hierarchy: str | Mapping[str, str] | pd.DataFrame = "auto",
        levels: int = 1,
        shrink: bool = False,
        key_added: str = Keys.HIERARCHY,
        **kwargs,
    ) -> dict[str, pd.DataFrame]:
        """Estimate the proportions at every level of a tree of types.

        A group's share is the sum over its types. With `shrink`, the splits of groups into types that the data do not
        decide are drawn towards the cohort's mean split, sample by sample; the user guide has the formula. Groups are
        split from coarse to fine: the coarsest level stays as it is, and the parts of a group add up to it.

        Parameters
        ----------
        bulk_adata
            Bulk samples, as for :meth:`deconvolve`.
        hierarchy
            ``"auto"`` (:meth:`get_hierarchy`), a dict ``{type: group}``, or a DataFrame types x levels from coarse to
            fine with the names of groups. Every type of the model is named once; each group lies within one group of
            the level before.
        levels
            For ``"auto"`` only: number of levels above the types.
        shrink
            Draw uncertain splits towards the cohort's mean; needs four samples or more. The user guide has what it
            changed on measured cohorts.
        key_added
            Start of the keys of the result.
        **kwargs
            How to read the bulk, as in :meth:`deconvolve`: `layer`, `input_type`, `missing`, `gene_length_key`,
            `refine`, `batch_size`, `solver_kwargs`.

        Returns
        -------
        A table (samples x groups, rows sum to one) per level, coarse to fine, the last one ``"type"``: fractions of
        cells. They are written to ``bulk_adata.obsm[f"{key_added}_{level}"]``. ``bulk_adata.uns[key_added]`` holds
        ``hierarchy`` (types x levels) and ``shrink``, and with it ``own_weight`` (per group: the cohort's mean weight
        of a sample's own split).

        Raises
        ------
        RuntimeError
            The model is not trained.
        TypeError, ValueError
            `hierarchy` is of another kind, lacks types, names types that the model does not have, or is not nested;
            `levels` with a tree of your own; `shrink` without the refinement or with fewer than four samples; all
            errors of :meth:`deconvolve` about the bulk. `bulk_adata` is then unchanged.

        Examples
        --------
        >>> model.deconvolve_hierarchy(bulk, hierarchy={"CD4 T": "T", "CD8 T": "T", "B": "B"})  # doctest: +SKIP
        """
        self._require_trained("deconvolve_hierarchy")
        check_key(key_added)
        auto = isinstance(hierarchy, str) and hierarchy == "auto"
        tree = self.get_hierarchy(levels=levels) if auto else check_hierarchy(hierarchy, self.cell_types)
        if not auto and levels != 1:
            raise ValueError(
                f"levels={levels!r} is for hierarchy='auto'; your own tree has the levels {list(tree)}. Omit."
            )
        bulk_adata = as_bulk(bulk_adata)
        if shrink and bulk_adata.n_obs < MIN_COHORT:
            raise ValueError(
                f"shrink=True with {bulk_adata.n_obs} samples; expected at least {MIN_COHORT}, whose mean split is "
                "what splits are drawn towards. Use shrink=False."
            )
        found = estimate(self, bulk_adata, covariance=shrink, **kwargs)
        if shrink and found.fit is None:
            raise ValueError("shrink=True needs the refinement's covariance; use refine=True and preset='default'.")
        cells, about = found.cells.double().cpu().numpy(), {"hierarchy": tree, "shrink": bool(shrink)}
        if shrink:
            cells, about["own_weight"] = _shrink(cells, _covariance(found), tree)
        leaves = placed(bulk_adata, self.cell_types, [(found.bulk.usable, cells / cells.sum(axis=1, keepdims=True))])
        tables = {level: leaves.T.groupby(tree[level], sort=False).sum(min_count=1).T for level in tree}
        tables[LEAF] = leaves
        for level, table in tables.items():
            table.columns.name = None
            bulk_adata.obsm[Keys.level(key_added, level)] = writable(table.copy())
        bulk_adata.uns[key_added] = about
        return tables


def check_hierarchy(hierarchy: Mapping[str, str] | pd.DataFrame, types: list[str]) -> pd.DataFrame:
    """The user's tree as types x levels in the order of `types`; an error that says what is wrong with it.

    Examples
    --------
    >>> tree = {"B": "lymphoid", "NK": "lymphoid", "Mono": "myeloid"}
    >>> check_hierarchy(tree, ["B", "Mono", "NK"])["level_1"].to_list()
    ['lymphoid', 'myeloid', 'lymphoid']
    """
    if isinstance(hierarchy, Mapping):
        hierarchy = pd.DataFrame({"level_1": dict(hierarchy)})
    if not isinstance(hierarchy, pd.DataFrame):
        raise TypeError(
            f"hierarchy is {hierarchy!r}; expected 'auto', a dict {{type: group}}, or a DataFrame types x levels."
        )
    tree = hierarchy.set_axis(hierarchy.index.astype(str)).set_axis(hierarchy.columns.astype(str), axis=1)
    duplicated = list(tree.index[tree.index.duplicated()])
    unknown = [name for name in tree.index if name not in types]
    absent = [name for name in types if name not in tree.index]
    if duplicated or unknown or absent:
        raise ValueError(
            f"the hierarchy does not fit the model: unknown types {unknown}, types without a group {absent}, types "
            f"named twice {duplicated}. Expected each of {types} once."
        )
    if tree.columns.has_duplicates or not tree.shape[1] or LEAF in tree:
        raise ValueError(
            f"the hierarchy has the levels {list(tree.columns)}; expected one or more, of different names, none of "
            f"them {LEAF!r}, which is the level of the types."
        )
    tree = tree.loc[types].rename_axis(LEAF)
    if tree.isna().any(axis=None):
        row, column = np.argwhere(tree.isna().to_numpy())[0]
        raise ValueError(
            f"{types[row]!r} has no group at {tree.columns[column]!r}. Name one; a type may be its own group."
        )
    tree = tree.astype(str)
    for coarse, fine in zip(tree.columns, tree.columns[1:], strict=False):
        parents = tree.groupby(fine)[coarse].unique()
        if (broken := parents[parents.map(len) > 1]).size:
            raise ValueError(
                f"the group {broken.index[0]!r} of {fine!r} lies in several groups of {coarse!r}: "
                f"{list(broken.iloc[0])}. Expected levels from coarse to fine, each within the one before."
            )
    return tree


def _covariance(found: Estimate) -> np.ndarray:
    """Covariance of the fractions of cells that samples do not share (samples x types x types).

    The fit's covariance counts the cohort's gene factor among the errors. It moves all samples alike, which does not
    show in their spread; so only the part of the log residuals that is the sample's own is kept.
    """
    own, shared = found.fit.residual.square(), found.fit.gene_factor.square().mean()
    scale = 1 / found.sizes / (found.rna / found.sizes).sum(dim=1, keepdim=True)  # cells per RNA
    covariance = found.fit.covariance * (own / (own + shared).clamp(min=1e-30))[:, None, None]
    return (covariance * scale[:, :, None] * scale[:, None, :]).double().cpu().numpy()


def _shrink(cells: np.ndarray, covariance: np.ndarray, tree: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Shrink splits from coarse to fine: into the groups of the next level, at last into the types."""
    levels = [*(tree[level].to_numpy() for level in tree), tree.index.to_numpy()]
    share = cells @ (levels[0][:, None] == levels[0]).astype(float)  # of each type's coarsest group
    weights = []
    for level, parent, child in zip(tree, levels, levels[1:], strict=False):
        names, first, code = np.unique(child, return_index=True, return_inverse=True)
        member = np.eye(len(names))[code]  # types x children
        of_children = np.einsum("ki,nkl,lj->nij", member, covariance, member)
        split, weight = shrink_splits(cells @ member, parent[first], of_children)
        share = share * split[:, code]
        groups = np.unique(parent[first])
        weights.append(pd.DataFrame({"level": level, "group": groups, "own_weight": weight.mean(axis=0)}))
    return share, pd.concat(weights, ignore_index=True)
