"""`hpvade.report`: results, their uncertainty and whether to trust them, on one page."""

import warnings
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

import pandas as pd
from anndata import AnnData

from .._figures._palette import categories
from .._keys import Keys
from ..evaluation._align import table
from ..io._atomic import install_file, partial
from ..tl import compare_groups, diagnose
from ..tl._diagnose import bulk_for
from ._contents import contents

_BATCH = "hpvade_batch"  # in obs of the copy
_BOUNDS = ("lower", "upper")
_NOT_GIVEN = "not given"
_FOREIGN = 0.1  # share of estimates outside of the intervals around them; of a model's own next to none
_ROUNDING = 0.005
_PAGE = Path(__file__).parent / "page"


def report(
    bulk: AnnData,
    model,
    path: str | PathLike,
    *,
    truth_key: str | None = None,
    mapping: Mapping[str, str] | None = None,
    groupby: str | None = None,
    reference: AnnData | None = None,
    key: str = Keys.PROPORTIONS,
    title: str = "Cell-type composition",
    layer: str | None = None,
    input_type: str = "auto",
    missing: str = "mean",
    gene_length_key: str | None = None,
    batch_key: str | None = None,
    on_bad_sample: str = "raise",
) -> Path:
    """Write one self-contained HTML page about the composition of bulk samples.

    First the verdict of :func:`hpvade.tl.diagnose`, then proportions with their intervals as a table that can be sorted
    and as figures, types that this bulk cannot tell apart, agreement with measured proportions, how groups of samples
    differ, whether the labels of the reference hold, what was read and with which versions, and a paragraph of methods
    with its references. The page loads nothing from the network.

    Parameters
    ----------
    bulk
        Samples x genes, as for :meth:`hpvade.HPVADE.deconvolve`, an AnnData or a DataFrame; it is not changed.
        Proportions of the model's types in
        ``obsm[key]``, their bounds in ``obsm[key + "_lower"]`` and ``"_upper"``, and the results of
        :func:`hpvade.tl.diagnose` are taken from it where they are, and computed where they are not.
    model
        A trained :class:`hpvade.HPVADE` with the default preset.
    path
        The file to write, whole or not at all; its name ends in ``.html``.
    truth_key, mapping
        Measured proportions in ``bulk.obsm`` and how types add up to its columns, as in :func:`hpvade.tl.evaluate`.
    groupby
        Column of ``bulk.obs`` whose groups are compared by :func:`hpvade.tl.compare_groups`, with its defaults. A
        comparison of this column that ``bulk.uns["compare_groups"]`` holds already, such as one with covariates or
        pairs, is taken instead. Samples without a group (NaN) are shown and take no part.
    reference
        The labelled cells after :func:`hpvade.tl.check_labels`, whose findings are shown; by default those that the
        model was set up with in this session, if they were checked.
    key
        The proportions in ``bulk.obsm``.
    title
        Heading of the page.
    layer, input_type, missing, gene_length_key, batch_key, on_bad_sample
        As in :meth:`hpvade.HPVADE.deconvolve`. Without `batch_key`, what is computed has the batches with which the
        proportions in `bulk` were made, if they were made in batches.

    Returns
    -------
    The path.

    Raises
    ------
    TypeError
        `bulk` or `model` is something else.
    KeyError
        `truth_key` or `groupby` does not exist; `reference` was not checked.
    ValueError
        `path` does not end in ``.html``; proportions in `bulk` are of another model, or of other options, and have no
        bounds; `groupby` has one group, or as many as samples; the bulk cannot be used; the
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
    bulk = bulk_for(model, bulk)
    groups = None if groupby is None else _groups(bulk, groupby)
    if truth_key is not None and truth_key not in bulk.obsm:
        raise KeyError(f"truth_key={truth_key!r} is not in bulk.obsm; found {list(bulk.obsm)}.")
    reading = {"layer": layer, "input_type": input_type, "missing": missing, "gene_length_key": gene_length_key}
    reading |= {"batch_key": batch_key, "on_bad_sample": on_bad_sample}
    checked = _checked(reference, model)
    done = _computed(bulk, model, key, truth_key, reading)
    page = contents(
        done,
        model,
        key=key,
        truth_key=truth_key,
        mapping=mapping,
        groups=groups,
        comparison=None if groups is None else _comparison(done, groups, groupby, key),
        checked=checked,
        title=title,
    )
    with partial(path) as new:
        new.write_text(_render(page), encoding="utf-8")
        install_file(new, path)
    return path


def _groups(bulk: AnnData, groupby: str) -> pd.Series:
    """The group of every sample as a category, in their order; "not given" comes last."""
    if groupby not in bulk.obs:
        raise KeyError(f"groupby={groupby!r} is not a column of bulk.obs; found {list(bulk.obs)}.")
    column = bulk.obs[groupby]
    levels = [*dict.fromkeys(categories(column.dropna())), _NOT_GIVEN]
    groups = column.astype(object).where(column.notna(), _NOT_GIVEN).map(str)
    if not 1 < groups.nunique() < len(groups):
        raise ValueError(
            f"bulk.obs[{groupby!r}] has {groups.nunique()} groups for {len(groups)} samples; expected two at least, "
            "and fewer than samples."
        )
    return groups.astype(pd.CategoricalDtype([level for level in levels if (groups == level).any()]))


def _comparison(done: AnnData, groups: pd.Series, groupby: str, key: str) -> dict:
    """What `tl.compare_groups` stored of this column, or finds now; why not, where it refuses."""
    stored = done.uns.get(Keys.GROUPS)
    if stored is not None and (stored["params"]["groupby"], stored["params"]["key"]) == (groupby, key):
        return stored
    part = done[(groups != _NOT_GIVEN).to_numpy() & done.obsm[key].notna().all(axis=1).to_numpy()].copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the page shows the messages
            compare_groups(part, groupby, key=key)
    except ValueError as error:  # such as a group of one sample: shown without a test
        return {"refused": str(error)}
    return part.uns[Keys.GROUPS]


def _checked(reference: AnnData | None, model) -> AnnData | None:
    """The reference with the findings of `tl.check_labels`, if there are any."""
    if reference is not None and Keys.LABEL_CHECK not in reference.uns:
        raise KeyError(
            f"reference.uns has no {Keys.LABEL_CHECK!r}: run hpvade.tl.check_labels(reference, labels_key) first."
        )
    own = getattr(model, "adata", None)
    kept = own if isinstance(own, AnnData) and Keys.LABEL_CHECK in own.uns else None
    return kept if reference is None else reference


def _computed(bulk: AnnData, model, key: str, truth_key: str | None, reading: dict) -> AnnData:
    """A copy of `bulk` with proportions, bounds and diagnosis, types by their own names; what it has already stays."""
    done = bulk.to_memory() if bulk.isbacked else bulk.copy()
    _name_types(done, (key, truth_key, *(Keys.bound(key, bound) for bound in _BOUNDS)))
    types = set(model.cell_types)
    if not isinstance(done.obsm.get(key), pd.DataFrame) or not types <= set(done.obsm[key]):
        model.deconvolve(done, key_added=key, **reading)
        _name_types(done, (key,))
    elif reading["batch_key"] is None:
        reading = reading | {"batch_key": _batches_of(done, key)}
    bounds = [Keys.bound(key, bound) for bound in _BOUNDS]
    if not all(name in done.obsm and types <= set(done.obsm[name]) for name in bounds):
        intervals = model.get_proportion_intervals(done, **reading)
        for name, bound in zip(bounds, _BOUNDS, strict=True):
            done.obsm[name] = intervals.xs(bound, axis=1, level="bound")
        _refuse_foreign(done, model.cell_types, key)
    if Keys.DIAGNOSIS not in done.uns or Keys.diagnosis(Keys.DIAGNOSIS, "verdict") not in done.obs:
        diagnose(done, model, **reading)
    return done


def _batches_of(done: AnnData, key: str) -> str | None:
    """Column of `done.obs`, written here, with the batches that the proportions were made in; None for one cohort."""
    made_in = done.uns.get(key, {}).get("batch_of")
    if made_in is None or not done.obs_names.isin(made_in.index).all():  # joined with other samples since
        return None
    done.obs[_BATCH] = made_in["batch"].astype(str).loc[done.obs_names].to_numpy()
    return _BATCH


def _name_types(done: AnnData, keys: Iterable[str | None]) -> None:
    """Give the columns of tables the names that stand for look-alikes, which files need."""
    for key in keys:
        if isinstance(done.obsm.get(key), pd.DataFrame):
            done.obsm[key] = table(done, key)


def _refuse_foreign(done: AnnData, types: list[str], key: str) -> None:
    """ValueError where estimates that the bulk came with are far from what this model answers.

    Intervals and diagnosis are then of another answer, and the page would show both side by side.
    """
    low, high = (done.obsm[Keys.bound(key, bound)][types] for bound in _BOUNDS)
    values = done.obsm[key][types]
    kept = values.notna().all(axis=1)
    outside = ((values < low - _ROUNDING) | (values > high + _ROUNDING))[kept].to_numpy().mean() if kept.any() else 0
    if outside > _FOREIGN:
        raise ValueError(
            f"{outside:.0%} of the proportions in bulk.obsm[{key!r}] lie outside of this model's intervals: another "
            "model made them, or other options. Run model.deconvolve(bulk) again, or put their own bounds into "
            f"bulk.obsm[{Keys.bound(key, 'lower')!r}] and [{Keys.bound(key, 'upper')!r}]."
        )


def _render(page: dict) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(page)
