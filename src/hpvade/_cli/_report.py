from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import (
    check_exists,
    check_input,
    check_output,
    complete,
    join_samples,
    read_reference,
    read_table,
    rows_of,
)
from ._options import (
    Accelerator,
    BadSamples,
    BatchKey,
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
    OnBadSample,
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
    covariates: Annotated[
        list[str] | None, typer.Option("--covariate", metavar="KEY", help="Compare at equal values of it; repeat it.")
    ] = None,
    paired: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column with subjects: compare within them.")
    ] = None,
    samples: SamplesTable = None,
    checked: Annotated[
        Path | None,
        typer.Option(metavar="REF.h5ad", help="Reference of `hpvade check-labels -o`, whose findings are shown."),
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Heading of the page.")] = "Cell-type composition",
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    batch_key: BatchKey = None,
    on_bad_sample: BadSamples = OnBadSample.error,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Write one page with proportions, intervals, a verdict and methods, to be sent to a colleague.

    Example: `hpvade report bulk.tsv --model model/ -o report.html --truth flow.csv`

    The page needs no network. It says first whether the result can be trusted, and why not.
    """
    check_output(output, ".html", ".htm")
    serving = {"--samples TABLE": samples, "--covariate KEY": covariates or None, "--paired KEY": paired}
    if groupby is None and (given := [name for name, value in serving.items() if value is not None]):
        raise UsageError(f"{given[0]} serves --groupby KEY, which is missing.")
    check_exists(bulk)
    for path in (truth, samples, checked):
        if path is not None:
            check_input(path)
    import matplotlib

    from .._report._report import report as write
    from ._deconvolve import add_intervals
    from ._diagnose import judge
    from ._fit import load_with_bulk

    matplotlib.use("Agg")
    how = {"accelerator": accelerator, "map_genes": map_genes, "genes_in": genes_in.value}
    trained, data = load_with_bulk(model, bulk, **how)
    if samples is not None:
        join_samples(data, samples, [key for key in (groupby, *(covariates or []), paired) if key is not None])
    if groupby is not None and groupby not in data.obs:
        raise UsageError(
            f"{bulk} has no column {groupby!r} for its samples; found {', '.join(data.obs) or 'none'}. Pass --samples "
            "TABLE with it."
        )
    if truth is not None:
        data.obsm[_TRUTH] = rows_of(read_table(truth), data.obs_names, truth)
    reading = {"layer": bulk_layer, "input_type": input_type.value, "missing": missing.value}
    reading |= {"batch_key": batch_key, "on_bad_sample": on_bad_sample.value}
    trained.deconvolve(data, **reading)
    add_intervals(data, trained, seed=seed, **reading)
    judge(data, trained, seed=seed, **reading)
    if covariates or paired:  # taken by the page instead of the plain comparison
        from ..tl import compare_groups

        compare_groups(data, groupby, covariates=covariates or None, paired=paired, seed=seed)
    shown = {} if checked is None else {"reference": read_reference(checked)}
    with complete(output) as partial:
        write(
            data,
            trained,
            partial,
            truth_key=None if truth is None else _TRUTH,
            groupby=groupby,
            title=title,
            **shown,
            **reading,
        )
    found(n_samples=data.n_obs, types=trained.cell_types)
    tell(f"{output}: {data.n_obs} samples x {len(trained.cell_types)} types.")
