"""`hpvade.report`: results, their uncertainty and whether to trust them, on one page."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import pandas as pd
from anndata import AnnData

from .._keys import Keys
from ..tl import diagnose
from ._contents import contents

_BOUNDS = ("lower", "upper")
_PAGE = Path(__file__).parent / "page"


def report(
    bulk: AnnData,
    model,
    path: str | PathLike,
    *,
    truth_key: str | None = None,
    mapping: Mapping[str, str] | None = None,
    groupby: str | None = None,
    key: str = Keys.PROPORTIONS,
    title: str = "Cell-type composition",
    layer: str | None = None,
    input_type: str = "auto",
    missing: str = "mean",
    gene_length_key: str | None = None,
) -> Path:
    """Write one self-contained HTML page about the composition of bulk samples.

    First the verdict of :func:`hpvade.tl.diagnose`, then proportions with their intervals as a table that can be sorted
    and as figures, types that this bulk cannot tell apart, agreement with measured proportions, groups of samples, what
    was read and with which versions, and a paragraph of methods with its references. The page loads nothing from the
    network.

    Parameters
    ----------
    bulk
        Samples x genes, as for :meth:`hpvade.HPVADE.deconvolve`; it is not changed. Proportions of the model's types in
        ``obsm[key]``, their bounds in ``obsm[key + "_lower"]`` and ``"_upper"``, and the results of
        :func:`hpvade.tl.diagnose` are taken from it where they are, and computed where they are not.
    model
        A trained :class:`hpvade.HPVADE` with the default preset.
    path
        The file to write; its name ends in ``.html``.
    truth_key, mapping
        Measured proportions in ``bulk.obsm`` and how types add up to its columns, as in :func:`hpvade.tl.evaluate`.
    groupby
        Column of ``bulk.obs`` whose groups are set side by side; without a test.
    key
        The proportions in ``bulk.obsm``.
    title
        Heading of the page.
    layer, input_type, missing, gene_length_key
        As in :meth:`hpvade.HPVADE.deconvolve`.

    Returns
    -------
    The path.

    Raises
    ------
    KeyError
        `truth_key` or `groupby` does not exist.
    ValueError
        `path` does not end in ``.html``; `groupby` has one group, or as many as samples; the bulk cannot be used; the
        model has ``preset="spec"``.

    Examples
    --------
    >>> import hpvade as hp
    >>> bulk = hp.datasets.pbmc_bulk()
    >>> model = hp.HPVADE.load("pbmc_model/")  # doctest: +SKIP
    >>> hp.report(bulk, model, "report.html", truth_key="proportions")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} cannot be written: expected a name that ends in .html.")
    groups = None if groupby is None else _groups(bulk, groupby)
    if truth_key is not None and truth_key not in bulk.obsm:
        raise KeyError(f"truth_key={truth_key!r} is not in bulk.obsm; found {list(bulk.obsm)}.")
    reading = {"layer": layer, "input_type": input_type, "missing": missing, "gene_length_key": gene_length_key}
    done = _computed(bulk, model, key, reading)
    page = contents(done, model, key=key, truth_key=truth_key, mapping=mapping, groups=groups, title=title)
    path.write_text(_render(page), encoding="utf-8")
    return path


def _groups(bulk: AnnData, groupby: str) -> pd.Series:
    if groupby not in bulk.obs:
        raise KeyError(f"groupby={groupby!r} is not a column of bulk.obs; found {list(bulk.obs)}.")
    groups = bulk.obs[groupby].astype(object).where(bulk.obs[groupby].notna(), "not given").astype(str)
    if not 1 < groups.nunique() < len(groups):
        raise ValueError(
            f"bulk.obs[{groupby!r}] has {groups.nunique()} groups for {len(groups)} samples; expected two at least, "
            "and fewer than samples."
        )
    return groups


def _computed(bulk: AnnData, model, key: str, reading: dict) -> AnnData:
    """A copy of `bulk` with proportions, bounds and diagnosis; what it has already stays."""
    done = bulk.to_memory() if bulk.isbacked else bulk.copy()
    types = set(model.cell_types)
    if key not in done.obsm or not types <= set(done.obsm[key]):
        model.deconvolve(done, key_added=key, **reading)
    bounds = [Keys.bound(key, bound) for bound in _BOUNDS]
    if not all(name in done.obsm and types <= set(done.obsm[name]) for name in bounds):
        intervals = model.get_proportion_intervals(done, **reading)
        for name, bound in zip(bounds, _BOUNDS, strict=True):
            done.obsm[name] = intervals.xs(bound, axis=1, level="bound")
    if Keys.DIAGNOSIS not in done.uns or Keys.diagnosis(Keys.DIAGNOSIS, "verdict") not in done.obs:
        diagnose(done, model, **reading)
    return done


def _render(page: dict) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(page)
