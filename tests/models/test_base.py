"""BaseModel: files that give back the same model, and refuse everything else."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_model import Tiny, make_adata, trained_tiny


@pytest.fixture(scope="module")
def model():
    return trained_tiny()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


# ---------------------------------------------------------------- save and load


def test_load_gives_the_same_model(model, saved):
    assert {path.name for path in saved.iterdir()} == {"model.json", "model.safetensors"}
    adata = make_adata()
    for argument, has_data in ((None, False), (False, False), (adata, True)):
        loaded = Tiny.load(saved, adata=argument)
        assert (loaded.adata is not None) == has_data
        state = loaded.module.state_dict()
        assert state.keys() == model.module.state_dict().keys()
        for name, tensor in model.module.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert torch.equal(tensor, state[name]), name
        assert not loaded.module.training
        assert loaded.is_trained_
        assert loaded.init_params_ == model.init_params_
        assert loaded.init_params_["non_kwargs"]["shift"] == (0.5, None)
        for name in ("train_indices_", "validation_indices_", "test_indices_"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
        assert loaded.history_.keys() == model.history_.keys()
        for name, frame in model.history_.items():
            pd.testing.assert_frame_equal(loaded.history_[name], frame)
        pd.testing.assert_frame_equal(loaded.gene_means_, model.gene_means_)
        labels = loaded.registry["field_registries"]["labels"]["state_registry"]["categorical_mapping"]
        assert labels.tolist() == ["B", "NK", "T"]
        assert loaded.get_var_names().tolist() == model.get_var_names().tolist()
        np.testing.assert_array_equal(
            loaded.get_latent_representation(make_adata()), model.get_latent_representation(), strict=True
        )


def test_same_model_gives_the_same_bytes(model, saved, tmp_path):
    model.save(tmp_path / "again")
    Tiny.load(saved, adata=False).save(tmp_path / "loaded")
    for name in ("model.json", "model.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (saved / name).read_bytes() == (tmp_path / "loaded" / name).read_bytes()
    assert model.run_name_ not in (saved / "model.json").read_text()


def test_untrained_model_and_prefix(tmp_path):
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    Tiny(adata).save(tmp_path / "m", prefix="a_")
    Tiny(adata, n_latent=4).save(tmp_path / "m", prefix="b_", overwrite=True)
    assert not Tiny.load(tmp_path / "m", prefix="a_").is_trained_
    assert Tiny.load(tmp_path / "m", prefix="b_").module.decoder.in_features == 4
    with pytest.raises(FileNotFoundError, match=r"\['a_', 'b_'\]"):
        Tiny.load(tmp_path / "m")


def test_number_labels_keep_their_dtype(tmp_path):
    adata = make_adata()
    adata.obs["code"] = adata.obs["type"].map({"B": 10, "NK": 2, "T": 30}).to_numpy()
    Tiny.setup_anndata(adata, labels_key="code")
    Tiny(adata).save(tmp_path / "m")
    mapping = Tiny.load_registry(tmp_path / "m")["field_registries"]["labels"]["state_registry"]["categorical_mapping"]
    assert mapping.dtype == np.int64
    assert mapping.tolist() == [2, 10, 30]


def test_anndata_saved_with_the_model(tmp_path):
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    model = Tiny(adata)
    model.save(tmp_path / "m", save_anndata=True, compression="gzip")
    np.testing.assert_array_equal(Tiny.load(tmp_path / "m").adata.X, adata.X)
    assert Tiny.load(tmp_path / "m", adata=False).adata is None
    model.save(tmp_path / "m", overwrite=True)  # the data of the earlier model does not stay behind
    assert not (tmp_path / "m" / "adata.h5ad").exists()
    assert Tiny.load(tmp_path / "m").adata is None
    with pytest.raises(ValueError, match="has no AnnData"):
        Tiny.load(tmp_path / "m").save(tmp_path / "n", save_anndata=True)
    assert not (tmp_path / "n").exists()


def test_arguments_that_do_not_apply_are_refused(model, saved, tmp_path):
    for arguments in ({"save_kwargs": {"a": 1}}, {"legacy_mudata_format": True}, {"datamodule": object()}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            model.save(tmp_path / "x", **arguments)
    with pytest.raises(TypeError, match="compression"):
        model.save(tmp_path / "x", compression="gzip")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="backup_url"):
        Tiny.load(saved, backup_url="https://example.org")
    with pytest.raises(TypeError, match="str; expected an AnnData"):
        Tiny.load(saved, adata="cells.h5ad")


def test_attribute_that_cannot_be_saved_is_named(tmp_path):
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    model = Tiny(adata)
    model.cache_ = {"S": torch.zeros(2)}
    with pytest.raises(TypeError, match=r"\['cache_'\]\['S'\] is a Tensor"):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- genes by name


def test_genes_are_compared_by_name(model, saved):
    cases = {
        r"2 of the 20 genes of the model are not in adata\.var_names, for example g0, g1": make_adata()[:, 2:].copy(),
        r"in another order.*adata\[:, model_var_names\]\.copy\(\)": make_adata()[:, ::-1].copy(),
        "with 1 others": ad.concat([make_adata(), ad.AnnData(np.ones((100, 1)), make_adata().obs)], axis=1),
    }
    for message, adata in cases.items():
        columns = list(adata.obs)
        with pytest.raises(ValueError, match=message):
            Tiny.load(saved, adata=adata)
        with pytest.raises(ValueError, match=message):
            model.get_latent_representation(adata)
        assert list(adata.obs) == columns and not adata.uns  # nothing was written
    aligned = make_adata()[:, ::-1][:, Tiny.load(saved, adata=False).get_var_names()].copy()
    np.testing.assert_array_equal(
        Tiny.load(saved, adata=aligned).get_latent_representation(), model.get_latent_representation()
    )


# ---------------------------------------------------------------- inherited methods


def test_registry_views(model, saved, capsys):
    assert Tiny.load_registry(saved)["setup_args"] == {"labels_key": "type", "layer": None}
    Tiny.view_setup_args(saved)
    assert "labels_key" in capsys.readouterr().out
    model.view_registry()
    model.view_anndata_setup()
    assert capsys.readouterr().out.count("Summary Statistics") == 2
    loaded = Tiny.load(saved)
    with pytest.raises(ValueError, match="no AnnData"):
        loaded.view_registry()
    loaded.update_setup_method_args({"layer": "counts"})
    assert loaded.registry["setup_args"]["layer"] == "counts"


def test_repr_is_text_and_prints_nothing(model, saved, capsys):
    assert repr(model) == "<Tiny(n_latent=2): trained for 2 epochs; 100 cells x 20 genes, 3 labels>"
    assert repr(Tiny.load(saved)).endswith("3 labels, without data>")
    assert "not trained" in repr(Tiny(model.adata))
    assert capsys.readouterr().out == ""
