from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys, check_key
from .._text import listed, name_map


def check_labels(
    adata: AnnData,
    labels_key: str,
    *,
    markers: str | Mapping[str, Mapping[str, list[str]]] | None = "blood",
    anchor: AnnData | None = None,
    anchor_labels_key: str = "cell_type",
    mapping: Mapping[str, str] | None = None,
    layer: str | None = None,
    key_added: str = Keys.LABEL_CHECK,
    copy: bool = False,
) -> AnnData | None:
    """Ask whether the labels of a reference contradict its own cells, before they decide every answer.

    Three things are asked: what the other labels say of each cell (a classifier that has not seen the cell); what
    marker genes say, beyond the ambient RNA and doublets that types show which cannot have them; and what an anchor
    says. Shares of cells that belong elsewhere come from a mixture of log odds, so that no classifier needs to be right
    about the level. Without markers and anchor, only the first is asked; works for any tissue.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    labels_key
        Column of `adata.obs` with the labels.
    markers
        ``"blood"``: shipped markers of B, CD4 T, CD8 T, NK, monocytes, DC, plasma cells and platelets; which label
        means which is read from its name or from `mapping`, and labels of other tissues are left out. A dict by label,
        ``{"beta": {"has": ["INS"], "lacks": ["GCG"]}, ...}``: `has` genes that the type expresses, `lacks` genes that
        it cannot. None: no markers.
    anchor
        Cells x genes with raw counts and labels that hold, such as :func:`hpvade.datasets.blood_anchor`.
    anchor_labels_key
        Column of `anchor.obs`.
    mapping
        What own labels mean, ``{"cluster 3": "CD8 T"}``: a type of the markers or the anchor.
    layer
        Layer with the counts; `adata.X` when None.
    key_added
        Start of the names of what is written; an earlier result is replaced.
    copy
        Return a copy of `adata` with the results and leave `adata` unchanged.

    Returns
    -------
    None, or the copy. Written are in ``obs``

    - ``label_check_score``: how much speaks for another type, 0 to 1; ranks the cells
    - ``label_check_flagged``: whether the cell is counted among the cells of another type
    - ``label_check_suggestion``: the other type if it is, else the own label
    - ``label_check_doublet``: the share of simulated doublets around the cell (of 20,000 cells at most, else NaN);

    and in ``uns["label_check"]``

    - ``findings``: `type`, `second` type, `share` of its cells, and `text`: a sentence with consequence and remedy
    - ``limits``: what could not be looked at
    - ``types``: per label, cells; share of the `neighbours` with the same label; share that the classifier calls so
      (`predicted`); shares `flagged` and among `doublets`; share with which the `anchor` agrees
    - ``pairs``: `share` of the cells of a type that look like a second one, or that explain its markers (`by`), and
      what is then `read` of the second type, as a share of what is there (`cells`: the first share alone)
    - ``markers``: per pair of types, how often cells express genes that they lack, beside the background.

    Raises
    ------
    KeyError
        A column or layer is absent.
    ValueError
        As :meth:`hpvade.HPVADE.setup_anndata` for either side; `markers` or `mapping` name labels that are not there;
        the anchor shares too few genes. `adata` is then unchanged.
    TypeError
        `mapping` is no dict.

    Notes
    -----
    Labels that are wrong for a whole group of cells, such as naive CD8 T cells in a cluster called CD4 T, agree with
    each other; only markers or an anchor find them. Half of a type or more under the wrong label turns the question
    around: then the others look wrong.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.pbmc_reference()
    >>> hp.tl.check_labels(adata, "cell_type")
    >>> print(adata.uns["label_check"]["findings"]["text"][0][:60])
    21% of the cells labelled 'CD4 T' express CD8A or CD8B; ambi
    """
    from ..io._rows import in_memory, pick_matrix
    from ..reference import _label_words, _labels
    from ..reference._checks import check_reference

    check_key(key_added)
    check_reference(adata, labels_key, layer=layer)
    labels = in_memory(adata.obs)[labels_key].astype(str).map(str).to_numpy()  # names of NumPy's own kind, too
    known, classes = _read_markers(markers, sorted(set(labels)), mapping, labels_key)
    theirs = None
    if anchor is not None:
        try:
            check_reference(anchor, anchor_labels_key)
        except (KeyError, TypeError, ValueError) as error:
            text = str(error.args[0]).replace("adata.", "anchor.").replace("(adata,", "(anchor,")
            text = text.replace("labels_key", "anchor_labels_key")
            raise type(error)(f"The anchor cannot be used. {text}") from error
        theirs = in_memory(anchor.obs)[anchor_labels_key].astype(str).to_numpy()
        # labels and anchor meet in names: as they are, and where they differ as types of blood
        meant = {name: _blood(name) if name not in classes.values() else name for name in set(theirs)}
        theirs = np.array([meant[name] for name in theirs], dtype=object)
        if (n_shared := len(set(theirs) & set(classes.values()))) < 2:
            raise ValueError(
                f"Labels and anchor share {n_shared} types; at least two are needed. The labels are "
                f"{listed(classes, 20)}, the anchor has {listed(sorted(meant), 20)}. Say which is which with "
                "mapping={'own label': 'name in the anchor'}."
            )
        theirs = (anchor.X, anchor.var_names, theirs)
    X = pick_matrix(adata, layer, "adata")[0]
    check = _labels.check(X, adata.var_names, labels, markers=known, classes=classes, anchor=theirs)

    heard = {} if known is None else {"list of markers": list(known)}
    heard |= {} if theirs is None else {"anchor": list(theirs[2])}
    named = [gene for name, sets in (known or {}).items() if name in classes.values() for gene in sets.get("has", [])]
    absent = [gene for gene in dict.fromkeys(named) if gene not in adata.var_names]
    unread = known is None and markers is not None
    names = check.types.index.to_numpy()
    result = adata if not copy else adata.to_memory() if adata.isbacked else adata.copy()
    result.obs[Keys.of_label(key_added, "score")] = check.score
    result.obs[Keys.of_label(key_added, "flagged")] = check.flagged
    result.obs[Keys.of_label(key_added, "suggestion")] = pd.Categorical(names[check.suggestion], categories=names)
    result.obs[Keys.of_label(key_added, "doublet")] = check.doublet
    result.uns[key_added] = {
        "labels_key": labels_key,
        "findings": _label_words.findings(check, labels_key, key_added),
        "limits": np.array(_label_words.limits(check, known, heard, absent, unread=unread), dtype=str),
        "types": check.types,
        "pairs": check.pairs,
        "markers": check.markers,
    }
    return result if copy else None


