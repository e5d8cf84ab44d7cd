"""A checkpoint answers as the model it came from."""

import numpy as np
import pandas as pd
import pytest

from hpvade.models.cvae._checkpoint import write_checkpoint
from hpvade.models.cvae._trained import TrainedNetwork


@pytest.fixture
def network(trained, tmp_path):
    trained.model.export_checkpoint(tmp_path / "m.pt")
    return TrainedNetwork(tmp_path / "m.pt", "cell_type", "perturbation", "experiment")


def test_answers_are_those_of_the_model(network, trained):
    fresh = trained.adata[:40].copy()
    pd.testing.assert_frame_equal(network.predict(fresh, soft=True), trained.model.predict(fresh, soft=True))
    for method in ("get_counterfactual_expression", "predict_perturbation_effect"):
        pd.testing.assert_frame_equal(getattr(network, method)(fresh), getattr(trained.model, method)(fresh))
    pd.testing.assert_frame_equal(
        network.perturbation_effects(fresh, min_cells=2), trained.model.perturbation_effects(fresh, min_cells=2)
    )
    ask = {"labels": "B", "perturbation": "drug_a", "seed": 4}
    np.testing.assert_array_equal(network.generate(9, **ask).X.toarray(), trained.model.generate(9, **ask).X.toarray())
    assert network.cell_types == trained.model.cell_types


def test_new_cells_are_checked(network, trained):
    fresh = trained.adata[:10].copy()
    fresh.X[2, 3] = -1
    with pytest.raises(ValueError, match="negative"):
        network.predict(fresh)


def test_a_checkpoint_from_the_middle_of_training_generates(trained, tmp_path):
    """It knows no latent distributions yet: z is drawn from N(0, I), totals are 10,000, experiments their mean."""
    document = trained.model._checkpoint(1, 0.0)
    weights = document["model_state_dict"]
    document["model_state_dict"] = {name: value for name, value in weights.items() if not name.startswith("prior.")}
    document["config"] |= {"n_conditions": 0, "n_combinations": 0}
    write_checkpoint(tmp_path / "m.pt", document)
    network = TrainedNetwork(tmp_path / "m.pt", "cell_type", "perturbation", "experiment")
    cells = network.generate(200, labels="B", perturbation="control", seed=0)
    assert cells.X.sum() / 200 == pytest.approx(10_000, rel=0.05) and set(cells.obs["experiment"]) == {"<UNK>"}
