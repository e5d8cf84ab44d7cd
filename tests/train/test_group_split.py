import numpy as np
import pytest

from hpvade.train._group_split import split_groups


@pytest.fixture
def groups():
    return np.repeat([f"g{i}" for i in range(10)], 7)


def test_cv_10_groups_are_whole_and_every_cell_is_in_one_set(groups):
    for seed in range(20):
        parts = split_groups(groups, np.random.default_rng(seed), train_size=0.6, validation_size=0.2)
        assert sorted(np.concatenate(parts)) == list(range(70))
        names = [set(groups[part]) for part in parts]
        assert [len(n) for n in names] == [6, 2, 2]
        assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_small_shares_still_hold_out_a_group(groups):
    train, validation, test = split_groups(groups, np.random.default_rng(0), train_size=0.99)
    assert len(set(groups[validation])) == 1 and len(test) == 0 and len(train) == 63


def test_kept_groups_stay_and_the_draw_depends_on_the_seed(groups):
    found = set()
    for seed in range(30):
        _, validation, _ = split_groups(groups, np.random.default_rng(seed), keep=["g3"])
        assert "g3" not in groups[validation]
        found |= set(groups[validation])
    assert found == set(groups) - {"g3"}


def test_impossible_requests():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 donors, of which 1 can be held out"):
        split_groups(np.array(["a"] * 5), rng, name="donor")
    with pytest.raises(ValueError, match="too few"):
        split_groups(np.array(["a"] * 5 + ["control"]), rng, keep=["control"], train_size=0.5, validation_size=0.25)
    with pytest.raises(ValueError, match="train_size=1.2"):
        split_groups(np.array(["a", "b"]), rng, train_size=1.2)
    train, validation, _ = split_groups(np.array(["a", "b"]), rng, train_size=1.0)
    assert len(train) == 2 and len(validation) == 0
