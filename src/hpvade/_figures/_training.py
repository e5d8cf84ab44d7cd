"""Losses and metrics over training."""

from collections.abc import Mapping, Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._finish import finished
from ._palette import BASE

# what training is about and whether it got there, in the words of all families; the first four of these are drawn
_MATTER = ("loss", "elbo", "prop", "rmse_skill", "reconstruction_loss", "recon", "kl_local", "target")
_N_CURVES = 4
_COLOURS = {"train": BASE[0], "validation": BASE[1]}


def training_history(
    history: Mapping[str, pd.DataFrame],
    *,
    keys: Sequence[str] | str | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw what was recorded over the epochs, training and validation in one panel.

    Parameters
    ----------
    history
        ``model.history`` of scvi-tools: one-column tables over epochs by name. ``elbo_train`` and ``elbo_validation``
        belong together, as do ``train_loss_epoch`` and ``validation_loss``, or ``sc/loss_kl`` and ``val_sc/loss_kl``.
    keys
        The quantities to draw ("elbo", "loss"), or names of `history`. By default the four that matter most: loss and
        ELBO, then what the model is for, such as the error of proportions and its skill against a constant. ``"all"``:
        all, except the values per step.
    axes
        Where to draw, at least one per quantity; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure. Axes are logarithmic where a positive quantity changes more than a hundredfold.

    Raises
    ------
    TypeError
        `history` is no mapping, such as the model itself.
    KeyError
        When `keys` names a quantity that was not recorded.
    ValueError
        When there is nothing to draw, or there are fewer `axes` than quantities.

    Examples
    --------
    >>> import pandas as pd
    >>> curve = pd.DataFrame({"loss": [2.0, 1.5, 1.2]})
    >>> fig = training_history({"train_loss_epoch": curve, "validation_loss": curve + 0.1})
    >>> fig.axes[0].get_title()
    'loss'
    """
    if not isinstance(history, Mapping):
        raise TypeError(f"history is a {type(history).__name__}; expected its curves, as in model.history.")
    panels = _panels(history)
    if keys is None or (isinstance(keys, str) and keys == "all"):
        panels = {name: curves for name, curves in panels.items() if not name.endswith("_step")}
        if keys is None:
            order = sorted(panels, key=lambda name: _MATTER.index(name) if name in _MATTER else len(_MATTER))
            panels = {name: panels[name] for name in order[:_N_CURVES]}
    else:
        keys = [keys] if isinstance(keys, str) else keys
        chosen = [_split(name)[0] if name in history else name for name in keys]
        missing = [name for name in chosen if name not in panels]
        if missing:
            raise KeyError(f"{missing[0]!r} was not recorded; there are {', '.join(panels) or 'no quantities'}.")
        panels = {name: panels[name] for name in chosen}
    if not panels:
        raise ValueError("The history is empty. Train the model, for more than max_epochs=0, which trains no network.")
    if axes is None:
        ncols = min(2 if len(panels) == 4 else 3, len(panels))
        nrows = -(-len(panels) // ncols)
        fig, axes = plt.subplots(nrows, ncols, figsize=(3.4 * ncols, 2.5 * nrows), squeeze=False, layout="constrained")
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        axes = axes.flat[: len(panels)]
    axes = np.ravel(axes)
    if len(axes) < len(panels):
        raise ValueError(f"There are {len(axes)} axes for {len(panels)} quantities; pass one per quantity.")
    for ax, (name, curves) in zip(axes, panels.items(), strict=False):
        _panel(ax, name, curves)
    both = [ax for ax in axes if len(ax.lines) > 1]
    if both:
        both[0].legend(frameon=False, fontsize="small")
    return finished(axes[0].figure, show, save)


def _split(name: str) -> tuple[str, str]:
    """The quantity that a recorded name belongs to, and which data it was measured on."""
    for prefix, kind in (("train_", "train"), ("validation_", "validation"), ("val_", "validation")):
        if name.startswith(prefix):
            return name.removeprefix(prefix).removesuffix("_epoch"), kind
    for suffix in ("train", "validation"):
        if name.endswith(f"_{suffix}"):
            return name.removesuffix(f"_{suffix}"), suffix
    return name, "train"


def _panels(history: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, pd.Series]]:
    """The curves of every quantity, ``{quantity: {"train": ..., "validation": ...}}``, each over its own epochs."""
    panels = {}
    for name, recorded in history.items():
        quantity, kind = _split(name)
        values = pd.DataFrame(recorded).iloc[:, 0].astype(float).dropna()
        if len(values):
            panels.setdefault(quantity, {})[kind] = values
    return panels


def _panel(ax: Axes, name: str, curves: Mapping[str, pd.Series]) -> None:
    for kind, values in curves.items():
        marker = "o" if len(values) == 1 else None
        ax.plot(values.index, values, color=_COLOURS[kind], marker=marker, linewidth=1.4, label=kind)
    drawn = np.concatenate([values.to_numpy() for values in curves.values()])
    if drawn.min() > 0 and drawn.max() > 100 * drawn.min():
        ax.set_yscale("log")
    ax.set_title(name.replace("_", " "), fontsize="medium")
    ax.set_xlabel("step" if name.endswith("_step") else "epoch", fontsize="small")
    ax.tick_params(labelsize="small")
    ax.spines[["top", "right"]].set_visible(False)
