from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import UsageError
from ._io import (
    BLOOD,
    as_text,
    check_folder,
    check_input,
    complete,
    read_bulk,
    read_mapping,
    read_table,
    save_figure,
    show,
)
from ._options import (
    BadSamples,
    BulkLayer,
    BulkUnits,
    GenesIn,
    GenesInOption,
    InputType,
    MapGenes,
    Missing,
    MissingGenes,
    OnBadSample,
)
from ._run import found, tell

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

_PREDICTION = "prediction"
_TRUTH = "truth"
_NO_NNLS = (
    "The row nnls is empty, because NNLS needs the expression: pass --bulk BULK --model DIR, or --nnls NNLS.csv, "
    "which `hpvade deconvolve --nnls` writes."
)


def evaluate(
    pred: Annotated[
        Path, typer.Option(metavar="P.csv", help="Predicted proportions, samples x types.", show_default=False)
    ],
    truth: Annotated[
        Path, typer.Option(metavar="T.csv", help="True proportions, samples x columns.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.", show_default=False)
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="M.json",
            help='Truth column of every type, {"CD4 T": "T", "CD8 T": "T"}; by default columns of the same name.',
        ),
    ] = None,
    nnls: Annotated[
        Path | None, typer.Option(metavar="NNLS.csv", help="Proportions by NNLS, for the row nnls of the metrics.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Model whose signatures are written; with --bulk, also for NNLS.")
    ] = None,
    bulk: Annotated[
        Path | None, typer.Option(metavar="BULK", help="Expression of the samples, for NNLS with --model.")
    ] = None,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    on_bad_sample: BadSamples = OnBadSample.error,
) -> None:
    """Score predicted proportions against the truth.

    Example: `hpvade evaluate --pred proportions.csv --truth truth.csv -o evaluation/`

    CSV files hold sample names in the first column, then one column per type; both sides are scaled to sum to 1 over
    the columns they share. Two rows stand beside the prediction: constant, the mean of the truth, and nnls,
    non-negative least squares, which needs --nnls, or --bulk and --model; without them it stays empty.

    DIR receives metrics.csv, per_type_metrics.csv, scatter.png, heatmap.png (prediction minus truth), summary.txt
    and, with --model, signature_matrix.npy (genes x types, counts per cell).
    """
    if bulk is not None and (model is None or nnls is not None):
        raise UsageError("--bulk BULK serves NNLS together with --model DIR, instead of --nnls NNLS.csv.")
    reading = {"input_type": input_type.value, "missing": missing.value, "on_bad_sample": on_bad_sample.value}
    if bulk is None and (map_genes or bulk_layer is not None):
        raise UsageError(f"{'--map-genes' if map_genes else '--bulk-layer'} serves --bulk BULK, which is missing.")
    check_folder(output, overwrite=True)
    if model is not None and str(model) != BLOOD:
        check_input(model, folder=True)
    predicted, measured = read_table(pred), read_table(truth)
    baseline = None if nnls is None else read_table(nnls)
    pairs = None if mapping is None else read_mapping(mapping)
    signature = None
    if model is not None:
        from ._fit import load

        trained = load(model)
        signature = trained.get_signature_matrix()
        if bulk is not None:
            data = read_bulk(bulk, genes=signature.index if map_genes else None, genes_in=genes_in.value)
            baseline = _nnls(trained, data, layer=bulk_layer, **reading)
    samples = _aligned(predicted, measured, baseline, pairs)
    metrics, per_type = _scores(samples, baseline is not None)
    summary = _summary(pred, truth, samples, metrics, per_type, signature)
    with complete(output) as folder:
        folder.mkdir()
        metrics.to_csv(folder / "metrics.csv")
        per_type.to_csv(folder / "per_type_metrics.csv")
        (folder / "summary.txt").write_text(summary, encoding="utf-8")
        if signature is not None:
            import numpy as np

            np.save(folder / "signature_matrix.npy", signature.to_numpy())
        _draw(samples.obsm[_PREDICTION], samples.obsm[_TRUTH], folder)
    found(metrics=metrics, per_type=per_type, n_samples=samples.n_obs)
    show(metrics, f"{samples.n_obs} samples, {samples.obsm[_TRUTH].shape[1]} types")
    if baseline is None:
        tell(_NO_NNLS)
    tell(f"Results are in {output}.")


