"""One row per epoch; a resumed run replaces what it repeats."""

from types import SimpleNamespace

import pandas as pd

from hpvade.models.cycleae._history_file import HistoryFile


def test_rows_grow_and_repeated_epochs_are_replaced(tmp_path):
    path = tmp_path / "history.csv"
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 9.0), (2, 1.0), (3, 0.5)):  # interrupted after epoch 2, resumed at 2
        metrics = {"loss": loss} | ({"late": 1.0} if epoch == 3 else {})
        HistoryFile(path).on_train_epoch_end(SimpleNamespace(current_epoch=epoch, callback_metrics=metrics), None)
    table = pd.read_csv(path, index_col="epoch")
    assert table["loss"].to_dict() == {0: 3.0, 1: 2.0, 2: 1.0, 3: 0.5}
    assert table["late"].notna().tolist() == [False, False, False, True]
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]
