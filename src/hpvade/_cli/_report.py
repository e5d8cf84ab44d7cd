from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_input, check_output, complete, read_bulk, read_table
from ._options import Accelerator, BulkLayer, BulkUnits, InputType, MapGenes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_TRUTH = "truth"


def report(
    bulk: Annotated[
        Path, typer.Argument(metavar="BULK", help="Bulk samples, as for `hpvade deconvolve`.", show_default=False)
    ],
    model: Annotated[Path, typer.Option(metavar="DIR", help="Model of `hpvade train`.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PAGE.html", help="The page.", show_default=False)],
    truth: Annotated[
        Path | None, typer.Option(metavar="T.csv", help="Measured proportions, samples x types, to compare with.")
    ] = None,
    groupby: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of BULK.obs, or of --samples, with groups to compare.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Table with one row per sample, for --groupby.")
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Heading of the page.")] = "Cell-type composition",
    map_genes: MapGenes = False,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    accelerator: Accelerator = "auto",
) -> None:
    """Write one page with proportions, intervals, a verdict and methods, to be sent to a colleague.

    Example: `hpvade report bulk.tsv --model model/ -o report.html --truth flow.csv`

    The page needs no network. It says first whether the result can be trusted, and why not.
    """
    check_output(output, ".html", ".htm")
    if samples is not None and groupby is None:
        raise UsageError("--samples TABLE serves --groupby KEY, which is missing.")
    check_exists(bulk)
    for path in (truth, samples):
        if path is not None:
            check_input(path)
    import matplotlib

    from .._report._report import report as write
    from ._fit import load

    matplotlib.use("Agg")
    trained = load(model, accelerator)
    data = read_bulk(bulk, genes=trained.get_signature_matrix().index if map_genes else None)
    if samples is not None:
        _join(data, samples, groupby)
    if truth is not None:
        data.obsm[_TRUTH] = _of_samples(read_table(truth), data.obs_names, truth)
    with complete(output) as partial:
        write(
            data,
            trained,
            partial,
            truth_key=None if truth is None else _TRUTH,
            groupby=groupby,
            title=title,
            layer=bulk_layer,
            input_type=input_type.value,
        )
    typer.echo(f"{output}: {data.n_obs} samples x {len(trained.cell_types)} types.")


def _join(data: "AnnData", samples: Path, groupby: str) -> None:
    """Put the column `groupby` of a table of samples into ``data.obs``."""
    from ..io._annotation import match_rows, read_obs

    table = read_obs(samples)
    if groupby not in table:
        raise UsageError(f"{samples} has no column {groupby!r}; its columns are {', '.join(map(str, table.columns))}.")
    wanted, names, _, _ = match_rows(data.obs_names.astype(str), table, samples.name)
    groups = table[groupby].set_axis(names)
    data.obs[groupby] = groups[~groups.index.duplicated()].reindex(wanted).to_numpy()


def _of_samples(table: "pd.DataFrame", names: "pd.Index", path: Path) -> "pd.DataFrame":
    missing = names.difference(table.index)
    if len(missing):
        raise ValueError(f"{path} lacks {len(missing)} of the {len(names)} samples, such as {missing[0]!r}.")
    return table.loc[names]
