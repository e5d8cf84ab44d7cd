"""BaseModel: files that give back the same model, and refuse everything else."""

import hashlib
import json
import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import scvi
import torch
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch.distributions import Normal, kl_divergence

import hpvade.models._saving as saving
from hpvade.models._base import BaseModel, VAEMethods, choose_device
from hpvade.models._encoding import decode, encode


class TinyModule(BaseModuleClass):
    def __init__(self, n_genes, n_latent, width):
        super().__init__()
        self.encoder = torch.nn.Linear(n_genes, 2 * n_latent)
        self.decoder = torch.nn.Linear(n_latent, n_genes * width)
        self.tied = self.decoder.weight  # shares memory with another entry of the state
        self.register_buffer("n_seen", torch.tensor(0))

    def _get_inference_input(self, tensors, **kwargs):
        return {"x": tensors["X"]}

    @auto_move_data
    def inference(self, x):
        loc, log_scale = self.encoder(torch.log1p(x)).chunk(2, dim=1)
        qz = Normal(loc, log_scale.exp())
        return {"qz": qz, "z": qz.rsample()}

    def _get_generative_input(self, tensors, inference_outputs, **kwargs):
        return {"z": inference_outputs["z"]}

    @auto_move_data
    def generative(self, z):
        return {"mean": self.decoder(z)}

    def loss(self, tensors, inference_outputs, generative_outputs):
        error = (generative_outputs["mean"] - torch.log1p(tensors["X"])).square().sum(1)
        kl = kl_divergence(inference_outputs["qz"], Normal(0.0, 1.0)).sum(1)
        return LossOutput(loss=(error + kl).mean(), reconstruction_loss=error, kl_local=kl)


class Tiny(VAEMethods, UnsupervisedTrainingMixin, BaseModel):
    def __init__(self, adata=None, registry=None, *, n_latent=3, shift=(0.5, None), width=1):
        super().__init__(adata, registry)
        self.module = TinyModule(self.summary_stats.n_vars, n_latent, width)
        self.gene_means_ = None if adata is None else pd.DataFrame({"mean": adata.X.mean(0)}, index=adata.var_names)
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(cls, adata, labels_key, *, layer=None, **kwargs):
        setup_method_args = cls._get_setup_method_args(**locals())
        fields = [LayerField("X", layer, is_count_data=True), CategoricalObsField("labels", labels_key)]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)


class Other(Tiny):
    pass


@pytest.fixture(scope="module")
def make_adata():
    def make(seed=0):
        rng = np.random.default_rng(seed)
        adata = ad.AnnData(rng.poisson(2.0, (100, 20)).astype(np.float32))
        adata.var_names = [f"g{i}" for i in range(20)]
        adata.obs["type"] = rng.permutation(np.repeat(["B", "NK", "T"], [40, 30, 30]))
        return adata

    return make


@pytest.fixture(scope="module")
def model(make_adata):
    scvi.settings.seed = 1
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    model = Tiny(adata, n_latent=2)
    model.train(2, batch_size=32, check_val_every_n_epoch=1, enable_progress_bar=False, logger=None)
    return model


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def change_json(folder, change, rehash=False):
    """Change model.json; with `rehash` also its hash, as an attacker would."""
    path = folder / "model.json"
    document = json.loads(path.read_text())
    change(document)
    if rehash:
        del document["sha256"]
        document["sha256"] = saving._json_hash(document)
    path.write_text(json.dumps(document))


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2**60,
        0.1,
        float("inf"),
        -0.0,
        "é\ud7ff",
        (1, (2, None)),
        [1, "a", 2.5],
        {"a": {"b": (1,)}},
        {1: "one", (2, 3): "two"},
        {"__type__": "mine"},
        np.float32(0.1),
        np.int64(7),
        np.bool_(True),
        np.str_("x"),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.array([0.1, np.nan, -np.inf], dtype=np.float32),
        np.array(["a", "bb"]),
        np.array(["a", 1, None, 2.5], dtype=object),
        np.array([True, False]),
        np.array(5.0),
        np.zeros((0, 4), dtype=np.uint8),
        np.array([[1, 2], None], dtype=object),
        np.arange(3, dtype=">i4"),
    ],
    ids=repr,
)
def test_encoding_is_exact(value):
    text = json.dumps(encode(value, "value"), allow_nan=False)
    back = decode(json.loads(text))
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and back.shape == value.shape
        np.testing.assert_array_equal(back, value)
    else:
        assert back == value
        assert repr(back) == repr(value)  # -0.0, and the types inside