def _blood(name: str) -> str:
    from ..reference._blood_markers import blood_type

    return blood_type(name) or name


def _read_markers(markers, names: list[str], mapping, labels_key: str) -> tuple[dict | None, dict[str, str]]:
    """The markers by class, and the class of each label."""
    from ..reference._blood_markers import MARKERS

    mapping = name_map("mapping", mapping)
    if unknown := [name for name in mapping if name not in names]:
        raise ValueError(
            f"mapping names {listed(unknown)}, not among adata.obs[{labels_key!r}]; found {listed(names, 20)}."
        )
    if markers is None or isinstance(markers, str):
        if markers not in ("blood", None):
            raise ValueError(f"markers={markers!r} is unknown; expected 'blood', a dict by label, or None.")
        classes = {name: mapping.get(name, _blood(name)) for name in names}
        return (MARKERS if markers == "blood" and set(classes.values()) & set(MARKERS) else None), classes
    classes = {name: mapping.get(name, name) for name in names}
    if unknown := [str(name) for name in markers if name not in classes.values()]:
        raise ValueError(
            f"markers names {listed(unknown)}, not among adata.obs[{labels_key!r}]; found {listed(names, 20)}."
        )
    for name, sets in markers.items():
        if not isinstance(sets, Mapping) or set(sets) - {"has", "lacks", "rarely"}:
            raise ValueError(f"markers[{str(name)!r}] is {sets!r}; expected {{'has': [...], 'lacks': [...]}}.")
        if texts := [kind for kind, genes in sets.items() if isinstance(genes, str)]:
            raise ValueError(f"markers[{str(name)!r}][{texts[0]!r}] is a text; expected a list of gene names.")
    return {str(name): {kind: list(genes) for kind, genes in sets.items()} for name, sets in markers.items()}, classes
