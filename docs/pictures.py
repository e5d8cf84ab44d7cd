"""Make the pictures of these pages from data that ship with the package: ``python docs/pictures.py``.

``_static/landing.svg``, the same for phones, ``_static/readable_axes.png`` of IVAE's guide, and one thumbnail for every
plot, ``_static/pl/<name>.png``. Committed, so that a build of the pages draws nothing; made anew when a plot changes.
"""

import warnings
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from matplotlib.patches import ConnectionPatch

import hpvade as hp

STATIC = Path(__file__).parent / "_static"
GREY = "#707070"  # read on white and on black
COLOURS = dict(
    zip(
        ["B", "CD4 T", "CD8 T", "DC", "Mono", "NK", "Plasma cells", "Platelet"],
        ["#4C78A8", "#F58518", "#E8B04A", "#B279A2", "#54A24B", "#D8574F", "#9D755D", "#9AA3AD"],
        strict=True,
    )
)
MEASURED = {"B": "#4C78A8", "T": "#F58518", "Mono": "#54A24B", "NK": "#D8574F", "DC": "#B279A2"}


def blood() -> tuple[anndata.AnnData, hp.HPVADE]:
    """Shipped samples, deconvolved by the shipped model."""
    bulk, model = hp.datasets.pbmc_bulk(), hp.HPVADE.load(hp.datasets.blood_model(), accelerator="cpu")
    model.deconvolve(bulk)
    return bulk, model


def landing(bulk: anndata.AnnData, model: hp.HPVADE, *, tall: bool = False) -> None:
    """Cells with labels, fractions of eight real samples, and the same beside flow cytometry; `tall` for phones."""
    style = {"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "hpvade", "text.color": GREY}
    style |= {f"{name}.color": GREY for name in ("xtick", "ytick")}
    with plt.rc_context(style | {"axes.labelcolor": GREY, "axes.edgecolor": GREY, "axes.titlesize": 10}):
        sizes = {"height_ratios": (1, 1, 1.2)} if tall else {"width_ratios": (1.05, 1.3, 1.15)}
        size, shape = ((4.2, 9.6), (3, 1)) if tall else ((10.4, 3.5), (1, 3))
        fig, (cells, bars, points) = plt.subplots(*shape, figsize=size, **sizes, layout="constrained")
        fig.get_layout_engine().set(**{"hspace": 0.06} if tall else {"wspace": 0.16})
        adata = hp.datasets.pbmc_reference()
        labels = adata.obs["cell_type"].to_numpy().astype(str)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=1500)
        sc.tl.pca(adata, n_comps=20, random_state=0)
        sc.tl.tsne(adata, n_pcs=20, random_state=0)
        for name in np.unique(labels):
            at = adata.obsm["X_tsne"][labels == name]
            few = at[np.random.default_rng(0).permutation(len(at))[:250]]
            cells.scatter(*few.T, s=3, lw=0, color=COLOURS[name], rasterized=True)
            cells.annotate(name, np.median(at, axis=0), ha="center", va="center", weight="bold", color="#303030",
                           bbox={"boxstyle": "round,pad=0.15", "fc": "#FFFFFFC0", "lw": 0})  # fmt: skip
        cells.set(xticks=[], yticks=[], title="Single cells with labels")
        cells.spines[:].set_visible(False)

        table = bulk.obsm["hpvade_proportions"]
        left = np.zeros(len(table))
        for name in table.columns:
            bars.barh(np.arange(len(table)), table[name], left=left, color=COLOURS[name], height=0.8)
            left += table[name].to_numpy()
        bars.set(yticks=np.arange(len(table)), xlim=(0, 1), title="Fractions of cells in 8 bulk samples")
        bars.set_yticklabels(table.index, fontsize=7)
        bars.invert_yaxis()
        bars.spines[["top", "right", "left"]].set_visible(False)

        mapping, truth = bulk.uns["proportions_mapping"], bulk.obsm["proportions"]
        bounds = model.get_proportion_intervals(bulk, mapping=mapping)
        top = 0.0
        for name in truth.columns:
            own, x = bounds[name], truth[name]
            error = np.abs(own[["lower", "upper"]].sub(own["median"], axis=0).to_numpy().T)
            points.errorbar(x, own["median"], yerr=error, fmt="o", ms=4, lw=0.6, color=MEASURED[name], label=name)
            top = max(top, own["upper"].max(), x.max())
        points.plot([0, top], [0, top], color=GREY, lw=0.8, ls=":")
        scores = hp.tl.evaluate(bulk, truth_key="proportions")["rmse"]
        rows = {
            "hpvade": scores["hpvade_proportions"],
            "constant": scores["constant"],
            "NNLS, same signature": scores["nnls"],
        }
        points.text(0.97, 0.03, "RMSE\n" + "\n".join(f"{k} {v:.3f}" for k, v in rows.items()), fontsize=8,
                    transform=points.transAxes, ha="right")  # fmt: skip
        points.set(xlabel="flow cytometry", ylabel="estimated, 90 % interval", title="Beside what was measured")
        points.legend(frameon=False, fontsize=8, loc="upper left", handletextpad=0.1)
        points.spines[["top", "right"]].set_visible(False)
        for a, b in () if tall else ((cells, bars), (bars, points)):
            fig.add_artist(ConnectionPatch((1.01, 1.06), (-0.1 if b is bars else -0.14, 1.06), a.transAxes, b.transAxes,
                                           arrowstyle="-|>", color=GREY, lw=1.2))  # fmt: skip
        name = "landing_tall.svg" if tall else "landing.svg"
        fig.savefig(STATIC / name, transparent=True, dpi=250, metadata={"Date": None})
        plt.close(fig)


