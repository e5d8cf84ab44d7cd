"""Every public function and model method that takes AnnData, with what its answer must fulfil.

An entry's function takes ``(models, adata, **options)``; a public name that is in no entry and not in `NO_DATA` fails
``test_every_public_function_is_in_the_table``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import anndata as ad
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from property_inputs import TYPES, compare, contents, finite
from scipy import sparse

import hpvade as hp


def some(*values):
    return st.sampled_from(values)


@dataclass
class Call:
    """How to call something, what it writes, and what holds for its answer."""

    run: Callable
    options: dict = field(default_factory=dict)
    writes: tuple = ()
    check: Callable = lambda result, adata, options: None
    nan: bool = False
    needs: str = ""


# ---------------------------------------------------------------- what holds for answers


def rows(result, adata, options):
    """One row per row of the input, by name and in its order; bulk without reads may be skipped on request."""
    table = result[0] if isinstance(result, tuple) else result
    if isinstance(table, pd.DataFrame | pd.Series):
        assert list(table.index.astype(str)) == list(adata.obs_names.astype(str))
    else:
        assert len(table) == adata.n_obs


def shares(table, skipped: bool, total=1.0):
    """Rows between 0 and 1 that sum to one; rows of NaN where samples were to be skipped."""
    values = np.asarray(table, dtype=float)
    empty = np.isnan(values).all(axis=1)
    assert skipped or not empty.any(), "a row of NaN"
    values = values[~empty]
    finite(values, "shares")
    assert (values >= -1e-6).all() and (values <= 1 + 1e-6).all(), "out of [0, 1]"
    np.testing.assert_allclose(values.sum(axis=1), total, atol=1e-5)


def composition(result, adata, options):
    rows(result, adata, options)
    names = [*TYPES, "unknown"] if options.get("unknown") else TYPES
    assert sorted(map(str, result.columns)) == sorted(names)
    shares(result, options["skipped"])


def levels(result, adata, options):
    for table in result.values():
        rows(table, adata, options)
        shares(table, options["skipped"])


def intervals(result, adata, options):
    rows(result, adata, options)
    for name in dict.fromkeys(result.columns.get_level_values(0)):
        part = result[name].to_numpy(dtype=float)
        part = part[~np.isnan(part).all(axis=1)] if options["skipped"] else part
        assert (part[:, 0] <= part[:, -1] + 1e-9).all()
        assert (part >= -1e-9).all() and (part <= 1 + 1e-9).all()


def variable_profiles(result, adata, options):
    """A row per sample and type; counts per million, shares that the sample resolves, and fractions."""
    names = options.get("variable_types", ["B"])
    assert list(result.obs["sample"].astype(str)) == [*adata.obs_names.astype(str)] * len(names)
    assert (result.X >= 0).all() and (result.X <= 1e6 * (1 + 1e-5)).all()
    for values in (result.layers["resolved"], result.obs["proportion"], result.obs["rna_proportion"]):
        assert (np.asarray(values) >= -1e-6).all() and (np.asarray(values) <= 1 + 1e-6).all()


def ambient(result, adata, options):
    assert list(result.index) == list(adata.var_names)
    shares(result.T, skipped=False)


def moved(result, adata, options):
    """Cells of the other contexts, in their order, as counts of the target."""
    target = options.get("target", "condition_1")
    others = adata.obs_names[(adata.obs["condition"].astype(str) != target).to_numpy()]
    assert list(result.obs_names) == list(others) and list(result.var_names) == list(adata.var_names)
    assert (result.obs["condition"].astype(str) == target).all()
    assert (result.X.data >= 0).all() and (result.X.data == np.round(result.X.data)).all()


def with_sorted(result, adata, options):
    """A row more for the new type of every donor; the rows that were there as they were."""
    assert list(result.obs_names[: adata.n_obs].astype(str)) == list(adata.obs_names.astype(str))
    new = result.obs["sorted_profile"].to_numpy(dtype=bool)
    donors = adata.obs[options["sample_key"]].astype(str).nunique() if options.get("sample_key") else 1
    assert new.sum() == donors and (result.obs["cell_type"][new] == "sorted").all()
    assert (result.X.data >= 0).all()


def probabilities(result, adata, options):
    for table in result.values() if isinstance(result, dict) else [result]:
        rows(table, adata, options)
        if isinstance(table, pd.DataFrame):
            shares(table, options["skipped"])


def cell_values(result, adata, options):
    rows(result, adata, options)


def each(check):
    def all_of(result, adata, options):
        for part in result.values():
            check(part, adata, options)

    return all_of


def per_modality(result, adata, options):
    """One row per cell, for one modality or each."""
    each(cell_values)(result if isinstance(result, dict) else {"": result}, adata, options)


READING = {
    "input_type": some(*["auto"] * 4, *["counts"] * 4, "cpm", "tpm", "log2", "log1p", "other"),
    "missing": some("mean", "mean", "zero", "zero", "error", "other"),
    "layer": some(*[None] * 8, "counts", "absent"),
}
BAD = {"on_bad_sample": some("raise", "skip")}
BATCH = {"batch_key": some(*[None] * 4, *["lane"] * 3, "absent")}
VARIABLE = {"variable_types": some(*[None] * 6, ["B"], ["B", "β ☃"], TYPES, [], ["absent"], "B")}
KEYS = some("hpvade_proportions", "a/b", " ", "β", "proportions")

# ---------------------------------------------------------------- bulk


def on_model(name, *args, **fixed):
    return lambda models, adata, **options: getattr(models["hpvade"], name)(adata, *args, **fixed | options)


def copied(function):
    """With ``copy=True``: the input stays, and the copy is the answer."""
    return lambda models, adata, **options: function(models, adata, copy=True, **options)


SOLVE = {
    "reference": st.just("cells"),
    "method": some("nnls", "rlr", "dwls", "music", "hspe", "instaprism", "robust", "other"),
    "genes": some("markers", None, 10, 1, 0, "all"),
    "cell_size": some("pooled", "umi", "epic", None, {"B": 1.0}),
    "fractions": some("cell", "rna"),
    "input_type": READING["input_type"],
    "missing": READING["missing"],
    "bulk_layer": READING["layer"],
    **BAD,
    **BATCH,
}


def solve(models, adata, reference="cells", method="robust", **options):
    fast = {"n_subsamples": 4} if method == "dwls" else {}
    cells = models["cells"] if reference == "cells" else models["hpvade"].get_signature_matrix()
    keys = {"labels_key": "cell_type", "sample_key": "tissue"} if reference == "cells" else {}
    hp.tl.solve(adata, cells, method=method, key_added="hpvade_proportions", device="cpu", **keys, **fast, **options)
    return adata.obsm["hpvade_proportions"]


def solved(result, adata, options):
    assert list(result.index) == list(adata.obs_names) and result.shape[1] == 3
    shares(result, options["skipped"])


def proportions_of(models, adata):
    """A measured composition for the samples, by name."""
    if "proportions" in adata.obsm:
        away = adata.obsm["proportions"] ** 0.6  # the level of types is another one, as calibrate expects
        return away.div(away.sum(axis=1), axis=0)
    truth = np.random.default_rng(0).dirichlet(np.ones(3), adata.n_obs)
    return pd.DataFrame(truth, index=adata.obs_names, columns=TYPES)


def calibrate(models, adata, **options):
    try:
        return models["hpvade"].calibrate(adata, proportions_of(models, adata), **options)
    finally:
        models["hpvade"].remove_calibration()


def map_genes(models, adata, to="symbol", **options):
    """Genes that are counted by number get names that the tables know."""
    adata, known = adata.copy(), models["symbols"]
    adata.var_names = [known.get(name, name) for name in adata.var_names.astype(str)]
    return hp.pp.map_genes(adata, list(known.values()) if to == "genes" else to, **options)


def with_truth(function):
    def run(models, adata, key="proportions", **options):
        adata = adata.copy()
        adata.obsm["hpvade_proportions"] = proportions_of(models, adata)
        return function(adata, key, signature=models["hpvade"].get_signature_matrix(), **options)

    return run


BULK = {
    "HPVADE.deconvolve": Call(
        on_model("deconvolve"),
        READING
        | BAD
        | BATCH
        | {
            "fractions": some("cell", "rna"),
            "refine": st.booleans(),
            "unknown": st.booleans(),
            "baseline": st.booleans(),
            "prior": some("equal", "network", {"B": 1.0}, {"B": 0.5, "T/NK": 0.25, "β ☃": 0.25}, "other"),
            "prior_weight": some(0.0, 0.1, 1e6, -1.0, float("nan")),
            "gene_factor": some("cohort", "cohort", "stored"),
            "key_added": KEYS,
            "batch_size": some(None, 1, 3, 0),
        }
        | VARIABLE,
        ("hpvade", "a/b", " ", "β", "proportions", "_scvi"),
        composition,
    ),
    "HPVADE.deconvolve_hierarchy": Call(
        on_model("deconvolve_hierarchy"),
        READING | {"levels": some(1, 2, 0), "shrink": st.booleans()},
        ("hpvade",),
        levels,
    ),
    "HPVADE.get_proportion_intervals": Call(
        on_model("get_proportion_intervals", n_draws=20),
        READING | BATCH | VARIABLE | {"level": some(0.9, 0.5, 0.999, 0.0, 1.0), "fractions": some("cell", "rna")},
        check=intervals,
    ),
    "HPVADE.get_cell_type_expression": Call(
        on_model("get_cell_type_expression"),
        READING | VARIABLE | {"genes": some(None, ["gene_0001"], ["absent"], [])},
        nan=True,
    ),
    "HPVADE.get_variable_profiles": Call(
        on_model("get_variable_profiles", variable_types=["B"]),
        READING | {"variable_types": some(["B"], ["B"], ["T/NK", "β ☃"], TYPES, [], ["absent"], "B")},
        check=variable_profiles,
    ),
    "HPVADE.get_detection_limits": Call(
        on_model("get_detection_limits", n_spikes=3, spikes=(0.01, 0.1)), READING, nan=True
    ),
    "HPVADE.get_spillover": Call(on_model("get_spillover", n_cohorts=1), READING),
    "HPVADE.get_study_proportions": Call(
        lambda models, adata, **options: models["studies"].get_study_proportions(adata, **options), READING
    ),
    "HPVADE.fit_platform": Call(on_model("fit_platform"), READING, nan=True),
    "HPVADE.calibrate": Call(calibrate, READING, nan=True),
    "HPVADE.evaluate": Call(
        lambda models, adata, **options: models["hpvade"].evaluate(adata, proportions_of(models, adata), **options),
        READING,
        ("hpvade",),
        nan=True,
    ),
    "tl.solve": Call(solve, SOLVE, ("hpvade",), solved),
    "tl.solve of a signature": Call(solve, SOLVE | {"reference": st.just("signature")}, ("hpvade",), solved),
    "tl.diagnose": Call(
        lambda models, adata, **options: hp.tl.diagnose(adata, models["hpvade"], n_simulated=10, **options),
        READING | BAD,
        ("hpvade",),
        nan=True,
    ),
    "tl.evaluate": Call(
        with_truth(lambda adata, key, **o: hp.tl.evaluate(adata, key, **o)),
        {"key": some("proportions", "absent"), "renormalize": st.booleans()},
        ("hpvade",),
        nan=True,
    ),
    "tl.evaluate_per_type": Call(
        with_truth(lambda adata, key, **o: hp.tl.evaluate_per_type(adata, key, **o)),
        {"key": some("proportions", "absent"), "renormalize": st.booleans()},
        ("hpvade",),
        nan=True,
    ),
    "tl.proportions_frame": Call(
        with_truth(lambda adata, key, signature, **o: hp.tl.proportions_frame(adata, **o)), {"long": st.booleans()}
    ),
    "tl.proportions_adata": Call(with_truth(lambda adata, key, signature, **o: hp.tl.proportions_adata(adata, **o))),
    "tl.compare_groups": Call(
        with_truth(lambda adata, key, signature, **o: hp.tl.compare_groups(adata, **{"groupby": "lane"} | o)),
        {"groupby": some("lane", "lane", "absent")},
        nan=True,
    ),
    "pp.map_genes": Call(
        map_genes,
        {
            "to": some("symbol", "symbol", "ensembl", "genes", "other"),
            "duplicates": some("sum", "first", "error", "other"),
        },
        needs="values pass through",
    ),
}
SLOW_BULK = {
    "report": Call(
        lambda models, adata, **options: hp.report(adata, models["hpvade"], models["folder"] / "page.html", **options),
        {"layer": READING["layer"]},
        ("hpvade",),
    )
}

# ---------------------------------------------------------------- cells


def method(family, name, *args, **fixed):
    return lambda models, adata, **options: getattr(models[family], name)(adata, *args, **fixed | options)


def setup(family):
    """Set up, make a model, train for an epoch."""

    def run(models, adata, **options):
        model = models["make"][family](adata, **options)
        model.train(1, accelerator="cpu", enable_progress_bar=False)
        return {name: value for name, value in model.module.state_dict().items() if value.is_floating_point()}

    return run


SCVI = ("_scvi", "hpvade", "X_ivae")  # what scvi registers, and what setups and training say they write
ROW_METHODS = {
    "hpvade": {"get_latent_representation": {}, "get_normalized_expression": {}},
    "ambient": {
        "get_latent_representation": {},
        "get_normalized_expression": {},
        "get_ambient_fraction": {},
        "get_library_size": {},
        "get_latent_library_size": {},
    },
    "multimodal": {
        "get_modality_latents": {},
        "get_latent_library_size": {"modality": some("rna", "atac", None, "absent")},
    },
    "cvae": {
        "get_latent_representation": {"unseen": some("error", "unk")},
        "get_counterfactual_expression": {"perturbation": some("condition_0", "absent", None), "labels": some(*TYPES)},
        "predict": {"soft": st.booleans(), "n_samples": st.just(2), "unseen": some("error", "unk")},
        "predict_cell_type": {"n_samples": st.just(2)},
    },
    "cycleae": {"get_latent_representation": {"head": some("base", "condition", "absent")}},
    "ivae": {
        "get_latent_representation": {},
        "get_latent": {},
        "get_bottleneck_representation": {},
        "get_iembed": {},
        "get_normalized_expression": {"from_bottleneck": st.booleans()},
    },
}
OTHER_METHODS = {
    "hpvade": ["get_elbo", "get_reconstruction_error"],
    "ambient": [
        "get_elbo",
        "get_reconstruction_error",
        "get_clean_reference",
        "get_per_dim_kl",
        "get_per_feature_reconstruction_loss",
    ],
    "multimodal": [
        "get_elbo",
        "get_reconstruction_error",
        "get_ambient_fraction",
        "get_library_size",
        "get_clean_reference",
        "get_latent_representation",
        "get_normalized_expression",
        "get_likelihood_parameters",
        "get_modality_attribution",
        "get_per_dim_kl",
        "get_per_feature_reconstruction_loss",
    ],
    "cvae": ["get_elbo", "get_reconstruction_error", "get_marginal_ll"],
    "cycleae": ["get_reconstruction_error", "get_head_logits", "get_head_influence", "predict_context"],
    "ivae": ["get_elbo", "get_reconstruction_error", "get_embeddings", "get_loadings"],
}
OF_ONE_MODALITY = ["get_library_size", "get_per_feature_reconstruction_loss"]
REFUSED = [
    "get_aggregated_posterior",
    "differential_abundance",
    "get_marginal_ll",
    "ConditionalVAE.get_latent_library_size",
    "ConditionalVAE.get_normalized_expression",
    "CycleAE.get_normalized_expression",
    "IVAE.get_latent_library_size",
]
CLASSES = {
    "hpvade": "HPVADE",
    "ambient": "AmbientRegularizedSCVI",
    "multimodal": "RegularizedMultimodalVI",
    "cvae": "ConditionalVAE",
    "cycleae": "CycleAE",
    "ivae": "IVAE",
}


def load_with(family):
    def run(models, adata):
        return type(models[family]).load(models["saved"][family], adata, accelerator="cpu").is_trained_

    return run


def many(adata, n=16):
    """All genes `n` times, under other names: as many as a function needs."""
    return adata if adata.X is None or n == 1 else twice(many(adata, n // 2))


def add_sorted(models, adata, **options):
    """Cells taken as sums of five cells each, and a type more that is sorted."""
    sums, known = many(adata), many(models["cells"])
    sums = sums.copy()
    sums.obs["n_cells"] = 5
    profiles = known.to_df().groupby(known.obs["cell_type"], observed=True).mean().T
    profiles["sorted"] = profiles["B"] * np.linspace(0.5, 2, len(profiles))
    options = {"rna_content": {"sorted": 1.0, "B": 2.0}} | options
    before = contents(sums)
    try:
        return hp.pp.add_sorted_profiles(sums, profiles, ["sorted"], labels_key="cell_type", **options)
    finally:
        compare(contents(sums), before, (), "pp.add_sorted_profiles")


CELLS = {}
for family, methods in ROW_METHODS.items():
    for name, options in methods.items():
        check = probabilities if name.startswith("predict") else cell_values
        check = per_modality if family == "multimodal" else check
        CELLS[f"{CLASSES[family]}.{name}"] = Call(method(family, name), options, SCVI, check)
for family, names in OTHER_METHODS.items():
    for name in names:
        fixed = {"modality": "rna"} if family == "multimodal" and name in OF_ONE_MODALITY else {}
        CELLS[f"{CLASSES[family]}.{name}"] = Call(method(family, name, **fixed), {}, SCVI)
for family, name in CLASSES.items():
    CELLS[f"{name}.load"] = Call(load_with(family), {}, SCVI)
    CELLS[f"{name}.setup_anndata"] = Call(setup(family), {}, SCVI)
    CELLS[f"{name}.transfer_fields"] = Call(method(family, "transfer_fields"), {}, SCVI, needs="no answer")
    key = "X_rna" if family == "multimodal" else "X"
    CELLS[f"{name}.get_from_registry"] = Call(method(family, "get_from_registry", key), {}, SCVI, nan=True)
    CELLS[f"{name}.get_anndata_manager"] = Call(method(family, "get_anndata_manager"), {}, SCVI, needs="no answer")
CELLS |= {
    "AmbientRegularizedSCVI.load_query_data": Call(
        lambda models, adata: type(models["ambient"]).load_query_data(adata, models["ambient"], accelerator="cpu"),
        {},
        SCVI,
        needs="no answer",
    ),
    "RegularizedMultimodalVI.load_query_data": Call(
        lambda models, adata: type(models["multimodal"]).load_query_data(
            adata, models["multimodal"], accelerator="cpu"
        ),
        {},
        SCVI,
        needs="no answer",
    ),
    "RegularizedMultimodalVI.get_modality_weights": Call(
        method("weighted", "get_modality_weights"), {}, SCVI, lambda *a: (rows(*a), shares(a[0], skipped=False))
    ),
    "RegularizedMultimodalVI.posterior_predictive_sample": Call(
        method("multimodal", "posterior_predictive_sample"), {}, SCVI, needs="no answer"
    ),
    "ConditionalVAE.augment_reference": Call(
        method("cvae", "augment_reference", seed=0, min_cells=5),
        {"min_cells": some(0, 5, 40), "pairs": st.booleans()},
        SCVI,
    ),
    "ConditionalVAE.perturbation_effects": Call(
        method("cvae", "perturbation_effects"), {"min_cells": some(1, 10, 1000)}, SCVI, nan=True
    ),
    "ConditionalVAE.predict_perturbation_effect": Call(
        method("cvae", "predict_perturbation_effect"), {}, SCVI, nan=True
    ),
    "CycleAE.get_counterfactual_expression": Call(
        method("cycleae", "get_counterfactual_expression", context={"condition": "condition_0"}),
        {"context": some({"condition": "condition_1"}, {"condition": "absent"}, {"absent": "x"}, {})},
        SCVI,
        cell_values,
    ),
    "CycleAE.counterfactual": Call(
        method("cycleae", "counterfactual", context={"condition": "condition_0"}),
        {"context": some({"tissue": "tissue_1"}, None)},
        SCVI,
        cell_values,
    ),
    "CycleAE.translate_reference": Call(
        method("cycleae", "translate_reference", to={"condition": "condition_1"}),
        {"to": some({"condition": "condition_1"}, {"condition": "absent"}, {"absent": "x"}, {})},
        SCVI,
    ),
    "AmbientRegularizedSCVI.differential_expression": Call(
        method("ambient", "differential_expression", groupby="cell_type", group1="B"), {}, SCVI, nan=True
    ),
    "RegularizedMultimodalVI.differential_expression": Call(
        method("multimodal", "differential_expression", groupby="cell_type", group1="B", modality="rna"),
        {},
        SCVI,
        nan=True,
    ),
    "ConditionalVAE.differential_expression": Call(
        method("cvae", "differential_expression", groupby="cell_type", group1="B"), {}, SCVI, nan=True
    ),
    "IVAE.differential_expression": Call(
        method("ivae", "differential_expression", groupby="cell_type", group1="B"), {}, SCVI, nan=True
    ),
    "AmbientRegularizedSCVI.get_feature_correlation_matrix": Call(
        method("ambient", "get_feature_correlation_matrix", n_samples=2), {}, SCVI, nan=True
    ),
    "ConditionalVAE.get_feature_correlation_matrix": Call(
        method("cvae", "get_feature_correlation_matrix", n_samples=2), {}, SCVI, nan=True
    ),
    "IVAE.get_feature_correlation_matrix": Call(
        method("ivae", "get_feature_correlation_matrix", n_samples=2), {}, SCVI, nan=True
    ),
    "AmbientRegularizedSCVI.get_likelihood_parameters": Call(method("ambient", "get_likelihood_parameters"), {}, SCVI),
    "ConditionalVAE.get_likelihood_parameters": Call(method("cvae", "get_likelihood_parameters"), {}, SCVI),
    "IVAE.get_likelihood_parameters": Call(method("ivae", "get_likelihood_parameters"), {}, SCVI),
    "AmbientRegularizedSCVI.posterior_predictive_sample": Call(
        method("ambient", "posterior_predictive_sample"), {}, SCVI, needs="no answer"
    ),
    "ConditionalVAE.posterior_predictive_sample": Call(
        method("cvae", "posterior_predictive_sample"), {}, SCVI, needs="no answer"
    ),
    "IVAE.posterior_predictive_sample": Call(
        method("ivae", "posterior_predictive_sample"), {}, SCVI, needs="no answer"
    ),
    "tl.embed": Call(lambda models, adata, **o: hp.tl.embed(adata, models["ivae"], **o), {"copy": st.booleans()}, SCVI),
    "tl.cycleae": Call(
        lambda models, adata, **o: hp.tl.cycleae(adata, models["cycleae"], **o),
        {"copy": st.booleans()},
        ("_scvi", "X_cycleae", "cycleae"),
    ),
    "tl.evaluate_perturbation": Call(
        lambda models, adata, **o: hp.tl.evaluate_perturbation(models["cvae"], adata, **o),
        {"min_cells": some(1, 5, 1000)},
        SCVI,
        nan=True,
    ),
    "tl.evaluate_generation": Call(
        lambda models, adata, **o: hp.tl.evaluate_generation(
            adata, models["cells"], **{"keys": ["cell_type"], "min_cells": 2} | o
        ),
        {"keys": some(None, ["cell_type"], ["absent"], []), "min_cells": some(1, 20)},
        nan=True,
    ),
    "tl.check_labels": Call(
        lambda models, adata, **o: hp.tl.check_labels(adata, "cell_type", **o),
        {
            "markers": some(None, "blood", "other", {"B": {"has": ["gene_0001"], "lacks": ["gene_0002"]}}),
            "layer": READING["layer"],
        },
        ("label_check",),
        nan=True,
    ),
    "pp.transfer_labels": Call(
        lambda models, adata, **o: hp.pp.transfer_labels(
            twice(adata), twice(models["cells"]), labels_key="cell_type", **o
        ),
        {"min_probability": some(0.0, 0.5, 1.0, 2.0), "batch_key": some(None, "tissue", "absent")},
        ("transferred_labels",),
        nan=True,
    ),
    "pp.add_sorted_profiles": Call(
        add_sorted,
        {
            "sample_key": some(None, "tissue", "tissue", "absent"),
            "study_key": some(None, None, "condition", "absent"),
            "rna_content": some({"sorted": 1.0, "B": 2.0}, None, {"sorted": 1.0}, {"sorted": -1.0, "B": 1.0}),
            "mapping": some(None, {"absent": "B"}, {"T/NK": "B"}),
        },
        check=with_sorted,
    ),
    "pp.ambient_profile": Call(
        lambda models, adata, **o: hp.pp.ambient_profile(adata, **{"max_counts": 10**6} | o),
        {
            "max_counts": some(100, 1000, 0, 10**15),
            "batch_key": some(None, "tissue", "cell_type", "absent"),
            "layer": READING["layer"],
        },
        check=ambient,
    ),
    "pp.shift_context": Call(
        lambda models, adata, **o: hp.pp.shift_context(
            adata, "condition", labels_key="cell_type", **{"target": "condition_1"} | o
        ),
        {"target": some("condition_0", "condition_1", "absent", 1), "layer": READING["layer"]},
        check=moved,
    ),
    "pp.summarize": Call(
        lambda models, adata, **o: hp.pp.summarize(adata, "cell_type", **o),
        {"sample_key": some(None, "tissue", "absent"), "layer": READING["layer"]},
    ),
    "pp.simulate_bulk": Call(
        lambda models, adata, **o: hp.pp.simulate_bulk(adata, "cell_type", 3, n_cells=10, seed=0, **o),
        {
            "alpha": some(1.0, 1e-6, 1e6, 0.0),
            "sparse": some(0.0, 0.5, 1.0),
            "sample_key": some(None, "tissue"),
            "layer": READING["layer"],
        },
    ),
    "datasets.plant_ambient": Call(
        lambda models, adata: hp.datasets.plant_ambient(adata, batch_key="tissue", seed=0), nan=True
    ),
    "tl.marker_genes": Call(
        lambda models, adata, **o: hp.tl.marker_genes(adata, "cell_type", **o), {"layer": READING["layer"]}
    ),
    "tl.neighbourhood_correlation": Call(
        lambda models, adata, **o: hp.tl.neighbourhood_correlation(
            with_graph(adata), library_key="tissue", **{"markers": ["gene_0001", "gene_0002"]} | o
        ),
        {"markers": some(["gene_0001", "gene_0002"], ["absent"], []), "layer": READING["layer"]},
        ("connectivities",),
        nan=True,
    ),
    "tl.random_baseline": Call(
        lambda models, adata: hp.tl.random_baseline(
            with_graph(adata), library_key="tissue", markers=["gene_0001", "gene_0002"]
        ),
        {},
        ("connectivities",),
        nan=True,
    ),
}
ATTRIBUTION = (*SCVI, "X_", "rna_decoder_", "atac_decoder_", "log2_atac_vs_rna")  # what attributions are written to
WRITTEN_TO_ONE = (  # methods of the multimodal model that write to an AnnData, of the cells of the model
    "compute_latent_umap",
    "store_attribution_results",
    "compute_attribution_umap",
    "plot_attribution_scatter",
)
SLOW_CELLS = {
    "AmbientRegularizedSCVI.compute_latent_umap": Call(
        method("ambient", "compute_latent_umap"), {}, (*SCVI, "X_umap", "X_")
    ),
    "RegularizedMultimodalVI.compute_latent_umap": Call(
        method("multimodal", "compute_latent_umap"), {}, (*SCVI, "X_umap", "X_")
    ),
    "RegularizedMultimodalVI.store_attribution_results": Call(
        method("multimodal", "store_attribution_results"), {}, ATTRIBUTION, nan=True
    ),
    "RegularizedMultimodalVI.compute_attribution_umap": Call(
        method("multimodal", "compute_attribution_umap"), {}, ATTRIBUTION, nan=True
    ),
    "RegularizedMultimodalVI.plot_modality_attribution": Call(
        method("multimodal", "plot_modality_attribution"), {}, SCVI, needs="no answer"
    ),
    "RegularizedMultimodalVI.plot_attribution_scatter": Call(
        method("multimodal", "plot_attribution_scatter"), {}, SCVI, needs="no answer"
    ),
}


def twice(adata):
    """All genes again under other names, so that they are as many as a function needs."""
    if adata.X is None or not adata.n_vars:
        return adata.copy()
    X = sparse.hstack([adata.X, adata.X], format="csr") if sparse.issparse(adata.X) else np.hstack([adata.X, adata.X])
    names = adata.var_names.astype(str)
    return ad.AnnData(X, obs=adata.obs.copy(), var=pd.DataFrame(index=[*names, *("again " + names)]))


def with_graph(adata):
    """Every cell next to the two that follow, in a copy."""
    adata, n = adata.copy(), adata.n_obs
    graph = np.eye(n, k=1) + np.eye(n, k=2)
    adata.obsp["connectivities"] = sparse.csr_matrix(graph + graph.T)
    return adata


# ---------------------------------------------------------------- tested without data, or elsewhere

NO_DATA = {
    "register_manager": "takes no data of the user; used by every setup",
    "deregister_manager": "forgets an object, test_contract.py",
    "convert_legacy_save": "refused always, test_contract.py",
    "view_anndata_setup": "prints",
    "view_registry": "prints",
    "minify_adata": "refused always, tests/models/ambient/test_contract.py",
    "setup_mudata": "the setup of RegularizedMultimodalVI, as setup_anndata in this table",
    "get_importance_weights": "takes distributions of scvi; test_contract.py of the families",
    "plot_attribution_scatter": "draws what store_attribution_results wrote",
    "fit_chunks": "files, tests/models/cycleae/test_chunk_files.py",
    "datasets.planted_cohort": "makes data",
}
OTHER_FUNCTIONS = {
    "pp.build_context_specs": "files: test_files.py",
    "pp.read_h5_batches": "files: test_files.py",
    "tl.compare": "tables: test_tables.py",
    "tl.layout": "arrays: test_tables.py",
    "tl.stratified_summary": "tables: test_tables.py",
    "tl.summarize_neighbourhoods": "tables: test_tables.py",
}
TABLE = BULK | CELLS
SLOW_TABLE = SLOW_BULK | SLOW_CELLS
