import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys, check_key
from .._text import listed, name_map, warn

Method = Literal["logistic", "scanvi"]


def transfer_labels(
    adata: AnnData,
    anchor: AnnData,
    *,
    labels_key: str | None,
    anchor_labels_key: str = "cell_type",
    types: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    min_probability: float = 0.5,
    method: Method = "logistic",
    batch_key: str | None = None,
    layer: str | None = None,
    key_added: str = "transferred_labels",
    copy: bool = False,
) -> AnnData | None:
    """Label cells as an anchor would: cells whose labels can be trusted, such as :func:`hpvade.datasets.blood_anchor`.

    Only cells whose own label belongs to `types` are asked, and only `types` are the answers; every other cell keeps
    its own label. Cells below `min_probability` get none: leave them out of the reference with
    ``adata[adata.obs["transferred_labels"].notna()].copy()``. Nothing in `adata` is overwritten.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    anchor
        Cells x genes with raw counts in `X` and labels that hold; gene names of the same kind.
    labels_key
        Column of `adata.obs` with the labels so far. None: there are none, and every cell may become any type.
    anchor_labels_key
        Column of `anchor.obs`.
    types
        Types of the anchor to choose from, such as ``["CD4 T", "CD8 T", "NK"]``. All when None; then cells of types
        that the anchor lacks keep their labels, and a warning names them.
    mapping
        The anchor's name of own types that it calls differently, ``{"Naive CD4 T": "CD4 T"}``.
    min_probability
        Cells whose best type is less probable get a missing value.
    method
        ``"logistic"``: logistic regression of scikit-learn on the genes that both sides express, each side
        standardised by itself; seconds. ``"scanvi"``: :class:`scvi.model.SCANVI` on both together; minutes.
    batch_key
        Column of `adata.obs`: each batch is standardised by itself. Worth it where batches come from several
        protocols and each holds all `types`.
    layer
        Layer of `adata` with the counts; `adata.X` when None.
    key_added
        Name of the new column.
    copy
        Return a copy of `adata` with the results and leave `adata` unchanged.

    Returns
    -------
    None, or the copy. Written are ``obs[key_added]``; for cells that were asked, ``obs[key_added + "_probability"]``
    of the best type and ``obs[key_added + "_entropy"]`` over the types (0 certain, 1 evenly spread); and in
    ``uns[key_added]``: `calibration` (held-out anchor cells by probability), `accuracy` (per type), `changes` (own
    labels x new ones, in cells), `lacking` (own types that the anchor lacks), and how it was done.

    Raises
    ------
    KeyError
        A column or layer is absent.
    ValueError
        As :meth:`hpvade.HPVADE.setup_anndata` for either side; `key_added` would overwrite a column; the two sides
        share fewer than 100 expressed genes, or too few for the anchor to find its own cells; no own type is among
        `types`; names in `types` or `mapping` are unknown;
        an option is out of range. `adata` is then unchanged.
    TypeError
        `types` is a text; `mapping` is no dict.

    Warns
    -----
    UserWarning
        Own types that the anchor lacks, where they may be some of `types` under other names; most cells stay below
        the bound.

    Notes
    -----
    Standardising each side by itself removes what differs between platforms and assumes that the asked cells are a
    mixture of the types. Cells of a single type would be split among all `types`.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata, anchor = hp.datasets.pbmc_reference(), hp.datasets.blood_anchor()
    >>> hp.pp.transfer_labels(adata, anchor, labels_key="cell_type", types=["CD4 T", "CD8 T", "NK"])
    >>> reference = adata[adata.obs["transferred_labels"].notna()].copy()
    >>> hp.HPVADE.setup_anndata(reference, labels_key="transferred_labels", sample_key="donor")
    """
    from ..io._rows import in_memory, pick_matrix
    from ..reference import _transfer
    from ..reference._checks import check_cells, check_column, check_reference

    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is unknown; expected one of {', '.join(map(repr, get_args(Method)))}.")
    if not 0 <= min_probability <= 1:
        raise ValueError(f"min_probability={min_probability}; expected a number from 0 to 1.")
    check_key(key_added)
    check_cells(adata, layer=layer, columns={"batch_key": batch_key})
    obs = in_memory(adata.obs)
    if labels_key is not None:
        check_column(obs, "labels_key", labels_key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "T" and "CD4 T" in an anchor are the anchor's business
        _check_anchor(anchor, anchor_labels_key, check_reference)
    _refuse_overwriting(adata, key_added, labels_key)
    own = np.full(adata.n_obs, "", dtype=object) if labels_key is None else obs[labels_key].astype(str).to_numpy()
    theirs = in_memory(anchor.obs)[anchor_labels_key].astype(str).to_numpy()
    asked, chosen, lacking = _choose(own, theirs, labels_key, types, mapping)

    X, (known,) = pick_matrix(adata, layer, "adata")[0], (np.isin(theirs, chosen),)
    used = _transfer.shared_genes(X, adata.var_names, asked, anchor.X, anchor.var_names, known)
    classifier = _transfer.fit_classifier(anchor.X, anchor.var_names, theirs, known, used)
    _refuse_weak(classifier, _transfer.accuracy(classifier, 0.0)["recall"])
    if method == "logistic":
        groups = None if batch_key is None else obs[batch_key].astype("category").cat.codes.to_numpy()[asked]
        groups = None if groups is None else np.unique(groups, return_inverse=True)[1]
        probability = _transfer.predict(classifier, X, adata.var_names, asked, groups)
    else:
        probability = _scanvi(X, adata.var_names, asked, anchor, theirs, known, used, classifier.types)
    if probability.max() < min_probability:
        warn(
            f"No cell reaches min_probability={min_probability}; the best has {probability.max():.2f}. None of the "
            f"{asked.sum()} cells gets a label."
        )
    elif (below := (probability.max(axis=1) < min_probability).mean()) > 0.5:
        right = _transfer.right_below(classifier, min_probability)
        warn(
            f"{below:.0%} of the {asked.sum()} cells stay below min_probability={min_probability:g} and get no label"
            + (f"; of the anchor's own held-out cells below it {right:.0%} are called rightly. " if right > 0 else ". ")
            + "Name only the types in doubt, between which it is surer, or take a lower min_probability."
        )
    result = adata if not copy else adata.to_memory() if adata.isbacked else adata.copy()
    labels = own.copy()
    best = probability.max(axis=1)
    labels[asked] = np.where(best >= min_probability, classifier.types[probability.argmax(axis=1)], None)
    result.obs[key_added] = pd.Categorical(labels)
    for name, values in (("probability", best), ("entropy", _transfer.entropy(probability))):
        column = np.full(adata.n_obs, np.nan)
        column[asked] = values
        result.obs[Keys.of_label(key_added, name)] = column
    result.uns[key_added] = {
        "method": method,
        "min_probability": min_probability,
        "types": list(map(str, classifier.types)),
        "lacking": lacking,
        "n_genes": len(used),
        "calibration": _transfer.calibration(classifier),
        "accuracy": _transfer.accuracy(classifier, min_probability),
        "changes": _changes(own[asked], labels[asked]),
    }
    return result if copy else None


def _check_anchor(anchor, key: str, check_reference) -> None:
    """What must hold for the anchor; errors say that it is the anchor."""
    try:
        check_reference(anchor, key)
    except (KeyError, TypeError, ValueError) as error:
        text = str(error.args[0]).replace("adata.", "anchor.").replace("(adata,", "(anchor,")
        text = text.replace("labels_key", "anchor_labels_key")
        raise type(error)(f"The anchor cannot be used. {text}") from error


def _refuse_overwriting(adata: AnnData, key: str, labels_key: str | None) -> None:
    """Only an earlier result of the same function may be replaced."""
    earlier = isinstance(adata.uns.get(key), Mapping) and "calibration" in adata.uns[key]
    columns = [key, Keys.of_label(key, "probability"), Keys.of_label(key, "entropy")]
    taken = [column for column in columns if column in adata.obs]
    if key == labels_key or (not earlier and (taken or key in adata.uns)):
        what = f"adata.obs[{taken[0]!r}]" if taken else f"adata.uns[{key!r}]"
        raise ValueError(f"{what} exists and would be overwritten. Pass another key_added.")


def _choose(own, theirs, labels_key, types, mapping) -> tuple[np.ndarray, list[str], list[str]]:
    """Which cells are asked, which types are the answers, and which own types the anchor lacks."""
    available = sorted(set(theirs))
    if isinstance(types, str):
        raise TypeError(f"types={types!r} is a text; expected a list of types, such as [{types!r}, ...].")
    chosen = available if types is None else [str(name) for name in dict.fromkeys(types)]
    if unknown := [name for name in chosen if name not in available]:
        raise ValueError(f"types names {listed(unknown)}, which the anchor lacks; it has {listed(available, 20)}.")
    if len(chosen) < 2:
        raise ValueError(f"types={chosen}; expected at least two types to choose from.")
    if labels_key is None:
        return np.ones(len(own), dtype=bool), chosen, []
    names, mapping = sorted(set(own)), name_map("mapping", mapping)
    if unknown := [name for name in mapping if name not in names]:
        raise ValueError(
            f"mapping names {listed(unknown)}, not among adata.obs[{labels_key!r}]; found {listed(names, 20)}."
        )
    if unknown := [name for name in mapping.values() if name not in available]:
        raise ValueError(f"mapping leads to {listed(unknown)}, which the anchor lacks; it has {listed(available, 20)}.")
    target = {name: mapping.get(name, name) for name in names}
    asked = np.isin(own, [name for name in names if target[name] in chosen])
    lacking = [name for name in names if target[name] not in available]
    if not asked.any():
        raise ValueError(
            f"No label of adata.obs[{labels_key!r}] is among the types {listed(chosen, 20)}; found "
            f"{listed(names, 20)}. Say which is which with mapping={{'own name': 'name in the anchor'}}, or pass "
            "labels_key=None to label every cell."
        )
    if lacking and types is None:
        warn(
            f"The anchor lacks {listed(lacking, 10)}: these cells keep their labels. If it has these types under other "
            "names, pass mapping={'own name': 'name in the anchor'}."
        )
    elif lacking and (unnamed := sorted(set(chosen) - set(target.values()))):
        warn(
            f"No own label is called {listed(unnamed)}, and the anchor lacks {listed(lacking, 10)}: these cells keep "
            "their labels. If they are the same under other names, pass mapping={'own name': 'name in the anchor'}."
        )
    return asked, chosen, lacking


def _refuse_weak(classifier, recall: pd.Series) -> None:
    """An anchor that does not know its own cells by the shared genes says nothing about others."""
    bound = (1 + 1 / len(recall)) / 2
    if recall.mean() < bound:
        raise ValueError(
            f"With the {len(classifier.genes)} genes that both sides express, the anchor finds only "
            f"{recall.mean():.0%} of its own held-out cells (mean over types; chance {1 / len(recall):.0%}, at least "
            f"{bound:.0%} is needed); the worst is {str(recall.idxmin())!r} with {recall.min():.0%}. Use data with "
            "more genes, or fewer types."
        )


def _changes(own: np.ndarray, new: np.ndarray) -> pd.DataFrame:
    """Cells by own label and new one; "below the bound" where there is none."""
    shown = np.where(pd.isna(new), "below the bound", new).astype(str)
    table = pd.crosstab(own.astype(str), shown)
    return table.rename_axis(index=None, columns=None)


def _scanvi(X, genes, asked, anchor, theirs, known, used, types) -> np.ndarray:
    """Probabilities (asked cells x types) by scANVI: anchor cells with labels, the asked cells without."""
    import anndata as ad
    import scvi
    from scipy import sparse

    from ..io._rows import iter_rows

    def counts(matrix, names, keep):
        columns = names.get_indexer(used)
        return sparse.vstack([block[keep[rows]][:, columns] for rows, block in iter_rows(matrix)], format="csr")

    n_known, n_asked = int(known.sum()), int(asked.sum())
    both = ad.AnnData(sparse.vstack([counts(anchor.X, anchor.var_names, known), counts(X, genes, asked)], format="csr"))
    both = both[:, :].copy()
    unlabelled = "no label" + "_" * max(map(len, types))  # a name that no type has
    both.obs["label"] = pd.Categorical([*theirs[known], *[unlabelled] * n_asked])
    both.obs["side"] = pd.Categorical(["anchor"] * n_known + ["data"] * n_asked)
    quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "auto"}
    scvi.model.SCVI.setup_anndata(both, labels_key="label", batch_key="side")
    base = scvi.model.SCVI(both, n_layers=2, n_latent=20, gene_likelihood="nb")
    base.train(max_epochs=100, **quiet)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=unlabelled)
    model.train(max_epochs=30, **quiet)
    return model.predict(soft=True).loc[:, list(types)].to_numpy()[n_known:]
