from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_output, complete, read_bulk, write_table
from ._options import Accelerator, BulkLayer, BulkUnits, InputType, MapGenes, Seed

_COLUMNS = ("residual", "percentile", "unexplained", "unknown", "disagreement", "zeros", "flagged", "verdict")


def diagnose(
    bulk: Annotated[
        Path, typer.Argument(metavar="BULK", help="Bulk samples, as for `hpvade deconvolve`.", show_default=False)
    ],
    model: Annotated[Path, typer.Option(metavar="DIR", help="Model of `hpvade train`.", show_default=False)],
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="OUT", help=".csv: one row per sample; .h5ad: BULK with the results."),
    ] = None,
    map_genes: MapGenes = False,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Say whether the composition of bulk samples can be trusted, and what stands in the way.

    Example: `hpvade diagnose bulk.tsv --model model/ -o quality.csv`

    Prints what concerns the cohort, each with a remedy, and the samples to look at. No truth is needed.
    """
    output = output or []
    if len(set(output)) < len(output):
        raise UsageError("-o names one file twice.")
    for path in output:
        check_output(path, ".csv", ".h5ad")
    check_exists(bulk)
    from .._keys import Keys
    from ..tl import diagnose as judge
    from ._fit import load

    trained = load(model, accelerator)
    data = read_bulk(bulk, genes=trained.get_signature_matrix().index if map_genes else None)
    judge(data, trained, layer=bulk_layer, input_type=input_type.value, seed=seed)
    rows = data.obs[[Keys.diagnosis(Keys.DIAGNOSIS, name) for name in _COLUMNS]].set_axis(list(_COLUMNS), axis=1)
    for path in output:
        with complete(path) as partial:
            if path.suffix.lower() == ".csv":
                write_table(rows, partial)
            else:
                data.write_h5ad(partial)
    flagged = rows[rows["flagged"]]
    messages = data.uns[Keys.DIAGNOSIS]["messages"]
    typer.echo(f"{data.n_obs} samples, {len(flagged)} to look at; {len(messages)} remarks on the cohort.")
    for message in messages:
        typer.echo(f"- {message}")
    for name, verdict in flagged["verdict"].items():
        typer.echo(f"- {name}: {verdict}")
    if not len(messages) and not len(flagged):
        typer.echo("No sign of trouble.")
