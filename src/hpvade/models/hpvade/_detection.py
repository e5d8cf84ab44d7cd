"""Limits of detection and spillover, from bulk that is simulated with the model's own reference."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ..._text import whole_number
from ...simulate import ChunkSums, PlatformNoise, draw_mixtures, sample_proportions
from ._estimate import Estimate, estimate, estimate_shares

SPIKES = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
TRAINING_NOISE = PlatformNoise()
_N_CELLS = 100_000  # per simulated sample, so that drawing cells does not blur the spike
_MIXTURES_PER_TYPE = 4  # beside the pure samples, since a gene factor needs mixtures


class DetectionMethods:
    """What a trained model can see at all; needs `module`, `cell_types` and `_require_trained`, and no cells."""

    def get_detection_limits(
        self,
        bulk_adata: AnnData | None = None,
        *,
        level: float = 0.95,
        spikes: Sequence[float] = SPIKES,
        n_spikes: int = 25,
        seed: int = 0,
        **reading,
    ) -> pd.DataFrame:
        """Smallest fraction of cells at which each type is told from its absence, by in-silico spikes.

        Each pseudo-cohort holds, for every type, one sample without it and one for each of `spikes`, with the other
        types in proportions of their own. It is simulated from the mean counts of the reference, with states of types,
        RNA content, platform, depth and noise as in training (`hpvade.simulate.PlatformNoise`), and deconvolved like
        real bulk. A spike is detected when the central interval of its estimates lies above that of the samples
        without the type.

        Parameters
        ----------
        bulk_adata
            Bulk samples to simulate after: compositions as estimated in them, their genes, depth and platform distance.
            When None, compositions around the reference's, all genes, and platforms as in training.
        level
            Content of both intervals.
        spikes
            Fractions of cells to try.
        n_spikes
            Pseudo-cohorts, hence samples per type and spike.
        seed
            Seed of the simulation.
        **reading
            How to read `bulk_adata`: `layer`, `input_type`, `missing` and `gene_length_key` of
            :meth:`hpvade.HPVADE.deconvolve`.

        Returns
        -------
        One row per type: ``limit``, the smallest spike that is detected together with all larger ones (NaN if none
        is); ``blank_median`` and ``blank_upper``, median and upper end of the estimates where the type is absent. An
        estimate below ``blank_upper`` is no evidence for the type.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            `level`, `spikes` or `n_spikes` is out of range, or the bulk cannot be used.

        Notes
        -----
        The limit of Armbruster and Pry (Clin Biochem Rev 2008), with two-sided intervals. Donors and states that the
        reference lacks are simulated by a log-normal factor per type and gene; real ones may differ more, so that a
        limit is the best case.

        Examples
        --------
        >>> import hpvade as hp
        >>> model = hp.HPVADE.load("pbmc_model/")  # doctest: +SKIP
        >>> model.get_detection_limits()["limit"]  # doctest: +SKIP
        """
        self._require_trained("get_detection_limits")
        if not 0 < level < 1:
            raise ValueError(f"level={level}; expected a number between 0 and 1, such as 0.95.")
        shares = np.unique(np.asarray(spikes, dtype=float))
        if not len(shares) or not ((shares > 0) & (shares < 1)).all():
            raise ValueError(f"spikes={spikes}; expected fractions between 0 and 1.")
        whole_number("n_spikes", n_spikes)
        like = _conditions(self, bulk_adata, reading)
        rng = np.random.default_rng(seed)
        n_types, levels = len(self.cell_types), np.append(0.0, shares)
        found = np.empty((n_spikes, n_types, len(levels)))
        for i in range(n_spikes):
            background = _background(self, like, n_types * len(levels), rng).reshape(n_types, len(levels), n_types)
            background = _without(background, np.arange(n_types))
            cells = background * (1 - levels[:, None]) + levels[:, None] * np.eye(n_types)[:, None]
            estimated = simulated_estimate(self, cells.reshape(-1, n_types), rng, **like["simulation"])
            found[i] = np.einsum("klk->kl", _closed(estimated.cells).reshape(n_types, len(levels), n_types))
        lower, middle, upper = np.quantile(found, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
        detected = lower[:, 1:] > upper[:, :1]
        stays = np.logical_and.accumulate(detected[:, ::-1], axis=1)[:, ::-1]
        limit = np.where(stays.any(axis=1), shares[stays.argmax(axis=1)], np.nan)
        return pd.DataFrame(
            {"limit": limit, "blank_median": middle[:, 0], "blank_upper": upper[:, 0]},
            index=pd.Index(self.cell_types, name="type"),
        )

    def get_spillover(
        self, bulk_adata: AnnData | None = None, *, n_cohorts: int = 20, seed: int = 0, **reading
    ) -> pd.DataFrame:
        """Where the cells of each type go: mean estimate in simulated samples of a single type.

        Parameters
        ----------
        bulk_adata, seed, **reading
            As in :meth:`get_detection_limits`.
        n_cohorts
            Pseudo-cohorts, each with one pure sample per type and mixtures.

        Returns
        -------
        Square table, rows the type that is there, columns the fraction of cells estimated for each type; rows sum to
        one, and the identity is perfect.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            `n_cohorts` is below one, or the bulk cannot be used.
        """
        self._require_trained("get_spillover")
        whole_number("n_cohorts", n_cohorts)
        like = _conditions(self, bulk_adata, reading)
        rng = np.random.default_rng(seed)
        n_types = len(self.cell_types)
        total = np.zeros((n_types, n_types))
        for _ in range(n_cohorts):
            cells = np.vstack([np.eye(n_types), _background(self, like, _MIXTURES_PER_TYPE * n_types, rng)])
            total += _closed(simulated_estimate(self, cells, rng, **like["simulation"]).cells)[:n_types]
        index = pd.Index(self.cell_types, name="true type")
        return pd.DataFrame(total / n_cohorts, index=index, columns=pd.Index(self.cell_types, name="estimated"))


def simulated_estimate(
    model,
    cells: np.ndarray,
    rng: np.random.Generator,
    *,
    present: torch.Tensor | None = None,
    noise: PlatformNoise = TRAINING_NOISE,
) -> Estimate:
    """Simulate one pseudo-cohort of fractions `cells` (samples x types) from the model's reference and deconvolve it.

    The mean counts of each type stand for all its cells, so that no cells are needed.
    """
    mean_counts = model.module.mean_counts
    profiles = mean_counts.T.cpu().numpy().astype(np.float32)
    n_types, n_genes = profiles.shape
    chunks = ChunkSums(
        profiles,
        np.arange(n_types),
        np.zeros(n_types, dtype=np.int64),
        np.ones(n_types, dtype=np.int64),
        profiles.sum(axis=1, dtype=np.float64),
        n_types,
    )
    counts = draw_mixtures(chunks, cells, rng, n_cells=_N_CELLS, noise=noise).counts
    bulk = torch.from_numpy(counts).to(mean_counts.device)
    if present is None:
        present = torch.ones(n_genes, dtype=torch.bool, device=mean_counts.device)
    return estimate_shares(model, None, bulk * present, present)


def matching_noise(found: Estimate) -> PlatformNoise:
    """Noise of a pseudo-cohort that is as deep and as far from the reference as the bulk of this estimate."""
    noise = TRAINING_NOISE
    depth = (float(found.depth.min()), float(found.depth.max()))
    if found.fit is None:  # no distance was measured
        return replace(noise, depth=depth)
    # states of types move the medians over the cohort, too
    sd = np.sqrt(max(found.platform_distance**2 - noise.type_sd**2, 0.0))
    return replace(noise, platform_sd=(sd, sd), depth=depth)


def _conditions(model, bulk: AnnData | None, reading: dict) -> dict:
    """Compositions to draw from (None: around the reference's), and arguments of `simulated_estimate`."""
    if bulk is None:
        if reading:
            raise ValueError(f"{', '.join(reading)} says how to read bulk, but none was given.")
        return {"cells": None, "simulation": {}}
    found = estimate(model, bulk, **reading)
    return {"cells": _closed(found.cells), "simulation": {"present": found.present, "noise": matching_noise(found)}}


def _background(model, like: dict, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Compositions (samples x types) of the other types."""
    if like["cells"] is not None:
        return like["cells"][rng.integers(len(like["cells"]), size=n_samples)]
    composition = model.module.composition.double().cpu().numpy()
    return sample_proportions(n_samples, len(composition), rng, reference=composition, prior={"reference": 1.0})


def _without(cells: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Take type `kind[k]` out of compositions (k x samples x types); where nothing is left, the others are even."""
    cells = cells * (1 - np.eye(cells.shape[-1])[kind])[:, None]
    total = cells.sum(axis=-1, keepdims=True)
    even = (1 - np.eye(cells.shape[-1])[kind])[:, None] / (cells.shape[-1] - 1)
    return np.where(total > 1e-6, cells / np.maximum(total, 1e-6), even)


def _closed(fractions: torch.Tensor) -> np.ndarray:
    fractions = fractions.double().cpu().numpy()
    return fractions / fractions.sum(axis=1, keepdims=True)
