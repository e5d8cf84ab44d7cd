"""Rows CV-08, CV-12, CV-13, CV-14, CV-21 on the command line."""

import json

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import hpvade as hp
from hpvade.nn.cvae import load_trained_model

SMALL = ["--latent-dim", 4, "--hidden-dims", 16, 8, "--batch-size", 64, "--device", "cpu"]
TRAINED = {"best_model.pt", "checkpoint_epoch_10.pt", "config.json", "vocabularies.json", "tensorboard"}


def cells(n=180, n_genes=30):
    rng = np.random.default_rng(0)
    k, p, e = np.arange(n) % 3, np.arange(n) // 3 % 3, np.arange(n) // 90
    mean = np.exp(rng.normal(0, 1, (3, n_genes))[k] + rng.normal(0, 0.5, (3, n_genes))[p])
    obs = {
        "cell_type": np.array(["B", "Mono", "T"])[k],
        "perturbation": np.array(["control", "drug_a", "drug_b"])[p],
        "SRX_accession": np.array(["SRX1", "SRX2"])[e],
    }
    counts = rng.poisson(20 * mean / mean.mean(axis=1, keepdims=True)).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]))
    adata.var_names = [f"gene_{g:02d}" for g in range(n_genes)]
    return adata


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of two batches, and the same cells as h5ad."""
    folder = tmp_path_factory.mktemp("cvae")
    adata = cells()
    adata.write_h5ad(folder / "cells.h5ad")
    (folder / "batches").mkdir()
    for i, part in enumerate((adata[:100], adata[100:])):
        with h5py.File(folder / "batches" / f"batch_{i}.h5", "w") as file:
            file["X"], file["genes"], file["cells"] = part.X.toarray(), list(part.var_names), list(part.obs_names)
            file["obs/umi_count"] = part.X.toarray().sum(axis=1)
            for name in part.obs:
                file[f"obs/{name}"] = list(part.obs[name])
    (folder / "hvg.txt").write_text("\n".join(adata.var_names[4:24][::-1]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(data):
    """Folder that `hpvade cvae train` wrote from the batches."""
    from typer.testing import CliRunner

    from hpvade._cli import app

    arguments = [
        "cvae",
        "train",
        "--data-dir",
        data / "batches",
        "--output-dir",
        data / "run",
        "--n-epochs",
        12,
        *SMALL,
    ]
    arguments += ["--learning-rate", 0.02]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return data / "run"


def test_cv_08_train_writes_every_file(trained, data):
    assert {path.name for path in trained.iterdir()} == TRAINED | {"provenance.json"}
    vocabularies = json.loads((trained / "vocabularies.json").read_text())
    assert vocabularies == {
        "cell_type": {"B": 0, "Mono": 1, "T": 2, "<UNK>": 3},
        "perturbation": {"control": 0, "drug_a": 1, "drug_b": 2, "<UNK>": 3},
        "srx_accession": {"SRX1": 0, "SRX2": 1, "<UNK>": 2},
    }
    config = json.loads((trained / "config.json").read_text())
    assert (config["input_dim"], config["latent_dim"], config["hidden_dims"]) == (30, 4, [16, 8])
    assert [config[f"n_{name}"] for name in ("cell_types", "perturbations", "experiments")] == [4, 4, 3]
    for name in ("best_model.pt", "checkpoint_epoch_10.pt"):
        document = torch.load(trained / name, weights_only=True)
        assert set(document) == {
            "epoch", "model_state_dict", "optimizer_state_dict", "val_loss", "config", "vocabularies", "gene_names",
        }  # fmt: skip
        assert document["vocabularies"] == vocabularies and document["gene_names"] == list(cells().var_names)
        assert document["optimizer_state_dict"]["param_groups"][0]["weight_decay"] == 1e-5
    assert torch.load(trained / "checkpoint_epoch_10.pt", weights_only=True)["epoch"] == 10
    net, config_found, found = load_trained_model(trained / "best_model.pt")
    assert found == vocabularies and config_found.n_conditions == 9 and net.prior is not None


def test_cv_14_tensorboard_has_the_tags(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    parts = {"loss", "reconstruction", "kl", "classifier_loss", "classifier_accuracy"}
    tags = {f"train/{part}" for part in parts} | {"epoch/train_loss", "epoch/val_loss", "epoch/learning_rate"}
    assert tags <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/loss")) == 12 * 3  # 162 training cells, batches of 64
    losses = [event.value for event in events.Scalars("epoch/val_loss")]
    document = torch.load(trained / "best_model.pt", weights_only=True)
    assert [event.step for event in events.Scalars("epoch/val_loss")] == list(range(1, 13))
    assert document["val_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert document["epoch"] == int(np.argmin(losses)) + 1


@pytest.mark.parametrize("source", ["batches", "cells.h5ad"])
def test_cv_08_infer_writes_every_file(run, trained, data, tmp_path, source):
    options = ["--predict-cell-types", "--analyze-perturbations", "--analyze-latent", "--generate-cells"]
    options += ["--n-generate", 7, "--generate-cell-type", "T", "--generate-perturbation", "drug_a", "--max-cells", 150]
    paths = ["--model-path", trained / "best_model.pt", "--data-dir", data / source, "--output-dir", tmp_path / "out"]
    run("cvae", "infer", *paths, *options, "--device", "cpu")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "predicted_cell_types.npy", "true_cell_types.npy", "perturbation_effects.json", "generated_cells.npy",
        "provenance.json",
        "latent_representations.npy", "latent_metadata.json", "latent_space_pca.png", "latent_space_tsne.png",
    }  # fmt: skip
    adata = ad.read_h5ad(data / "cells.h5ad")[:150].copy()
    predicted, truth = np.load(out / "predicted_cell_types.npy"), np.load(out / "true_cell_types.npy")
    names = np.array(["B", "Mono", "T", "<UNK>"])
    assert predicted.dtype.kind == "i" and predicted.shape == truth.shape == (150,)
    np.testing.assert_array_equal(names[truth], adata.obs["cell_type"])
    assert (predicted == truth).mean() > 0.5
    generated = np.load(out / "generated_cells.npy")
    assert generated.shape == (7, 30) and (generated == np.rint(generated)).all() and (generated >= 0).all()
    metadata = json.loads((out / "latent_metadata.json").read_text())
    assert metadata["cell_type"] == truth.tolist() and len(metadata["perturbation"]) == 150
    net, _, vocabularies = load_trained_model(trained / "best_model.pt")
    x = torch.from_numpy(adata.X.toarray())
    ids = [
        torch.tensor([vocabularies[key][name] for name in adata.obs[column]])
        for key, column in (
            ("cell_type", "cell_type"),
            ("perturbation", "perturbation"),
            ("srx_accession", "SRX_accession"),
        )
    ]
    with torch.no_grad():
        z = net.encode(x, *ids)[0]
        np.testing.assert_allclose(np.load(out / "latent_representations.npy"), z, atol=1e-4)
        # CV-12: effects equal direct computation from the checkpoint; the control is not listed
        effects = json.loads((out / "perturbation_effects.json").read_text())
        assert list(effects) == ["drug_a", "drug_b"]
        control = torch.full_like(ids[1], vocabularies["perturbation"]["control"])
        own, other = (corrected(net, z, ids[0], which, ids[2]) for which in (ids[1], control))
        effect = np.log2((own + 1) / (other + 1))
    for name, found in effects.items():
        rows = (adata.obs["perturbation"] == name).to_numpy()
        assert found["n_cells"] == rows.sum()
        np.testing.assert_allclose(found["mean_effect"], effect[rows].mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(found["std_effect"], effect[rows].std(axis=0), atol=1e-4)


def corrected(net, z, types, perturbations, experiments):
    """Counts per 10,000 by the network, times the factors of the cells' pairs of type and perturbation."""
    factors = np.exp(net.responses.log_ratio.numpy()[net.responses.row.numpy()[types, perturbations]])
    values = net.decode(z, types, perturbations, experiments).numpy() * factors
    return 1e4 * values / values.sum(axis=1, keepdims=True)


