from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._io import check_exists, check_outputs, complete, read_json, write_table
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
    Seed,
)
from ._run import found, tell, worded

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..models.hpvade._model import HPVADE

_SHIPPED, _NONE = "blood", "none"


def diagnose(
    bulk: Bulk,
    model: Model,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="OUT", help=".csv: one row per sample; .h5ad: BULK with the results."),
    ] = None,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    batch_key: BatchKey = None,
    on_bad_sample: BadSamples = OnBadSample.error,
    markers: Annotated[
        str,
        typer.Option(
            metavar="M.json|blood|none",
            help='Genes of types that MODEL may lack, {"type": ["gene", ...]}; those of blood come with the package.',
        ),
    ] = _SHIPPED,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Say whether the composition of bulk samples can be trusted, and what stands in the way.

    Example: `hpvade diagnose bulk.tsv --model model/ -o quality.csv`

    Prints what concerns the cohort, each with a remedy, and the samples to look at. No truth is needed.
    """
    output = output or []
    check_outputs(output, ".csv", ".h5ad")
    check_exists(bulk)
    asked = _markers(markers)
    from ._fit import load_with_bulk

    how = {"accelerator": accelerator, "map_genes": map_genes, "genes_in": genes_in.value}
    trained, data = load_with_bulk(model, bulk, **how)
    reading = {"layer": bulk_layer, "input_type": input_type.value, "missing": missing.value}
    reading |= {"batch_key": batch_key, "on_bad_sample": on_bad_sample.value}
    rows = judge(data, trained, seed=seed, markers=asked, **reading)
    with ExitStack() as stack:  # all of them, or none
        for path in output:
            partial = stack.enter_context(complete(path))
            write_table(rows, partial) if path.suffix.lower() == ".csv" else data.write_h5ad(partial)


def _markers(given: str) -> str | dict | None:
    """As `tl.diagnose` takes them; a file is none only where there is one of that name."""
    if given in (_SHIPPED, _NONE) and not Path(given).exists():
        return None if given == _NONE else given
    markers = read_json(Path(given))
    if not isinstance(markers, dict) or not all(isinstance(genes, list) for genes in markers.values()):
        raise ValueError(f'{given} holds no markers; expected {{"type": ["gene", ...], ...}}.')
    return markers


def judge(data: "AnnData", model: "HPVADE", **options) -> "pd.DataFrame":
    """The verdict, said and written to `data`; one row per sample."""
    from .._keys import Keys
    from ..tl import diagnose as judge_samples
    from ..tl._diagnose import COLUMNS

    judge_samples(data, model, **options)
    rows = data.obs[[Keys.diagnosis(Keys.DIAGNOSIS, name) for name in COLUMNS]].set_axis(list(COLUMNS), axis=1)
    flagged, messages = rows[rows["flagged"]], [worded(text) for text in data.uns[Keys.DIAGNOSIS]["messages"]]
    tell(f"{data.n_obs} samples, {len(flagged)} to look at; {len(messages)} remarks on the cohort.")
    for message in messages:
        tell(f"- {message}")
    for name, verdict in flagged["verdict"].items():
        tell(f"- {name}: {verdict}")
    if not messages and not len(flagged):
        tell("No sign of trouble.")
    found(messages=messages, flagged=dict(flagged["verdict"].items()), samples=rows)
    return rows
