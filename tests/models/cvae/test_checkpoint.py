import pytest
import torch

from hpvade.models.cvae._checkpoint import checkpoint, load_trained_model, read_checkpoint, write_checkpoint
from hpvade.nn.cvae import ConditionalVAENet, VAEConfig


@pytest.fixture
def net():
    return ConditionalVAENet(
        VAEConfig(input_dim=3, latent_dim=2, hidden_dims=[4], n_cell_types=2, n_perturbations=2, n_experiments=2)
    )


def test_round_trip(net, tmp_path):
    vocabularies = {"cell_type": {"B": 0, "<UNK>": 1}}
    write_checkpoint(tmp_path / "m.pt", checkpoint(net, vocabularies, ["a", "b", "c"], epoch=4, val_loss=1.5))
    document = read_checkpoint(tmp_path / "m.pt")
    assert (document["epoch"], document["val_loss"], document["gene_names"]) == (4, 1.5, ["a", "b", "c"])
    loaded, config, found = load_trained_model(tmp_path / "m.pt")
    assert config == net.config and found == vocabularies and not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in net.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_cv_21_bad_files_are_named(net, tmp_path):
    with pytest.raises(FileNotFoundError, match="no.pt"):
        load_trained_model(tmp_path / "no.pt")
    path = tmp_path / "m.pt"
    document = checkpoint(net, {}, ["a", "b", "c"], epoch=1, val_loss=0.0)
    write_checkpoint(path, document)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="m.pt.*truncated"):
        load_trained_model(path)
    torch.save({"state": 1}, path)
    with pytest.raises(ValueError, match="m.pt is no checkpoint of ConditionalVAE: it lacks .'epoch'"):
        load_trained_model(path)
    write_checkpoint(path, document | {"config": {"input_dim": 3, "width": 2}})
    with pytest.raises(ValueError, match="m.pt holds the weights of another class"):
        load_trained_model(path)
    write_checkpoint(path, document | {"model_state_dict": {"w": torch.ones(2)}})
    with pytest.raises(ValueError, match="m.pt holds the weights of another class"):
        load_trained_model(path)


def test_rows_that_are_not_there_are_refused(tmp_path):
    net = ConditionalVAENet(VAEConfig(input_dim=3, hidden_dims=[4], n_conditions=2, n_combinations=3, n_responses=1))
    for name in ("prior.row", "prior.combinations", "responses.row"):
        document = checkpoint(net, {}, ["a", "b", "c"], epoch=1, val_loss=0.0)
        document["model_state_dict"] = {k: v.clone() for k, v in document["model_state_dict"].items()}
        document["model_state_dict"][name].view(-1)[0] = 10_000
        write_checkpoint(tmp_path / "m.pt", document)
        with pytest.raises(ValueError, match=f"'{name}' of the tensors saved in {tmp_path / 'm.pt'}"):
            load_trained_model(tmp_path / "m.pt")


def test_code_in_a_file_is_not_executed(tmp_path):
    class Bad:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    torch.save({"epoch": Bad()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt"):
        load_trained_model(tmp_path / "m.pt")


def test_a_failed_write_keeps_the_earlier_file(net, tmp_path):
    path = tmp_path / "m.pt"
    write_checkpoint(path, {"a": 1})
    with pytest.raises(AttributeError):
        write_checkpoint(path, {"a": lambda: 1})
    assert torch.load(path) == {"a": 1} and len(list(tmp_path.iterdir())) == 1
