"""Names of cell types, perturbations and experiments, and their ids: sorted names first, ``<UNK>`` last."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

UNKNOWN = "<UNK>"


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the names of one column.

    Parameters
    ----------
    column
        Column of `obs` that the names come from; None when the model has no such column.
    categories
        Names in the order of the registry.
    left_out
        Name that stands for "not known", which has no id of its own.
    """

    column: str | None
    categories: tuple[str, ...]
    left_out: str | None = None

    @property
    def names(self) -> list[str]:
        """Known names, sorted, so that the order of the file does not matter."""
        return sorted(set(self.categories) - {self.left_out})

    @property
    def unknown(self) -> int:
        """Id of ``<UNK>``."""
        return len(self.names)

    def __len__(self) -> int:
        """Ids, ``<UNK>`` included."""
        return len(self.names) + 1

    def ids_by_name(self) -> dict[str, int]:
        """Ids by name, ``<UNK>`` last."""
        return {name: i for i, name in enumerate([*self.names, UNKNOWN])}

    def registry_ids(self) -> list[int]:
        """Ids of the registry's categories, in its order."""
        ids = self.ids_by_name()
        return [ids.get(name, self.unknown) for name in self.categories]

    def ids(self, values, unseen: str = "error") -> np.ndarray:
        """Ids of names; ValueError that names the first unknown ones, unless ``unseen="unk"``."""
        if unseen not in ("error", "unk"):
            raise ValueError(f"unseen={unseen!r} is unknown; expected 'error' or 'unk'.")
        table, texts = self.ids_by_name(), pd.Series(np.asarray(values)).astype(str)
        known = texts.isin(table.keys() - {UNKNOWN}) | (texts == self.left_out)
        if unseen == "error" and not known.all():
            raise ValueError(self._unknown_names(list(dict.fromkeys(texts[~known]))))
        return texts.map(table).fillna(self.unknown).to_numpy(dtype=np.int64)

    def id(self, name, unseen: str = "error") -> int:
        """Id of one name."""
        return int(self.ids([name], unseen)[0])

    def _unknown_names(self, names: list[str]) -> str:
        shown = ", ".join(map(repr, self.names[:20])) + (", ..." if len(self.names) > 20 else "")
        where = f" of obs[{self.column!r}]" if self.column else ""
        return (
            f"{', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}: {len(names)} values{where} that "
            f"the model was not trained on; known are {shown}. Correct them, or pass unseen='unk' to take the mean of "
            "the known ones."
        )