def test_genes_are_chosen_by_name_in_the_order_of_the_file(run, data, tmp_path):
    options = [
        "--hvg-file",
        data / "hvg.txt",
        "--input-dim",
        20,
        "--n-epochs",
        1,
        "--split-by",
        "perturbation",
        "--seed",
        3,
    ]
    run("cvae", "train", "--data-dir", data / "cells.h5ad", "--output-dir", tmp_path / "run", *options, *SMALL)
    document = torch.load(tmp_path / "run" / "best_model.pt", weights_only=True)
    assert document["gene_names"] == [f"gene_{g:02d}" for g in range(23, 3, -1)]
    paths = [
        "--model-path",
        tmp_path / "run/best_model.pt",
        "--data-dir",
        data / "batches",
        "--output-dir",
        tmp_path / "o",
    ]
    run("cvae", "infer", *paths, "--predict-cell-types", "--device", "cpu")
    assert np.load(tmp_path / "o/predicted_cell_types.npy").shape == (180,)
    (tmp_path / "other.txt").write_text("gene_00\ngene_01\n")
    result = run("cvae", "infer", *paths, "--predict-cell-types", "--hvg-file", tmp_path / "other.txt", code=2)
    assert "names 2 genes, other than the 20 of the model" in result.stderr


def test_no_validation_cells(run, data, tmp_path):
    options = ["--n-epochs", 1, "--val-split", 0]
    run("cvae", "train", "--data-dir", data / "batches", "--output-dir", tmp_path / "run", *options, *SMALL)
    assert load_trained_model(tmp_path / "run/best_model.pt")[0].prior is not None


