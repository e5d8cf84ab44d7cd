"""Splits by donor or cell."""

import numpy as np
import pytest

import hpvade as hp
from hpvade.train._splitter import CellSplitter, split_cells


def codes(n_donors, n=600, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, n), rng.integers(0, n_donors, n)


def split(types, donors, seed=0, **kwargs):
    parts = split_cells(types, donors, np.random.default_rng(seed), **kwargs)
    assert all((np.diff(part) > 0).all() for part in parts)  # sorted, each once
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(types)))
    assert set(types[parts[0]]) == set(types)
    return parts


@pytest.mark.parametrize("n_donors", [3, 5, 20])
@pytest.mark.parametrize("seed", range(5))
def test_hp13_whole_donors_are_held_out(n_donors, seed):
    types, donors = codes(n_donors)
    parts = split(types, donors, seed, train_size=0.7, validation_size=0.2)
    held = [set(donors[part]) for part in parts]
    assert held[1] and not (held[0] & held[1]) and not (held[0] & held[2]) and not (held[1] & held[2])
    assert len(parts[0]) >= len(types) / 2


@pytest.mark.parametrize("seed", range(5))
def test_share_of_held_out_donors_is_near_what_was_asked(seed):
    types, donors = codes(40, 4000)
    _, validation, test = split(types, donors, seed, train_size=0.7, validation_size=0.2)
    assert len(validation) == pytest.approx(800, rel=0.5) and len(test) == pytest.approx(400, rel=0.5)


@pytest.mark.parametrize("seed", range(10))
def test_a_donor_with_the_only_cells_of_a_type_is_kept_for_training(seed):
    types, donors = codes(4)
    types[donors == 2] = 4  # all of type 4, and nothing else
    _, validation, _ = split(types, donors, seed)
    assert 2 not in donors[validation]


def test_donors_with_types_of_their_own_are_split_by_cells():
    """Sorted cells: no donor can be held out whole, so that cells of each are."""
    types = np.repeat(np.arange(4), 50)
    train, validation, _ = split_cells(types, types, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(types[validation]), 5)
    np.testing.assert_array_equal(np.bincount(types[train]), 45)


@pytest.mark.parametrize("n_donors", [1, 2])
def test_cells_are_stratified_with_fewer_donors(n_donors):
    types, donors = codes(n_donors)
    types[:4] = [4, 4, 5, 6]  # two cells of type 4, one of 5 and of 6
    types[4:][types[4:] > 3] = 0
    training, validation, test = split(types, donors, train_size=0.7, validation_size=0.2)
    for kind in range(4):
        n = np.sum(types == kind)
        assert np.sum(types[validation] == kind) == pytest.approx(0.2 * n, abs=1)
        assert np.sum(types[test] == kind) == pytest.approx(0.1 * n, abs=1)
    assert set(np.flatnonzero(types == 5)) | set(np.flatnonzero(types == 6)) <= set(training)


def test_split_is_random_and_seeded():
    for n_donors in (1, 10):
        types, donors = codes(n_donors)
        first, again, other = (split(types, donors, seed)[1] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert first.tolist() != other.tolist()


@pytest.mark.parametrize("n_donors", [1, 5])
def test_everything_for_training(n_donors):
    training, validation, test = split(*codes(n_donors), train_size=1.0)
    assert len(training) == 600 and not len(validation) and not len(test)


@pytest.mark.parametrize(
    "sizes", [(0.0, None), (-0.1, None), (1.1, None), (0.9, 0.2), (0.5, -0.1), (0.5, 1.5), (np.nan, None)]
)
def test_shares_out_of_range(sizes):
    with pytest.raises(ValueError, match="expected shares of cells"):
        split(*codes(3), train_size=sizes[0], validation_size=sizes[1])


def test_cells_of_a_given_split_and_its_checkpoint():
    adata, _ = hp.datasets.planted_cohort(n_types=3, n_genes=60, n_cells=50, n_samples=2, seed=0)
    hp.HPVADE.setup_anndata(adata, "cell_type")
    manager = hp.HPVADE(adata).adata_manager
    parts = np.arange(0, 40), np.arange(40, 47), np.arange(47, 50)
    splitter = CellSplitter(manager, split=parts, batch_size=16)
    splitter.setup()
    seen = {name: sum(len(batch["X"]) for batch in loader) for name, loader in (
        ("train", splitter.train_dataloader()), ("validation", splitter.val_dataloader())
    )}  # fmt: skip
    assert seen == {"train": 40, "validation": 7}  # the last, smaller minibatch is kept
    other = CellSplitter(manager, split=(np.arange(50), np.array([]), np.array([])), batch_size=16)
    other.setup()
    other.load_state_dict(splitter.state_dict())
    np.testing.assert_array_equal(other.val_idx, parts[1])
