"""Which types a bulk leaves open, and which merge of labels would help: read from intervals of types and of sums."""

import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

WIDE = 0.25  # width of an interval from which on a merge is looked for
ABSENT, PRESENT = 0.02, 0.15  # or an interval from nothing to a type nobody would overlook
VERY_WIDE, VERY_PRESENT = 0.4, 0.3  # the same, to be said even where no merge helps
SURER = 0.7  # width of a sum over that of its wider part, at most, for a merge to help
_MAX_OPEN, _N_PARTNERS = 6, 3


def resolution(model, bulk: AnnData, **reading) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Typical intervals of the types of a bulk, merges that would help, and both in words.

    Returns
    -------
    Types x ``lower``, ``upper``, ``width`` (medians over samples) and ``open``; merges x ``first``, ``second``,
    ``lower``, ``upper``, ``width`` of their sum; messages.
    """

    def intervals(mapping: dict[str, str] | None) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is to be said of the bulk was said before
            return typical(model.get_proportion_intervals(bulk, mapping=mapping, **reading).dropna())

    types = intervals(None).loc[list(model.cell_types)]
    absent = (types["lower"] < ABSENT) & (types["upper"] > PRESENT)
    types["open"] = (types["width"] > WIDE) | absent
    wide = types.index[types["open"]]
    wide = list(types.loc[wide, "width"].sort_values(ascending=False, kind="stable").index[:_MAX_OPEN])
    if not wide:
        return types, _merges([]), []
    profile = np.log1p(model.get_signature_matrix(normalize="cpm"))
    sums = of_sums(candidates(wide, profile.corr()), list(types.index), intervals)
    merges = helpful(types, wide, sums)
    return types, merges, messages(types, wide, merges)


def typical(table: pd.DataFrame) -> pd.DataFrame:
    """Median bounds and width over samples of a table samples x (type, bound)."""
    lower, upper = (table.xs(bound, axis=1, level=1) for bound in ("lower", "upper"))
    return pd.DataFrame({"lower": lower.median(), "upper": upper.median(), "width": (upper - lower).median()})


def candidates(wide: Sequence[str], similarity: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of an open type and one of the types most similar to it, each pair once."""
    pairs = [
        tuple(sorted((name, other)))
        for name in wide
        for other in similarity[name].drop(name).nlargest(_N_PARTNERS).index
    ]
    return list(dict.fromkeys(pairs))


def of_sums(
    pairs: Iterable[tuple[str, str]], types: list[str], intervals: Callable[[dict[str, str]], pd.DataFrame]
) -> dict[tuple[str, str], pd.Series]:
    """Typical interval of the sum of each pair; pairs without a type in common are asked for together."""
    left, found = list(pairs), {}
    while left:
        now, taken = [], set()
        for pair in left:
            if not taken & set(pair):
                now.append(pair)
                taken |= set(pair)
        names = {pair: " + ".join(pair) for pair in now}
        table = intervals({name: name for name in types} | {name: names[pair] for pair in now for name in pair})
        found |= {pair: table.loc[names[pair]] for pair in now}
        left = [pair for pair in left if pair not in found]
    return found


def helpful(types: pd.DataFrame, wide: Sequence[str], sums: dict[tuple[str, str], pd.Series]) -> pd.DataFrame:
    """For each open type the sum that is surest beside its wider part, where it is much surer; each pair once."""
    rows = {}
    for name in wide:
        gain = {
            pair: interval["width"] / types.loc[list(pair), "width"].max()
            for pair, interval in sums.items()
            if name in pair
        }
        best = min(gain, key=gain.get, default=None)
        if best is not None and gain[best] <= SURER:
            rows[best] = {"first": best[0], "second": best[1], **sums[best]}
    return _merges(rows.values())


def _merges(rows: Iterable[dict]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["first", "second", "lower", "upper", "width"])


def messages(types: pd.DataFrame, wide: Sequence[str], merges: pd.DataFrame) -> list[str]:
    """One sentence per merge, and one for the open types that no merge helps."""

    def span(row) -> str:
        return f"{row['lower']:.2f} to {row['upper']:.2f}"

    said = [
        f"{row['first']!r} and {row['second']!r} cannot be told apart here: {span(types.loc[row['first']])} and "
        f"{span(types.loc[row['second']])}; together {span(row)}. Report their sum, or merge the two labels."
        for _, row in merges.iterrows()
    ]
    merged = {*merges["first"], *merges["second"]}
    absent = types["lower"] < ABSENT
    loud = (types["width"] > VERY_WIDE) | (absent & (types["upper"] > VERY_PRESENT))
    alone = [f"{name!r} ({span(types.loc[name])})" for name in wide if loud[name] and name not in merged]
    if alone:
        said.append(
            f"This bulk leaves open how much there is of {', '.join(alone)}, and no sum with a similar type is much "
            "surer. Calibrate with samples of measured composition, or take a reference of a similar protocol."
        )
    return said
