import pytest

from hpvade.models.cvae._vocabulary import Vocabulary


def test_cv_07_names_are_sorted_and_unknown_is_last():
    vocabulary = Vocabulary("type", ("T", "?", "B"), "?")
    assert vocabulary.names == ["B", "T"] and len(vocabulary) == 3
    assert vocabulary.ids_by_name() == {"B": 0, "T": 1, "<UNK>": 2}
    assert vocabulary.registry_ids() == [1, 2, 0]
    assert vocabulary.ids(["B", "?", "T"]).tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match=r"'NK', 'DC': 2 values of obs\['type'\].*known are 'B', 'T'.*unseen='unk'"):
        vocabulary.ids(["B", "NK", "DC", "NK"])
    assert vocabulary.ids(["NK", "B"], "unk").tolist() == [2, 0]
    with pytest.raises(ValueError, match="unseen='x'"):
        vocabulary.ids(["B"], "x")


def test_unk_is_no_name():
    with pytest.raises(ValueError, match="<UNK>"):
        Vocabulary("type", ("B", "T")).ids(["<UNK>"])