def readable_axes() -> None:
    """The same cells on the two axes of IVAE, on two principal components, and in UMAP of ten."""
    adata = hp.datasets.pbmc_reference()
    logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(logged, n_top_genes=1000)
    kept = logged.var["highly_variable"].to_numpy()
    adata, logged = adata[:, kept].copy(), logged[:, kept].copy()
    scvi.settings.seed = 0
    hp.IVAE.setup_anndata(adata)
    hp.IVAE(adata).train(accelerator="cpu", enable_progress_bar=False)
    sc.pp.pca(logged, n_comps=10, mask_var=None, random_state=0)
    sc.pp.neighbors(logged, random_state=0)
    sc.tl.umap(logged, random_state=0)
    shown = {
        "IVAE: two axes": adata.obsm["X_ivae_bottleneck"],
        "PCA: two components": logged.obsm["X_pca"][:, :2],
        "UMAP of ten components": logged.obsm["X_umap"],
    }
    labels = adata.obs["cell_type"].to_numpy().astype(str)
    fig, axes = plt.subplots(1, 3, figsize=(10.4, 3.6), layout="constrained")
    for ax, (title, at) in zip(axes, shown.items(), strict=True):
        for name in np.unique(labels):
            ax.scatter(*at[labels == name].T, s=4, lw=0, color=COLOURS[name], label=name)
        ax.set(title=title, xticks=[], yticks=[], xlabel="axis 1", ylabel="axis 2")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, markerscale=3, frameon=False)
    fig.savefig(STATIC / "readable_axes.png", dpi=100, pil_kwargs={"optimize": True}, metadata={"Software": None})
    plt.close(fig)


