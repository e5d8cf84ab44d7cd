import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_folder, check_output, check_outputs, complete, read_bulk, write_table
from ._options import (
    LABELS_HELP,
    Accelerator,
    BadSamples,
    BatchKey,
    BulkLayer,
    BulkUnits,
    EpochsOrNone,
    Fractions,
    FractionsOf,
    GenesIn,
    GenesInOption,
    InputType,
    Layer,
    MapGenes,
    Missing,
    MissingGenes,
    NCellsKey,
    Obs,
    OnBadSample,
    SampleKey,
    Seed,
    StudyKey,
)
from ._run import found, tell

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..models.hpvade._model import HPVADE


def deconvolve(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[REF...] BULK",
            help="Labelled single cells (raw counts: h5ad, zarr, 10x folder or h5, table; each of several files is a "
            "study), left out with --model; then bulk samples (counts, CPM, TPM or FPKM: h5ad, zarr, csv, tsv, xlsx, "
            "or the output of featureCounts, salmon, kallisto, RSEM or STAR), genes in any order.",
            show_default=False,
        ),
    ],
    output: Annotated[
        list[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help=".csv: samples x types; .h5ad: BULK with all results in its slots. May be given twice.",
            show_default=False,
        ),
    ],
    labels_key: Annotated[str | None, typer.Option(metavar="KEY", help=LABELS_HELP)] = None,
    obs: Obs = None,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    bulk_layer: BulkLayer = None,
    sample_key: SampleKey = None,
    study_key: StudyKey = None,
    n_cells_key: NCellsKey = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    batch_key: BatchKey = None,
    on_bad_sample: BadSamples = OnBadSample.error,
    fractions: FractionsOf = Fractions.cell,
    intervals: Annotated[
        bool,
        typer.Option("--intervals", help="Also 90 % intervals: OUT.intervals.csv, and obsm of an .h5ad."),
    ] = False,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Also the share that no type of the reference explains (six samples or more)."),
    ] = False,
    variable_types: Annotated[
        list[str] | None,
        typer.Option(
            "--variable-type",
            metavar="NAME",
            help="A type whose cells differ from sample to sample, such as malignant ones: it gets a profile of its "
            "own in each. Repeat it.",
        ),
    ] = None,
    profiles: Annotated[
        Path | None,
        typer.Option(metavar="OUT.h5ad", help="The profiles of --variable-type: (samples, types) x genes."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="PAGE.html", help="Also one page to send, with a verdict, as of `hpvade report`."),
    ] = None,
    epochs: EpochsOrNone = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Use the model of `hpvade train`, or 'blood', the one in the package, instead of training one.",
        ),
    ] = None,
    save_model: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the trained model here.")] = None,
    nnls: Annotated[
        Path | None,
        typer.Option(metavar="NNLS.csv", help="Write non-negative least squares too, for `hpvade evaluate --nnls`."),
    ] = None,
) -> None:
    """Estimate the cell-type proportions of bulk samples.

    Example: `hpvade deconvolve ref.h5ad bulk.tsv -o proportions.csv --labels-key cell_type`

    With a trained model: `hpvade deconvolve bulk.tsv --model model/ -o proportions.csv`

    Blood, without a reference: `hpvade deconvolve quant.tsv --model blood --map-genes --report page.html -o out.csv`

    The CSV has one row per sample: its name in the column "sample", then one column per type. The proportions of a
    sample are fractions of its cells (--fractions rna: of its RNA) and sum to 1; a sample that was skipped has none.
    With --intervals a second CSV beside it has the columns TYPE_lower, TYPE_median and TYPE_upper.
    """
    training = {"--labels-key": labels_key, "--layer": layer, "--sample-key": sample_key, "--epochs": epochs}
    training |= {"--study-key": study_key, "--n-cells-key": n_cells_key}
    training |= {"--save-model": save_model, "--obs": obs}
    _check_usage(files, model, training)
    _check_outputs(output, nnls, report, save_model, profiles)
    if profiles is not None and (not variable_types or batch_key is not None):
        needed = "--variable-type NAME, which is missing" if not variable_types else "one cohort; leave out --batch-key"
        raise UsageError(f"--profiles OUT.h5ad needs {needed}.")
    check_exists(files[-1])
    from .._keys import Keys
    from ..io._names import named  # loads pandas
    from ._fit import fit, load_with_bulk

    if model is None:
        from ..reference._checks import check_order
        from ._references import read_references

        keys = {name: training[name] for name in ("--labels-key", "--sample-key", "--n-cells-key")}
        adata, layer, study_key = read_references(
            files[:-1],
            obs=obs,
            genes_in=genes_in.value,
            map_genes=map_genes,
            layer=layer,
            study_key=study_key,
            keys=keys,
        )
        bulk = read_bulk(files[-1], genes=adata.var_names if map_genes else None, genes_in=genes_in.value)
        check_order(bulk, adata, labels_key, "REF BULK")
        _check_bulk(bulk, adata, bulk_layer, input_type.value, on_bad_sample.value)
        trained = fit(
            adata,
            labels_key=labels_key,
            layer=layer,
            sample_key=sample_key,
            study_key=study_key,
            n_cells_key=n_cells_key,
            epochs=epochs,
            seed=seed,
            accelerator=accelerator,
        )
    else:
        how = {"accelerator": accelerator, "map_genes": map_genes, "genes_in": genes_in.value}
        trained, bulk = load_with_bulk(model, files[0], **how)
    reading = {"layer": bulk_layer, "input_type": input_type.value, "missing": missing.value}
    reading |= {"batch_key": batch_key, "on_bad_sample": on_bad_sample.value}
    answer = reading | {"fractions": fractions.value, "variable_types": variable_types or None}
    proportions = trained.deconvolve(bulk, unknown=unknown, **answer)
    bounds = None
    if intervals or report is not None:
        bounds = add_intervals(bulk, trained, seed=seed, **answer)
    with ExitStack() as stack:
        if report is not None:
            _write_report(bulk, trained, stack.enter_context(complete(report)), reading, seed)
        for path in output:
            partial = stack.enter_context(complete(path))
            if path.suffix.lower() == ".csv":
                write_table(proportions, partial)
                if intervals:
                    write_table(bounds, stack.enter_context(complete(path.with_suffix(".intervals.csv"))))
            else:
                bulk.write_h5ad(partial)
        if nnls is not None:
            write_table(named(bulk.obsm[Keys.nnls(Keys.PROPORTIONS)]), stack.enter_context(complete(nnls)))
        if save_model is not None:
            trained.save(stack.enter_context(complete(save_model)))
        if profiles is not None:
            table = trained.get_variable_profiles(bulk, variable_types, **reading)
            table.write_h5ad(stack.enter_context(complete(profiles)))
    for path in [*output, *([] if report is None else [report])]:
        tell(f"{path}: {len(proportions)} samples x {proportions.shape[1]} types.")
    found(**_numbers(proportions, bounds if intervals else None))