def test_encoding_of_data_frames_is_exact():
    frame = pd.DataFrame(
        {
            "f": np.array([0.1, np.nan, 2], dtype=np.float32),
            "o": [1, "a", None],
            "c": pd.Categorical(["x", None, "y"], categories=["y", "x"], ordered=True),
            "s": pd.array(["u", None, "v"], dtype="string"),
        },
        index=pd.Index([3, 5, 9], name="epoch"),
    )
    frame = pd.concat([frame, frame[["f"]]], axis=1)  # a name that occurs twice
    back = decode(json.loads(json.dumps(encode(frame, "frame"))))
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize("value", [{1, 2}, object(), torch.zeros(2), 1j, np.array([1j]), {"a": [{3}]}])
def test_encoding_refuses_other_types(value):
    with pytest.raises(TypeError, match="thing.*cannot be saved"):
        encode(value, "thing")


def test_decoding_refuses_unknown_marks():
    for value in ({"__type__": "code", "value": 1}, {"__type__": "ndarray", "dtype": "V8", "shape": [0], "values": []}):
        with pytest.raises(ValueError, match="saved model"):
            decode(value)


# ---------------------------------------------------------------- save and load


def test_load_gives_the_same_model(model, saved, make_adata):
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


def test_untrained_model_and_prefix(make_adata, tmp_path):
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    Tiny(adata).save(tmp_path / "m", prefix="a_")
    Tiny(adata, n_latent=4).save(tmp_path / "m", prefix="b_", overwrite=True)
    assert not Tiny.load(tmp_path / "m", prefix="a_").is_trained_
    assert Tiny.load(tmp_path / "m", prefix="b_").module.decoder.in_features == 4
    with pytest.raises(FileNotFoundError, match=r"\['a_', 'b_'\]"):
        Tiny.load(tmp_path / "m")


def test_number_labels_keep_their_dtype(make_adata, tmp_path):
    adata = make_adata()
    adata.obs["code"] = adata.obs["type"].map({"B": 10, "NK": 2, "T": 30}).to_numpy()
    Tiny.setup_anndata(adata, labels_key="code")
    Tiny(adata).save(tmp_path / "m")
    mapping = Tiny.load_registry(tmp_path / "m")["field_registries"]["labels"]["state_registry"]["categorical_mapping"]
    assert mapping.dtype == np.int64
    assert mapping.tolist() == [2, 10, 30]


def test_anndata_saved_with_the_model(make_adata, tmp_path):
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


def test_attribute_that_cannot_be_saved_is_named(make_adata, tmp_path):
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    model = Tiny(adata)
    model.cache_ = {"S": torch.zeros(2)}
    with pytest.raises(TypeError, match=r"\['cache_'\]\['S'\] is a Tensor"):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- overwriting


def test_existing_path_needs_overwrite(model, saved, tmp_path):
    with pytest.raises(ValueError, match=r"model already exists.*overwrite=True"):
        model.save(saved)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        model.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "x"


def test_overwriting_keeps_other_files(model, saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "plots").mkdir()
    model.save(saved, overwrite=True)
    assert {path.name for path in saved.iterdir()} == {"model.json", "model.safetensors", "notes.txt", "plots"}
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "adata.h5ad"])
def test_files_of_others_are_not_overwritten(model, tmp_path, name):
    (tmp_path / name).write_text('{"format": "theirs"}')
    with pytest.raises(ValueError, match=f"'{name}'.*not overwritten"):
        model.save(tmp_path, overwrite=True, save_anndata=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"format": "theirs"}'


