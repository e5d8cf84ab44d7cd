"""The findings of a check of labels, one plain sentence each, with consequence and remedy."""

import numpy as np
import pandas as pd

from .._text import listed
from ._labels import MIN_CELLS, MIN_DOUBLET, MIN_SHARE, LabelCheck, contradictions, doubtful

_T_AND_NK = {"CD4 T", "CD8 T", "NK"}
_FEW_CELLS = 20


def findings(check: LabelCheck, labels_key: str, key_added: str) -> pd.DataFrame:
    """One row per finding: `type`, `second`, `share` (of the cells of `type`), `text`."""
    rows, told = [], set()
    names_of = check.types.reset_index(names="type").groupby("class")["type"].apply(list).to_dict()
    sizes = check.types["n_cells"].groupby(check.types["class"]).sum()
    for row in contradictions(check.markers).sort_values("z", ascending=False).itertuples():
        told |= {(a, b) for a in names_of[row.type] for b in names_of.get(row.second, [])}
        rows.append(
            {
                "type": " + ".join(names_of[row.type]),
                "second": row.second,
                "share": row.excess,
                "text": _by_markers(row, names_of, sizes, labels_key),
            }
        )
    for row in doubtful(check.pairs).itertuples():
        if (row.type, row.second) in told:
            continue
        remedy = (
            f"Leave them out (obs[{key_added + '_flagged'!r}]) or take obs[{key_added + '_suggestion'!r}] as labels."
            if check.types.loc[row.type, "flagged"] > 0
            else f"None of them is sure enough to be flagged: look at the highest obs[{key_added + '_score'!r}]."
        )
        text = (
            f"{row.cells:.0%} of the cells labelled {row.type!r} look like {row.second!r}; {row.second!r} will be read "
            f"at about {row.read:.0%} of its share. {remedy}"
        )
        rows.append({"type": row.type, "second": row.second, "share": row.cells, "text": text})
    n_doublets = check.types["doublets"] * check.types["n_cells"]
    for name, row in check.types[(check.types["doublets"] >= MIN_SHARE) & (n_doublets >= MIN_CELLS)].iterrows():
        text = (
            f"{row['doublets']:.0%} of the cells labelled {name!r} lie among simulated doublets; their profile is a "
            f"mixture. Leave out cells with obs[{key_added + '_doublet'!r}] of {MIN_DOUBLET:g} and more."
        )
        rows.append({"type": name, "second": "doublets", "share": row["doublets"], "text": text})
    return pd.DataFrame(rows, columns=["type", "second", "share", "text"])


def _by_markers(row, names_of: dict, sizes: pd.Series, labels_key: str) -> str:
    own = names_of[row.type]
    text = (
        f"{row.rate:.0%} of the cells labelled {' or '.join(map(repr, own))} express {row.genes.replace(', ', ' or ')}"
    )
    text += f"; ambient RNA and doublets explain {row.background:.0%} (as in {row.yardstick})"
    if pd.isna(row.full):
        consequence = f"no label means {row.second}, which will be read as {listed(own)}"
    else:
        swallowed = row.excess * sizes[row.type]
        read = sizes[row.second] / (sizes[row.second] + swallowed)
        text += f", and {row.full:.0%} of {listed(names_of[row.second])} do"
        consequence = (
            f"about {row.excess:.0%} of them are {row.second}, which will be read at about {read:.0%} of its share"
        )
    remedy = "Correct the labels with hpvade.pp.transfer_labels and an anchor"
    if {row.type, row.second} <= _T_AND_NK:
        mapping = {name: kind for kind in sorted(_T_AND_NK) for name in names_of.get(kind, []) if name != kind}
        argument = f", mapping={mapping}" if mapping else ""
        remedy = (
            f"Correct the labels: hpvade.pp.transfer_labels(adata, hpvade.datasets.blood_anchor(), "
            f"labels_key={labels_key!r}, types={sorted(_T_AND_NK)}{argument})"
        )
    return f"{text}: {consequence}. {remedy}."


def limits(
    check: LabelCheck, markers: dict | None, heard: dict[str, list[str]], absent: list[str], *, unread: bool = False
) -> list[str]:
    """What could not be looked at, one sentence each; `unread` when markers were asked for and no label has any."""
    found, classes = [], check.types["class"]
    unknown = {what: [n for n, kind in classes.items() if kind not in known] for what, known in heard.items()}
    if not heard:
        found.append(
            "Without markers and without an anchor, the labels were compared with each other only: a type whose cells "
            "all carry the label of another one, as a cluster that swallows its neighbour, cannot be found."
        )
    if unread:
        found.append(
            "No label reads like a type of blood, so that no markers were used. Where one is, say which with "
            "mapping={'own label': 'CD8 T'}; for another tissue, pass its markers."
        )
    for what, names in unknown.items():
        if names:
            found.append(f"The {what} says nothing of {listed(names, 10)}.")
    if markers is not None and absent:
        found.append(f"Markers that the data lack: {listed(absent, 15)}.")
    if (share := check.flagged.mean()) > 0.5:
        found.append(
            f"{share:.0%} of the cells are flagged: labels, mapping or anchor do not belong to these cells, and the "
            "suggestions say little."
        )
    predicted = np.average(check.types["predicted"], weights=check.types["n_cells"])
    if predicted < 0.5:
        found.append(
            f"The other cells' labels predict {predicted:.0%} of the labels: they do not belong to these cells, or are "
            "finer than the counts can tell. Which cells are wrong cannot be said then."
        )
    agreement = check.types["anchor"].dropna() if "anchor" in check.types else []
    if len(agreement):
        share = np.average(agreement, weights=check.types.loc[agreement.index, "n_cells"])
        if share < 0.5:
            found.append(
                f"The anchor agrees with {share:.0%} of the labels that it knows: labels, mapping or anchor do not "
                "belong to these cells. Correct that first; which cells are wrong cannot be said."
            )
        else:
            few = agreement[(agreement < 0.5) & (check.types.loc[agreement.index, "n_cells"] >= _FEW_CELLS)]
            found += [
                f"The anchor calls {share:.0%} of the cells labelled {name!r} so: the label or the anchor is wrong "
                "about the others. What they would be is in `changes` of hpvade.pp.transfer_labels."
                for name, share in few.items()
            ]
    if len(small := check.types.index[check.types["n_cells"] < _FEW_CELLS]):
        found.append(f"Too few cells to say much of {listed(small, 10)}.")
    return found
