"""Colours that colour-blind readers can tell apart, as far as their number allows."""

from collections.abc import Mapping, Sequence

from anndata import AnnData
from matplotlib.colors import to_rgb
from pandas import CategoricalDtype

# Okabe and Ito (2008) without black: blue, orange, green, vermillion, sky, purple, yellow
BASE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
N_COLOURS = 3 * len(BASE)

Palette = Mapping[str, str] | Sequence[str]


def _mixed(colour: str, target: float, weight: float) -> tuple[float, float, float]:
    return tuple((1 - weight) * channel + weight * target for channel in to_rgb(colour))


def colours(names: Sequence[str], palette: Palette | None = None) -> list:
    """One colour per name; the default gives 21: the base colours, then darker ones, then lighter ones, then again."""
    if isinstance(palette, Mapping):
        missing = [str(name) for name in names if name not in palette]
        if missing:
            raise KeyError(f"The palette has no colour for {', '.join(missing)}.")
        return [palette[name] for name in names]
    if palette is None:
        palette = [*BASE, *(_mixed(c, 0.0, 0.45) for c in BASE), *(_mixed(c, 1.0, 0.6) for c in BASE)]
    return [palette[i % len(palette)] for i in range(len(names))]


def categories(column) -> list[str]:
    """Names of all groups of a column of obs in the order of their colours in uns, also those without a member."""
    if isinstance(column.dtype, CategoricalDtype):
        return [str(name) for name in column.cat.categories]
    return [str(name) for name in sorted(column.dropna().unique())]


def stored_palette(data, key: str, names: Sequence[str], palette: Palette | None) -> Palette | None:
    """`palette`, else the colours of `names` in ``data.uns[f"{key}_colors"]``, where scanpy keeps them, else None.

    As scanpy does, a list that is too short for the names is passed over.
    """
    found = data.uns.get(f"{key}_colors") if palette is None and isinstance(data, AnnData) else palette
    if found is None or isinstance(found, Mapping) or palette is not None:
        return found
    return dict(zip(names, found, strict=False)) if len(found) >= len(names) else None
