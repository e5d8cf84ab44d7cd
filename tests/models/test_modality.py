"""`setup_anndata(mdata, modality=...)`: a model of one modality of a MuData is the model of that AnnData."""

import anndata as ad
import numpy as np
import pytest
import scvi
from mudata import MuData

import hpvade as hp

FAMILIES = {
    "HPVADE": ({"labels_key": "cell_type", "sample_key": "tissue"}, {"n_hidden": 8, "n_latent": 3}),
    "IVAE": ({"labels_key": "cell_type", "batch_key": "tissue"}, {"n_hidden": 8, "n_latent": 3}),
    "ConditionalVAE": (
        {
            "labels_key": "cell_type",
            "perturbation_key": "condition",
            "experiment_key": "tissue",
            "control_category": "condition_0",
        },
        {"n_latent": 3, "hidden_dims": (8,)},
    ),
    "CycleAE": ({"context_keys": ["condition", "tissue"]}, {"n_latent": 4}),
    "AmbientRegularizedSCVI": ({"batch_key": "tissue"}, {"n_hidden": 8, "n_latent": 3}),
}


def cells() -> ad.AnnData:
    return hp.datasets.planted_contexts(120, 40, n_types=3, seed=0)


def in_mudata(adata: ad.AnnData) -> MuData:
    """The cells in another order, with a second modality; the columns that say most are in the MuData's obs alone."""
    own = adata.obs[["cell_type", "condition", "tissue"]].astype(str)
    rna = adata.copy()
    rna.obs = rna.obs.drop(columns=list(own))
    mdata = MuData({"rna": rna, "protein": ad.AnnData(np.ones((adata.n_obs, 2)), obs=adata.obs[[]])})
    for key in own:
        mdata.obs[key] = own[key].iloc[::-1]  # pandas aligns by name
    return mdata


def fitted(kind, data, options):
    scvi.settings.seed = 0
    model = kind(data, **options)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_modality_gives_the_model_of_its_cells(family, tmp_path):
    kind, (setup, options) = getattr(hp, family), FAMILIES[family]
    adata, mdata = cells(), in_mudata(cells())
    kind.setup_anndata(adata, **setup)
    expected = fitted(kind, adata, options)
    kind.setup_anndata(mdata, **setup, modality="rna")
    model = fitted(kind, mdata, options)
    assert model.adata is mdata["rna"]
    for name, value in expected.module.state_dict().items():
        np.testing.assert_array_equal(model.module.state_dict()[name].numpy(), value.numpy(), err_msg=name)
    model.save(tmp_path / "model", save_anndata=True)
    latent = expected.get_latent_representation()
    fresh = in_mudata(cells())
    for data in (None, fresh, fresh["rna"], False):
        loaded = kind.load(tmp_path / "model", data, accelerator="cpu")
        found = loaded.get_latent_representation(mdata["rna"] if data is False else None)
        np.testing.assert_allclose(found, latent, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refused_setup_leaves_the_mudata_as_it_was(family):
    kind, (setup, _) = getattr(hp, family), FAMILIES[family]
    mdata = in_mudata(cells())
    mdata["rna"].X[0, 0] = -1
    before = list(mdata["rna"].obs), list(mdata["rna"].uns)
    with pytest.raises(ValueError, match="negative|-1"):
        kind.setup_anndata(mdata, **setup, modality="rna")
    assert (list(mdata["rna"].obs), list(mdata["rna"].uns)) == before
    with pytest.raises(TypeError, match=r"MuData of 'rna', 'protein'; expected one of them. Pass modality='rna', or"):
        kind.setup_anndata(mdata, **setup)
    with pytest.raises(ValueError, match="of which 0 were set up; expected one. Run"):
        kind(mdata)


def test_a_model_of_two_modalities_must_be_told_which():
    mdata = MuData({"rna": cells(), "other": cells()})
    for name in ("rna", "other"):
        hp.IVAE.setup_anndata(mdata, labels_key="cell_type", modality=name)
    with pytest.raises(ValueError, match=r"of which 2 were set up; expected one.*pass mdata\['rna'\]"):
        hp.IVAE(mdata)
    assert hp.IVAE(mdata["other"]).adata is mdata["other"]


def test_other_cells_and_files_without_the_modality_are_refused(tmp_path):
    mdata = in_mudata(cells())
    hp.IVAE.setup_anndata(mdata, labels_key="cell_type", modality="rna")
    model = hp.IVAE(mdata, n_hidden=8, n_latent=3)
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"adata is a MuData of 'rna', 'protein'.*Pass mdata\['rna'\]"):
        model.get_elbo(mdata)
    other = MuData({"gex": cells()})
    with pytest.raises(TypeError, match=r"adata is a MuData of 'gex'.*Pass mdata\['gex'\]"):
        hp.IVAE.load(tmp_path / "model", other, accelerator="cpu")