def _check_outputs(
    output: list[Path], nnls: Path | None, report: Path | None, save_model: Path | None, profiles: Path | None
) -> None:
    check_outputs(output, ".csv", ".h5ad")
    if nnls is not None:
        check_output(nnls, ".csv")
    if report is not None:
        check_output(report, ".html", ".htm")
    if profiles is not None:
        check_output(profiles, ".h5ad")
    if save_model is not None:
        check_folder(save_model, overwrite=False)


def add_intervals(bulk: "AnnData", model: "HPVADE", **options) -> "pd.DataFrame":
    """Write the bounds to `bulk`; samples x (type and bound)."""
    from .._keys import Keys
    from ..io._names import writable

    bounds = model.get_proportion_intervals(bulk, **options)
    for bound in ("lower", "upper"):
        bulk.obsm[Keys.bound(Keys.PROPORTIONS, bound)] = writable(bounds.xs(bound, axis=1, level="bound"))
    bounds.columns = [f"{name}_{bound}" for name, bound in bounds.columns]
    return bounds


def _write_report(bulk: "AnnData", model: "HPVADE", page: Path, reading: dict, seed: int) -> None:
    """The verdict on the terminal and in `bulk`, then the page with what is known by now."""
    import matplotlib

    from .._report._report import report
    from ._diagnose import judge

    matplotlib.use("Agg")
    judge(bulk, model, seed=seed, **reading)
    report(bulk, model, page, **reading)


def _numbers(proportions: "pd.DataFrame", bounds: "pd.DataFrame | None") -> dict:
    """Of the JSON object."""
    skipped = proportions.index[proportions.isna().all(axis=1)]
    numbers = {"n_samples": len(proportions), "types": list(proportions), "skipped": list(skipped)}
    return numbers | {"proportions": proportions} | ({} if bounds is None else {"intervals": bounds})


def _check_usage(files: list[Path], model: Path | None, training: dict) -> None:
    """Either a reference to train on or a model, never both."""
    if (len(files) < 2) if model is None else (len(files) != 1):
        raise UsageError(
            f"Got {len(files)} files ({', '.join(map(str, files))}); expected REF BULK, or BULK alone with --model DIR."
        )
    if model is None and training["--labels-key"] is None:
        raise UsageError("--labels-key KEY is missing: the column of REF.obs with the cell types.")
    given = [name for name, value in training.items() if value is not None]
    if model is not None and given:
        raise UsageError(f"{', '.join(given)} belong to training; with --model DIR leave them out.")


def _check_bulk(bulk: "AnnData", adata: "AnnData", layer: str | None, input_type: str, on_bad: str) -> None:
    """Refuse bulk samples that the model would refuse, before minutes of training."""
    from ..io._bulk import read_bulk

    shared = adata.var_names.intersection(bulk.var_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        genes = shared if len(shared) else adata.var_names
        read_bulk(bulk, genes, layer=layer, input_type=input_type, on_bad_sample=on_bad)