def test_cv_21_what_cannot_be_done_exits_with_2(run, data, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.txt").write_text("gene_00\nnot_a_gene\n")
    train = ["cvae", "train", "--output-dir", tmp_path / "run", *SMALL, "--data-dir"]
    for options, said in (
        ([data / "batches", "--hvg-file", tmp_path / "empty.txt"], "empty.txt is empty"),
        ([data / "batches", "--hvg-file", tmp_path / "wrong.txt"], "1 of the 2 genes of"),
        ([data / "batches", "--hvg-file", data / "hvg.txt", "--input-dim", 30], "--input-dim is 30, but"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([data / "cells.h5ad", "--max-cells-per-batch", 5], "belong to folders"),
    ):
        assert said in run(*train, *options, code=2).stderr
    assert not (tmp_path / "run").exists()


def test_cv_21_bad_data_exits_with_1_and_keeps_earlier_files(run, trained, data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best_model.pt").write_bytes(b"earlier")
    train = ["cvae", "train", "--output-dir", tmp_path / "run", *SMALL, "--data-dir"]
    for options, said in (
        ([tmp_path / "empty"], "holds no file batch_*.h5"),
        ([data / "batches", "--labels-key", "type"], "--labels-key type is not a column of"),
        ([data / "batches", "--perturbation-key", "drug"], "--perturbation-key drug is not a column of"),
    ):
        assert said in run(*train, *options, code=1).stderr
    assert (tmp_path / "run" / "best_model.pt").read_bytes() == b"earlier"
    infer = ["cvae", "infer", "--data-dir", data / "batches", "--output-dir", tmp_path / "o", "--predict-cell-types"]
    result = run(*infer, "--model-path", tmp_path / "run" / "best_model.pt", code=1)
    assert "best_model.pt cannot be read as a checkpoint" in result.stderr
    assert not (tmp_path / "o").exists()


def test_cv_21_unknown_names_exit_with_2_and_the_closest(run, trained, data, tmp_path):
    infer = ["cvae", "infer", "--model-path", trained / "best_model.pt", "--data-dir", data / "batches"]
    infer += ["--output-dir", tmp_path / "o"]
    generate = ["--generate-cells", "--generate-cell-type", "T", "--generate-perturbation", "drug-a"]
    result = run(*infer, *generate, code=2)
    assert "'drug-a' is no perturbation of the model. Closest names: drug_a, drug_b" in result.stderr
    assert "--generate-cells needs" in run(*infer, "--generate-cells", code=2).stderr
    assert "nothing to do" in run(*infer, code=2).stderr
    assert not (tmp_path / "o").exists()


def test_cv_21_a_non_finite_loss_keeps_the_last_good_model(data, tmp_path, monkeypatch):
    """Weights blow up in the third epoch: the files of the earlier ones are there, and load."""
    from hpvade.models.cvae._training_files import TrainingFiles

    adata = cells()
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    model = hp.ConditionalVAE(adata, n_latent=4, hidden_dims=(8,))
    files = TrainingFiles(tmp_path, model, every=1)
    original = model.module.net.reconstruction_error

    def fail(x, y):
        return original(x, y) * (torch.nan if model.module.training and len(list(tmp_path.glob("*epoch_2*"))) else 1)

    monkeypatch.setattr(model.module.net, "reconstruction_error", fail)
    with pytest.raises(RuntimeError, match="not finite"):
        model.train(5, accelerator="cpu", enable_progress_bar=False, callbacks=[files])
    for name in ("best_model.pt", "checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt"):
        assert load_trained_model(tmp_path / name)[1].input_dim == 30


def test_cells_without_perturbations(run, data, tmp_path):
    adata = ad.read_h5ad(data / "cells.h5ad")
    del adata.obs["perturbation"]
    adata.write_h5ad(tmp_path / "plain.h5ad")
    source = ["--data-dir", tmp_path / "plain.h5ad"]
    run("cvae", "train", *source, "--output-dir", tmp_path / "run", "--n-epochs", 1, *SMALL)
    path = tmp_path / "run/best_model.pt"
    assert len(load_trained_model(path)[2]["perturbation"]) == 2  # one name, and <UNK>
    infer = ["cvae", "infer", *source, "--model-path", path, "--device", "cpu", "--output-dir", tmp_path / "o"]
    assert "needs a model of perturbations" in run(*infer, "--analyze-perturbations", code=2).stderr
    options = ["--predict-cell-types", "--analyze-latent", "--generate-cells", "--n-generate", 5]
    run(*infer, *options, "--generate-cell-type", "T")
    assert np.load(tmp_path / "o/generated_cells.npy").shape == (5, 30)
    metadata = json.loads((tmp_path / "o/latent_metadata.json").read_text())
    assert set(metadata["perturbation"]) == {0} and len(metadata["cell_type"]) == adata.n_obs


def test_cells_of_no_known_type_train_too(run, tmp_path):
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:9, list(adata.obs).index("cell_type")] = np.nan
    adata.write_h5ad(tmp_path / "cells.h5ad")
    train = ["cvae", "train", "--data-dir", tmp_path / "cells.h5ad", "--output-dir", tmp_path / "run", *SMALL]
    assert "--unlabeled-category unknown" in run(*train, "--n-epochs", 1, code=1).stderr
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).fillna("unknown")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    run(*train, "--n-epochs", 1, "--unlabeled-category", "unknown")
    vocabularies = json.loads((tmp_path / "run/vocabularies.json").read_text())
    assert list(vocabularies["cell_type"]) == ["B", "Mono", "T", "<UNK>"]


@pytest.mark.parametrize(
    ("where", "is_named"), [("hpvade.io._backed.install_file", False), ("hpvade.io._rows.iter_rows", True)]
)
def test_a_full_disk_is_not_a_damaged_file(run, data, tmp_path, monkeypatch, where, is_named):
    def fail(*args, **kwargs):
        raise OSError("out of order")
        yield  # an iterator of rows fails once it is asked for them

    def fail_at_once(*args, **kwargs):
        raise OSError("out of order")

    monkeypatch.setattr(where, fail if is_named else fail_at_once)
    train = ["cvae", "train", "--data-dir", data / "cells.h5ad", "--output-dir", tmp_path / "run", *SMALL]
    said = run(*train, "--n-epochs", 1, code=1).stderr
    assert "out of order" in said and ("cells.h5ad cannot be read" in said) is is_named
    assert not (tmp_path / "run").exists() and not list(tmp_path.iterdir())
