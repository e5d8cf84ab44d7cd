from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_input, check_output, complete, join_samples, read_bulk, read_table, rows_of
from ._options import (
    Accelerator,
    Bulk,
    BulkLayer,
    BulkUnits,
    GenesIn,
    GenesInOption,
    InputType,
    MapGenes,
    Missing,
    MissingGenes,
    Model,
    SamplesTable,
    Seed,
)
from ._run import found, tell

_TRUTH = "truth"


def report(
    bulk: Bulk,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PAGE.html", help="The page.", show_default=False)],
    truth: Annotated[
        Path | None, typer.Option(metavar="T.csv", help="Measured proportions, samples x types, to compare with.")
    ] = None,
    groupby: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of BULK.obs, or of --samples, with groups to compare.")
    ] = None,
    samples: SamplesTable = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Heading of the page.")] = "Cell-type composition",
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    seed: Seed = 0,
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
    from ._diagnose import judge
    from ._fit import load

    matplotlib.use("Agg")
    trained = load(model, accelerator)
    genes = trained.get_signature_matrix().index if map_genes else None
    data = read_bulk(bulk, genes=genes, genes_in=genes_in.value)
    if samples is not None:
        join_samples(data, samples, [groupby])
    if truth is not None:
        data.obsm[_TRUTH] = rows_of(read_table(truth), data.obs_names, truth)
    reading = {"layer": bulk_layer, "input_type": input_type.value, "missing": missing.value}
    judge(data, trained, seed=seed, **reading)
    with complete(output) as partial:
        write(
            data, trained, partial, truth_key=None if truth is None else _TRUTH, groupby=groupby, title=title, **reading
        )
    found(n_samples=data.n_obs, types=trained.cell_types)
    tell(f"{output}: {data.n_obs} samples x {len(trained.cell_types)} types.")
