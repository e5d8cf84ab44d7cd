"""The card says what the model's files say, in a header that hubs read."""

import json
import shutil

import pytest
import yaml
from mudata import MuData

import hpvade as hp


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def header(card):
    _, head, text = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_header_is_scvis_and_the_text_is_the_registrys(folder, trained):
    card = hp.HPVADE.write_card(folder, license_info="cc-by-4.0", tissues=["blood"], description="Planted types.")
    head, text = header(card)
    registry = json.loads((folder / "model.json").read_text())["registry_"]
    assert head["license"] == "cc-by-4.0" and head["library_name"] == "hpvade"
    expected = {"model_cls_name:HPVADE", f"scvi_version:{registry['scvi_version']}", "modality:rna", "tissue:blood"}
    assert expected <= set(head["tags"])
    for fact in ("Planted types.", "n_cells: 480", "n_vars: 300", '"labels_key": "cell_type"', "hp.HPVADE.load("):
        assert fact in text
    assert "types: " + ", ".join(trained.model.cell_types) in text


def test_the_metadata_are_those_of_scvis_hub(folder):
    hp.HPVADE.write_card(folder, license_info="mit")
    metadata = json.loads((folder / "_scvi_required_metadata.json").read_text())
    assert metadata["model_cls_name"] == "HPVADE" and metadata["model_parent_module"] == "hpvade"
    names = {"scvi_version", "anndata_version", "model_cls_name", "training_data_url", "model_parent_module"}
    assert set(metadata) == names  # the fields of HubMetadata in scvi-tools 1.4
    pytest.importorskip("huggingface_hub")
    from scvi.hub import HubMetadata

    assert HubMetadata(**metadata).model_cls_name == "HPVADE"


def test_a_folder_with_a_card_still_loads(folder, trained):
    hp.HPVADE.write_card(folder, license_info="mit")
    found = hp.HPVADE.load(folder, accelerator="cpu").deconvolve(trained.bulk.copy())
    assert (found == trained.model.deconvolve(trained.bulk.copy())).all(axis=None)


def ivae(adata):
    hp.IVAE.setup_anndata(adata)
    return hp.IVAE(adata)


def cvae(adata):
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="batch", experiment_key="donor")
    return hp.ConditionalVAE(adata)


def cycleae(adata):
    hp.CycleAE.setup_anndata(adata, ["donor", "batch"])
    return hp.CycleAE(adata, n_latent=4)


def ambient(adata):
    hp.AmbientRegularizedSCVI.setup_anndata(adata, batch_key="batch")
    return hp.AmbientRegularizedSCVI(adata)


def multimodal(adata):
    peaks = adata[:, :50].copy()
    peaks.var_names = [f"peak_{i}" for i in range(50)]
    mdata = MuData({"rna": adata, "atac": peaks})
    mdata.obs["sample"] = adata.obs["donor"]
    hp.RegularizedMultimodalVI.setup_mudata(mdata, batch_key="sample")
    return hp.RegularizedMultimodalVI(mdata, n_latent={"rna": 4, "atac": 2})


@pytest.mark.parametrize("make", [ivae, cvae, cycleae, ambient, multimodal])
def test_every_family_has_a_card(planted, tmp_path, make):
    model = make(planted()[0])
    model.save(tmp_path / "model")
    head, text = header(type(model).write_card(tmp_path / "model", license_info="mit"))
    assert f"model_cls_name:{type(model).__name__}" in head["tags"]
    assert ("n_X_atac: 50" if make is multimodal else "n_cells: 480") in text
    assert f"hp.{type(model).__name__}.load(" in text


def test_what_cannot_be_written(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        hp.HPVADE.write_card(tmp_path / "nowhere", license_info="mit")
    with pytest.raises(TypeError, match="tissue"):
        hp.HPVADE.write_card(folder, license_info="mit", tissue="blood")
    assert not (folder / "README.md").exists()