def thumbnails(bulk: anndata.AnnData, model: hp.HPVADE) -> dict:
    """A small example of every plot: its name, and what draws it."""
    rng = np.random.default_rng(0)
    mapping = bulk.uns["proportions_mapping"]
    bounds = model.get_proportion_intervals(bulk, mapping=mapping)
    hp.tl.diagnose(bulk, model)
    shares = np.where(np.arange(24)[:, None] < 12, [60, 25, 12, 6, 3], [60, 25, 12, 15, 3])  # NK doubles
    made = np.vstack([rng.dirichlet(row) for row in shares])
    cohort = anndata.AnnData(
        obs=pd.DataFrame({"condition": np.repeat(["well", "ill"], 12)}, [f"s{i}" for i in range(24)])
    )
    cohort.obsm["hpvade_proportions"] = pd.DataFrame(made, cohort.obs_names, ["CD4 T", "Mono", "B", "NK", "DC"])
    hp.tl.compare_groups(cohort, "condition")
    adata = hp.datasets.pbmc_reference()
    hp.tl.check_labels(adata, "cell_type")
    markers = model.get_signature_matrix()
    names = ["MS4A1", "CD3D", "CD8A", "NKG7", "LYZ", "CD14", "PPBP", "FCER1A"]
    planted, _ = hp.datasets.planted_cohort(n_types=4, seed=0)
    logs = np.log1p(planted.X.toarray() if hasattr(planted.X, "toarray") else planted.X)
    planted.obsm["X_ivae_bottleneck"] = sc.pp.pca(logs, n_comps=2)
    axes = pd.DataFrame(rng.normal(size=(8, 2)), names, ["bottleneck_0", "bottleneck_1"])
    fields = pd.MultiIndex.from_tuples([("sex", "f"), ("sex", "m")], names=["field", "category"])
    effect = rng.normal(size=len(names))
    groups = planted.obs[["cell_type"]].assign(perturbation=rng.choice(["control", "drug"], planted.n_obs))
    steps = np.arange(40)
    curves = {key: pd.DataFrame({key: base + np.exp(-steps / 9) + 0.02 * rng.normal(size=40)})
              for key, base in (("train_loss_epoch", 1.0), ("validation_loss", 1.1))}  # fmt: skip
    influence = pd.DataFrame({"mean": [9, 3, 2], "min": [8, 2, 1], "max": [10, 4, 3]}, ["base", "tissue", "sex"])
    table = pd.DataFrame(rng.gamma(1.0, size=(2, 8)), index=["atac", "rna"])
    blocks = {"atac": (0, 4), "rna": (4, 8)}
    parts = np.exp(planted.obsm["X_ivae_bottleneck"] / 5)
    planted.obs[["rna_decoder_total_attr", "atac_decoder_total_attr"]] = parts
    planted.obs["log2_rna_vs_atac_attr"] = np.log2(parts[:, 0] / parts[:, 1])
    return {
        "proportions": lambda: hp.pl.proportions(bulk),
        "groups": lambda: hp.pl.groups(cohort),
        "agreement": lambda: hp.pl.agreement(bulk, truth_key="proportions", ncols=3),
        "intervals": lambda: hp.pl.intervals(bounds, truth=bulk.obsm["proportions"]),
        "diagnostics": lambda: hp.pl.diagnostics(bulk),
        "label_check": lambda: hp.pl.label_check(adata),
        "signatures": lambda: hp.pl.signatures(markers, n_genes=3),
        "embedding": lambda: hp.pl.embedding(planted, color="cell_type"),
        "loadings": lambda: hp.pl.loadings(axes, n_genes=6),
        "training_history": lambda: hp.pl.training_history(curves),
        "head_influence": lambda: hp.pl.head_influence(influence),
        "context_effects": lambda: hp.pl.context_effects(pd.DataFrame([effect, -effect], fields, names), "sex"),
        "latent_space": lambda: hp.pl.latent_space(logs[:, :10], groups),
        "modality_attribution": lambda: hp.pl.modality_attribution(table, blocks),
        "attribution_scatter": lambda: hp.pl.attribution_scatter(planted, ["rna", "atac"], basis="X_ivae_bottleneck"),
    }


def save(figure, path: Path) -> None:
    """Save what a plot returned, 480 pixels wide."""
    figure = figure if hasattr(figure, "savefig") else np.ravel(figure)[0].figure
    figure.savefig(path, dpi=480 / figure.get_figwidth(), pil_kwargs={"optimize": True}, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    shipped, shipped_model = blood()
    landing(shipped, shipped_model)
    landing(shipped, shipped_model, tall=True)
    readable_axes()
    (STATIC / "pl").mkdir(exist_ok=True)
    for plot, draw in thumbnails(shipped, shipped_model).items():
        save(draw(), STATIC / "pl" / f"{plot}.png")
