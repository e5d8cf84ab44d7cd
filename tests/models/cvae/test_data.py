"""Registration: names, ids, and what is refused. Rows CV-02, CV-21."""

import numpy as np
import pytest
import torch

import hpvade as hp


def test_names_are_sorted_whatever_the_order_of_the_categories(cells, fit):
    adata = cells(90)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.reorder_categories(["T", "B", "Mono"])
    model = fit(adata)
    assert model.cell_types == ["B", "Mono", "T"]
    table = model.module.cell_type_ids.numpy()
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    assert [model.cell_types[i] for i in table[codes[:3]]] == list(adata.obs["cell_type"][:3])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels_key": "type"}, "labels_key='type'"),
        ({"perturbation_key": "drug"}, "perturbation_key='drug'"),
        ({"experiment_key": "srx"}, "experiment_key='srx'"),
        ({"size_factor_key": "sf"}, "size_factor_key='sf'"),
        ({"layer": "raw"}, "'raw'"),
    ],
)
def test_cv_02_absent_columns_are_refused(cells, unchanged, changes, named):
    adata = cells(45)
    options = {"labels_key": "cell_type", "perturbation_key": "perturbation"} | changes
    with unchanged(adata), pytest.raises(KeyError, match=named):
        hp.ConditionalVAE.setup_anndata(adata, **options)
    with pytest.raises(ValueError, match="set up"):
        hp.ConditionalVAE(adata)


def test_cv_02_labels_of_the_loader_are_those_of_the_columns(trained):
    loader = trained.model._make_data_loader(trained.adata, batch_size=100)
    types, perturbations, experiments = (
        torch.cat(part).numpy() for part in zip(*(trained.model.module.ids(batch) for batch in loader), strict=True)
    )
    for found, key, names in (
        (types, "cell_type", trained.model.cell_types),
        (perturbations, "perturbation", trained.model.perturbations),
        (experiments, "experiment", trained.model.experiments),
    ):
        np.testing.assert_array_equal(np.asarray(names)[found], trained.adata.obs[key].astype(str))


def test_cv_21_setup_refuses_what_it_cannot_use(cells, unchanged):
    def changed(**obs):
        adata = cells(45)
        for name, values in obs.items():
            adata.obs[name] = values
        return adata

    keys = {"perturbation_key": "perturbation"}
    for adata, options, said in (
        (changed(cell_type="B"), keys, "obs\\['cell_type'\\] has 1 cell types"),
        (changed(cell_type=[None, *"B" * 44]), keys, "missing"),
        (changed(sf=[0.0, *np.ones(44)]), keys | {"size_factor_key": "sf"}, "size factors above zero"),
    ):
        with unchanged(adata), pytest.raises(ValueError, match=said):
            hp.ConditionalVAE.setup_anndata(adata, "cell_type", **options)
    for value, said in ((-1.0, "negative"), (np.nan, "NaN")):
        adata = cells(45)
        adata.X[3, 2] = value
        with pytest.raises(ValueError, match=f"{said}.*'cell_3'.*'gene_002'"):
            hp.ConditionalVAE.setup_anndata(adata, "cell_type", **keys)
    adata = cells(45)
    adata.X[3] = 0
    with pytest.raises(ValueError, match="without any count, the first is 'cell_3'"):
        hp.ConditionalVAE.setup_anndata(adata, "cell_type", **keys)


def test_labels_that_are_missing_are_kept_as_the_message_says(cells, fit, unchanged):
    adata = cells(90)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:6, list(adata.obs).index("cell_type")] = [*[np.nan] * 4, "", "None"]
    with unchanged(adata), pytest.raises(ValueError, match="missing .* for 6 of 90 cells") as caught:
        hp.ConditionalVAE.setup_anndata(adata, "cell_type")
    remedy, option = str(caught.value).split("cells of no type: `")[1].split("` and ")
    exec(remedy, {"adata": adata})
    name, value = option.rstrip(".").split("=")
    model = fit(adata, epochs=1, setup={"perturbation_key": None, name: value.strip("'")})
    assert model.cell_types == sorted(set(truth)) and model.predict().isin(model.cell_types).all()


def test_cv_21_other_genes_are_counted_and_named(trained):
    adata = trained.adata[:20].copy()
    adata.var_names = ["x0", "x1", "x2", "x3", *adata.var_names[4:]]
    for method in (trained.model.predict, trained.model.get_latent_representation):
        with pytest.raises(ValueError, match="4 of the 100 genes.*gene_000, gene_001, gene_002"):
            method(adata)


def test_without_perturbations_no_column_is_made_up(cells, fit):
    adata = cells(180)
    del adata.obs["perturbation"]
    columns = list(adata.obs)
    model = fit(adata, epochs=1, setup={"perturbation_key": None})
    made = model.generate(3, labels="B", seed=0)
    assert made.n_obs == 3 and [c for c in made.obs if c in columns] == list(made.obs) == columns
    fuller = model.augment_reference(min_cells=70, seed=0)
    assert (fuller.obs["cell_type"].value_counts() == 70).all()
    assert [c for c in fuller.obs if c != "hpvade_generated"] == columns
    assert model.predict(adata).shape == (180,) and model.get_counterfactual_expression().shape == adata.shape
    for call in (model.perturbation_effects, lambda: hp.tl.evaluate_perturbation(model)):
        with pytest.raises(ValueError, match="without perturbations.*perturbation_key="):
            call()


def test_several_perturbations_must_be_named(trained):
    with pytest.raises(ValueError, match="perturbation is None; expected names out of"):
        trained.model.generate(3, labels="B")