def _nnls(model, bulk: "AnnData", **reading) -> "pd.DataFrame":
    from .._keys import Keys
    from ..io._names import named

    model.deconvolve(bulk, **reading)
    return named(bulk.obsm[Keys.nnls(Keys.PROPORTIONS)])


def _aligned(
    predicted: "pd.DataFrame", measured: "pd.DataFrame", baseline: "pd.DataFrame | None", mapping: dict | None
) -> "AnnData":
    """Prediction, truth and NNLS in `obsm`, on the same samples and columns; what is left out in `uns`."""
    import anndata as ad

    from .._keys import Keys
    from ..tl import compare

    predicted, measured = compare(predicted, measured, mapping)
    samples = ad.AnnData(obs=predicted.iloc[:, :0], uns=dict(measured.attrs))
    samples.obsm[_PREDICTION], samples.obsm[_TRUTH] = predicted, measured
    if baseline is None:
        # fills the row, which `_scores` empties
        samples.obsm[Keys.nnls(_PREDICTION)] = predicted
        return samples
    missing = measured.index.difference(baseline.index.astype(str))
    if len(missing):
        raise ValueError(f"NNLS lacks {len(missing)} of the {len(measured)} samples, such as {missing[0]!r}.")
    baseline = baseline.set_axis(baseline.index.astype(str)).loc[measured.index]
    samples.obsm[Keys.nnls(_PREDICTION)] = compare(baseline, measured, mapping)[0]
    return samples


def _scores(samples: "AnnData", has_nnls: bool) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The tables of :func:`hpvade.tl.evaluate` and :func:`hpvade.tl.evaluate_per_type`."""
    from ..tl import evaluate, evaluate_per_type

    metrics = evaluate(samples, _TRUTH, prediction_key=_PREDICTION)
    per_type = evaluate_per_type(samples, _TRUTH, prediction_key=_PREDICTION)
    if not has_nnls:
        metrics.loc["nnls"] = float("nan")
        per_type.loc["nnls", per_type.columns != "mean_truth"] = float("nan")
    return metrics, per_type


def _summary(
    pred: Path,
    truth: Path,
    samples: "AnnData",
    metrics: "pd.DataFrame",
    per_type: "pd.DataFrame",
    signature: "pd.DataFrame | None",
) -> str:
    left_out = {"types": samples.uns["left_out_types"], "truth columns": samples.uns["left_out_columns"]}
    lines = [
        f"Prediction {pred}, truth {truth}: {samples.n_obs} samples, {samples.obsm[_TRUTH].shape[1]} types.",
        *(f"Left out are the {what} {', '.join(names)}." for what, names in left_out.items() if names),
        "Both sides are scaled to sum to 1 over the types compared. The row constant is the mean of the truth.",
        *([_NO_NNLS] if metrics.loc["nnls"].isna().all() else []),
        f"\n{as_text(metrics)}\n\n{as_text(per_type)}",
    ]
    if signature is not None:
        lines.append(
            f"\nsignature_matrix.npy: {signature.shape[0]} genes x {signature.shape[1]} types, counts per cell; "
            f"columns {', '.join(map(str, signature.columns))}."
        )
    return "\n".join(lines) + "\n"


def _draw(predicted: "pd.DataFrame", measured: "pd.DataFrame", folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from ..pl import agreement

    save_figure(agreement(predicted, truth=measured), folder / "scatter.png")
    save_figure(_heatmap(predicted - measured), folder / "heatmap.png")


def _heatmap(error: "pd.DataFrame") -> "Figure":
    """Prediction minus truth, samples x types."""
    import matplotlib.pyplot as plt

    n_samples, n_types = error.shape
    named = n_samples <= 60
    size = (2.6 + 0.4 * n_types, 1.6 + min(0.2 * n_samples, 10))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    limit = max(float(error.abs().to_numpy().max()), 1e-6)
    image = ax.imshow(error, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_xticks(range(n_types), error.columns, rotation=45, ha="right", rotation_mode="anchor", fontsize="small")
    ax.set_yticks(range(n_samples) if named else [], error.index if named else [], fontsize="small")
    if not named:
        ax.set_ylabel(f"{n_samples} samples")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, label="prediction minus truth").outline.set_visible(False)
    return figure