@pytest.mark.parametrize("call", range(4))
def test_crash_while_replacing_leaves_the_earlier_model(model, saved, tmp_path, monkeypatch, call):
    """Two files move out and two move in; the error comes at each of them in turn."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == call + 1:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    other = Tiny(model.adata, n_latent=5)
    with pytest.raises(OSError, match="disk full"):
        other.save(saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no temporary folder is left


def test_crash_while_writing_leaves_the_earlier_model(model, saved, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def failing(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", failing)
    for folder in (saved, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            model.save(folder, overwrite=True, save_anndata=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---------------------------------------------------------------- refused files


def test_absent_files(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        Tiny.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.json"):
        Tiny.load(tmp_path / "empty")
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        Tiny.load(saved)


def test_folder_of_scvi_tools_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"model_state_dict": Payload()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"scvi-tools and contains executable pickle"):
        Tiny.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_foreign_and_newer_json(saved):
    change_json(saved, lambda d: d.update(format="theirs"))
    with pytest.raises(ValueError, match="not written by hpvade"):
        Tiny.load(saved)
    change_json(saved, lambda d: d.update(format="hpvade", format_version=2))
    with pytest.raises(ValueError, match="format version 2.*upgrade"):
        Tiny.load(saved)
    change_json(saved, lambda d: d.update(format_version="x"))
    with pytest.raises(ValueError, match="format version 'x'.*save the model again"):
        Tiny.load(saved)
    (saved / "model.json").write_text("[]")
    with pytest.raises(ValueError, match="not written by hpvade"):
        Tiny.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["attributes"].update(is_trained_=False),
        lambda d: d["registry_"]["setup_args"].update(labels_key="other"),
        lambda d: d["var_names"]["values"].reverse(),
        lambda d: d["tensors"].update(size=1),
        lambda d: d.update(class_name="Other"),
        lambda d: d.update(sha256="0" * 64),
        lambda d: d.pop("sha256"),
        lambda d: d.update(extra=1),
    ],
)
def test_changed_json_is_refused(saved, change):
    change_json(saved, change)
    with pytest.raises(ValueError, match=r"model\.json was changed"):
        Tiny.load(saved)


def test_truncated_json_is_refused(saved):
    data = (saved / "model.json").read_bytes()
    for part in (b"", data[: len(data) // 2], data[:-3], b"\xff" + data):
        (saved / "model.json").write_bytes(part)
        with pytest.raises(ValueError, match="truncated or not JSON"):
            Tiny.load(saved)


@pytest.mark.parametrize("where", [0, 10, -1])  # the length of the header, the header, the last value
def test_changed_tensors_are_refused(saved, where):
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[where] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors was changed"):
        Tiny.load(saved)


def test_truncated_tensors_are_refused(saved):
    data = (saved / "model.safetensors").read_bytes()
    for part in (b"", data[:-1], data + b"\0"):
        (saved / "model.safetensors").write_bytes(part)
        with pytest.raises(ValueError, match=f"{len(part)} bytes, expected {len(data)}"):
            Tiny.load(saved)


def test_tensor_file_that_is_something_else(saved):
    (saved / "model.safetensors").write_bytes(b"x" * 50)
    change = {"size": 50, "sha256": hashlib.sha256(b"x" * 50).hexdigest()}
    change_json(saved, lambda d: d.update(tensors=change), rehash=True)
    with pytest.raises(ValueError, match="not a safetensors file"):
        Tiny.load(saved)


def test_tensors_that_do_not_fit(saved):
    tensors = safetensors.torch.load((saved / "model.safetensors").read_bytes())
    tensors["encoder.weight"], tensors["stranger"] = torch.zeros(2, 2), torch.zeros(1)
    payload = safetensors.torch.save(tensors)
    (saved / "model.safetensors").write_bytes(payload)
    change = {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    change_json(saved, lambda d: d.update(tensors=change), rehash=True)
    with pytest.raises(ValueError, match=r"2 of the tensors .*encoder\.weight: saved \(2, 2\).*stranger: .* absent"):
        Tiny.load(saved)


def test_other_class(saved):
    with pytest.raises(ValueError, match=r"holds a Tiny, not a Other\. Use Tiny\.load"):
        Other.load(saved)
    assert isinstance(Other.load(saved, allowed_classes_names_list=["Tiny"]), Other)


# ---------------------------------------------------------------- genes by name


def test_genes_are_compared_by_name(model, saved, make_adata):
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


def test_methods_that_cannot_work_name_another(model):
    for call, alternative in (
        (lambda: Tiny.convert_legacy_save("a", "b"), "model.save"),
        (model.get_aggregated_posterior, "get_latent_representation"),
        (lambda: model.differential_abundance(sample_key="type"), "get_latent_representation"),
        (model.get_marginal_ll, "get_elbo"),
    ):
        with pytest.raises(NotImplementedError, match=alternative):
            call()
    assert np.isfinite(float(model.get_elbo()))


def test_marginal_ll_where_the_module_has_it(model, monkeypatch):
    monkeypatch.setattr(TinyModule, "marginal_ll", lambda self, tensors, **kwargs: 2.0, raising=False)
    assert model.get_marginal_ll() == 2.0


def test_repr_is_text_and_prints_nothing(model, saved, capsys):
    assert repr(model) == "<Tiny(n_latent=2): trained for 2 epochs; 100 cells x 20 genes, 3 labels>"
    assert repr(Tiny.load(saved)).endswith("3 labels, without data>")
    assert "not trained" in repr(Tiny(model.adata))
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- devices


def test_choose_device(monkeypatch):
    assert choose_device("cpu", "auto") == choose_device("auto", "cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", "auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="this machine has none"):
        choose_device("gpu", "auto")
    with pytest.raises(ValueError, match="unknown"):
        choose_device("warp", "auto")
    with pytest.raises(ValueError, match="contradict"):
        choose_device("cpu", "cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_device("auto", "auto") == torch.device("cuda:0")
    assert choose_device("gpu", 1) == choose_device("auto", "cuda:1") == choose_device("cuda", "1")
    with pytest.raises(ValueError, match="there are 2 GPUs"):
        choose_device("gpu", 2)
