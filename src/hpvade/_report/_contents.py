"""What the page says, as plain values and figures."""

import hashlib
import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._text import listed
from ..evaluation._align import compare
from ..tl import evaluate, evaluate_per_type
from . import _figures as figures
from ._fingerprint import fingerprint
from ._methods import OF_GROUPS, REFERENCES, methods

_WIDE = 0.25  # of an interval; as much as a common type's whole fraction
_ROWS = 256  # of the bulk at a time
_PACKAGES = ("hpvade", "scvi-tools", "torch", "anndata", "numpy")


def contents(
    bulk: AnnData,
    model,
    *,
    key: str,
    truth_key: str | None,
    mapping: Mapping[str, str] | None,
    groups: pd.Series | None,
    comparison: Mapping | None,
    checked: AnnData | None,
    title: str,
) -> dict:
    """Everything the template shows."""
    summary = bulk.uns[Keys.DIAGNOSIS]
    table = bulk.obsm[key].astype(float)
    lower, upper = (bulk.obsm[Keys.bound(key, bound)].astype(float) for bound in ("lower", "upper"))
    flagged = bulk.obs[Keys.diagnosis(Keys.DIAGNOSIS, "flagged")].to_numpy(dtype=bool)
    types = type_rows(table, lower, upper)
    return {
        "title": title,
        "date": date.today().isoformat(),
        "verdict": verdict(flagged, list(map(str, summary["messages"])), types),
        "messages": [str(message) for message in summary["messages"]],
        "types": types,
        "type_names": [str(name) for name in table.columns],
        "samples": sample_rows(table, lower, upper, flagged),
        "reasons": reasons(bulk.obs[Keys.diagnosis(Keys.DIAGNOSIS, "verdict")][flagged]),
        "similar": similar(summary),
        "merges": summary["merges"].to_dict("records") if "merges" in summary else [],
        "composition": figures.composition(table),
        "intervals": figures.intervals(table, lower, upper),
        "truth": None if truth_key is None else agreement(bulk, key, truth_key, mapping),
        "groups": None if groups is None else group_rows(table, groups, comparison),
        "labels": None if checked is None else label_rows(checked),
        "inputs": inputs(bulk, model, summary, bulk.uns.get(key, {})),
        "notes": [str(note) for note in bulk.uns.get(Keys.READ, {}).get("notes", [])],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "methods": methods(bulk, model, summary, bulk.uns.get(key, {}), comparison),
        "references": REFERENCES if comparison is None or "results" not in comparison else REFERENCES + OF_GROUPS,
    }


def verdict(flagged: np.ndarray, messages: list[str], types: list[dict]) -> dict:
    """The answer in one line, and its colour: ``good``, ``care`` or ``stop``."""
    share = flagged.mean()
    wide = [row["name"] for row in types if row["wide"]]
    level = "stop" if share >= 0.5 else "care" if share or messages or wide else "good"
    said = []
    if flagged.any():
        said.append(f"{flagged.sum()} of {len(flagged)} samples are not explained well by the reference.")
    if messages:
        said.append(f"{len(messages)} remark{'s' * (len(messages) > 1)} on the cohort, below.")
    if wide and not any("open how much" in message or "told apart here" in message for message in messages):
        said.append(f"This bulk leaves much open for {listed(wide)}: see the intervals.")
    heads = {
        "good": "No sign of trouble.",
        "care": "Usable with care.",
        "stop": "Do not rely on these numbers before the remarks below are dealt with.",
    }
    return {"level": level, "head": heads[level], "said": said}


def type_rows(table: pd.DataFrame, lower: pd.DataFrame, upper: pd.DataFrame) -> list[dict]:
    """One row per type: mean, mean bounds and the median width of the intervals."""
    rows = []
    for name in table.columns:
        known = name in lower
        width = float((upper[name] - lower[name]).median()) if known else np.nan
        rows.append(
            {
                "name": str(name),
                "mean": float(table[name].mean()),
                "sd": float(table[name].std(ddof=1)) if len(table) > 1 else np.nan,
                "lower": float(lower[name].mean()) if known else np.nan,
                "upper": float(upper[name].mean()) if known else np.nan,
                "width": width,
                "wide": bool(known and width > _WIDE),
                "unsure": bool(known and (lower[name] < 0.005).mean() > 0.5 and width > 0.05),
            }
        )
    return rows


def sample_rows(table, lower, upper, flagged: np.ndarray) -> list[dict]:
    bounds = [frame.reindex(columns=table.columns).to_numpy() for frame in (lower, upper)]
    return [
        {
            "name": str(name),
            "flagged": bool(flagged[i]),
            "cells": list(zip(table.iloc[i].tolist(), bounds[0][i].tolist(), bounds[1][i].tolist(), strict=True)),
        }
        for i, name in enumerate(table.index)
    ]


def reasons(verdicts: pd.Series) -> list[dict]:
    """What is said of samples, each text once with the names of the samples that it is said of, in their order."""
    names: dict[str, list[str]] = {}
    for name, text in verdicts.items():
        names.setdefault(str(text), []).append(str(name))
    return [{"names": of, "text": text} for text, of in names.items()]


def similar(summary: Mapping) -> dict:
    first, second = map(str, summary["most_similar"])
    return {"first": first, "second": second, "cosine": float(summary["max_cosine"])}


def agreement(bulk: AnnData, key: str, truth_key: str, mapping: Mapping[str, str] | None) -> dict:
    """Errors beside NNLS and the constant predictor, and the figure."""
    options = {"prediction_key": key, "mapping": mapping}
    scores = evaluate(bulk, truth_key, **options)
    per_type = evaluate_per_type(bulk, truth_key, **options)
    mapping = mapping or bulk.uns.get(Keys.mapping(truth_key))
    predicted, measured = compare(bulk.obsm[key], bulk.obsm[truth_key], mapping)
    return {
        "scores": frame(scores.rename(index={key: "hpvade"})),
        "per_type": frame(per_type.loc[key] if per_type.index.nlevels > 1 else per_type),
        "figure": figures.agreement(predicted, measured),
        "n": len(measured),
    }


def frame(table: pd.DataFrame) -> dict:
    """A table of numbers for the template."""
    return {
        "head": [str(column) for column in table.columns],
        "rows": [(str(name), row.tolist()) for name, row in zip(table.index, table.to_numpy(float), strict=True)],
    }


def group_rows(table: pd.DataFrame, groups: pd.Series, comparison: Mapping) -> dict:
    """Mean and standard deviation of every type in every group, and how the groups differ."""
    names = list(groups.cat.categories)
    means = {name: table[name].groupby(groups, observed=False).agg(["mean", "std"]) for name in table.columns}
    rows = [(str(name), list(frame.itertuples(index=False, name=None))) for name, frame in means.items()]
    shown = {"names": {name: int((groups == name).sum()) for name in names}, "rows": rows}
    shown |= {"figure": figures.groups(table, groups), "refused": comparison.get("refused"), "tests": None}
    if "results" in comparison:
        results, params = comparison["results"], comparison["params"]
        shown["tests"] = results.to_dict("records")
        shown["reference"], shown["several"] = str(params["reference"]), results["group"].nunique() > 1
        shown["adjusted"] = [str(name) for name in params["adjusted_for"]] + [str(params["paired"])] * bool(
            params["paired"]
        )
        shown["messages"] = [str(message) for message in comparison["messages"]]
        shown["differences"] = figures.differences(results, groups)
    return shown


def label_rows(reference: AnnData) -> dict:
    """What `tl.check_labels` says of the reference."""
    check = reference.uns[Keys.LABEL_CHECK]
    return {
        "findings": [str(text) for text in check["findings"]["text"]],
        "limits": [str(text) for text in check["limits"]],
        "figure": figures.label_check(reference),
    }


def inputs(bulk: AnnData, model, summary: Mapping, provenance: Mapping) -> list[tuple[str, str]]:
    """What was read and used, as pairs of words."""
    rows = [
        ("Samples", str(bulk.n_obs)),
        ("Genes of the bulk", f"{bulk.n_vars:,}"),
        ("Units found", str(summary["input_type"])),
        (
            "Genes of the model found",
            f"{summary['n_genes']:,} of {summary['n_genes'] + summary['n_genes_missing']:,} "
            f"({summary['gene_overlap']:.0%}), with {summary['expression_overlap']:.0%} of the reference's expression",
        ),
        ("Genes in the regression", f"{summary['n_genes_fitted']:,}"),
        ("Distance of the platforms", f"{summary['platform_distance']:.2f} (0.5 to 0.9 is usual)"),
        ("Cell types of the model", f"{len(model.cell_types)}: {listed(model.cell_types, 60)}"),
        ("Level calibrated with measured samples", "yes" if provenance.get("calibrated") else "no"),
        ("Fingerprint of the model (SHA-256)", fingerprint(model)),
    ]
    if "batches" in summary:
        sizes = summary["batches"]["n_samples"]
        cohorts = [f"{name} ({n})" for name, n in zip(sizes.index, sizes, strict=True)]
        rows.insert(1, ("Batches, each solved and judged by itself", f"{len(cohorts)}: {listed(cohorts, 20)}"))
    if bulk.X is not None:  # the counts may be in a layer alone
        rows.append(("Fingerprint of the bulk (SHA-256)", fingerprint_of_bulk(bulk)))
    if "model" in provenance:
        made = f"{provenance['model']}, preset {provenance['preset']}, of hpvade {provenance['hpvade_version']}"
        rows.insert(0, ("Proportions made by", f"{made}; fractions of {provenance['fractions']}s"))
    read, mapped = bulk.uns.get(Keys.READ), bulk.uns.get(Keys.GENE_MAP)
    if read:
        rows.insert(0, ("File", str(read["file"])))
    if mapped:
        rows.append(("Names of genes translated", f"{mapped['species']}; {mapped['share']:.0%} of the model's found"))
    return rows


def fingerprint_of_bulk(bulk: AnnData) -> str:
    """Of the values and names of samples and genes, as float32 so that a file in between changes nothing."""
    digest = hashlib.sha256("\n".join([*map(str, bulk.obs_names), "", *map(str, bulk.var_names)]).encode())
    for start in range(0, bulk.n_obs, _ROWS):
        block = bulk.X[start : start + _ROWS]
        block = block.toarray() if hasattr(block, "toarray") else np.asarray(block)
        digest.update(np.ascontiguousarray(block, dtype=np.float32).tobytes())
    return digest.hexdigest()
