"""Counts, linear values or logs? Judged for the matrix, and for every sample against the others."""

from typing import Literal

import numpy as np

from ._rows import is_integer, iter_rows

LOGGED_MAX = 30  # 2**30 is more than any library holds
_LOGGED_CP10K_MAX = 13.3  # log2(1e4): logs above it come from counts per million or intensities, which have short tails
_HEAVY_TAIL = 10  # maximum / 90 % quantile: above 15 on linear transcriptomes, below 6 on logs of counts per million
_MULTIPLES, _MAX_MULTIPLE = (
    20,
    300,
)  # so many values are whole multiples of the smallest; float32 tells up to here
# Spread of the logs of a sample's largest tenth, on eight development cohorts: at least 0.58 on linear values; that of
# log2, log10 and log1p of the same samples is at most 0.57 of the cohort's, that of linear samples at least 0.87 of it.
_SPREAD, _COMPRESSED = 0.5, 0.7
_N_HEAD = 64  # samples whose distribution is looked at


def detect_units(X) -> Literal["counts", "normalized", "log"]:
    """Tell counts, linear normalised values and logged values apart.

    Whole numbers are counts. Other values are linear when the maximum exceeds 30, since logs of expression stay below.
    At or below 30 they count as logged unless something speaks for linear values:

    - no sample sums to more than one (fractions);
    - every sample sums to a power of ten, as percentages or counts per thousand do, or all sums are equal and the tail
      is heavy (quantile-normalised logs have equal sums, too, but short tails);
    - the maximum exceeds 13.3 = log2(1e4), more than logs of counts per ten thousand can be, and the tail is heavy;
    - the values of every sample are whole multiples of its smallest one, as scaled counts are; rounded logs are
      multiples of their last digit, too, so that values with up to four digits must also spread widely.

    A tail is heavy when the maximum of the typical sample is over ten times the 90 % quantile of its values above zero
    (15 to 300 on linear transcriptomes, 2 to 5 on logs of counts per million). Sums and tails are taken from up to 64
    samples. Doubtful cases, such as few genes with low values, count as logged: a question is better than wrong
    proportions. Negative values count as logged.

    Parameters
    ----------
    X
        Matrix (samples x genes) of finite values, of any kind that `iter_rows` reads.

    Examples
    --------
    >>> import numpy as np
    >>> tpm = np.array([[120.5, 3.2, 0.0], [90.1, 7.7, 1.5]])
    >>> detect_units(np.round(tpm)), detect_units(tpm), detect_units(np.log1p(tpm))
    ('counts', 'normalized', 'log')
    """
    scan = Scan(X.shape[0])
    for rows, block in iter_rows(X, dense=True):
        scan.add(rows, block)
    return scan.units()


class Scan:
    """What is known of the values of every sample, gathered block by block.

    Attributes
    ----------
    lowest, highest
        (samples,): smallest and largest value, NaN where there is one.
    whole
        bool (samples,): whether all values are whole numbers.
    spread
        (samples,): standard deviation of the logs of the largest tenth of the values above zero, of samples that may be
        logged and of up to 64 others; NaN elsewhere.
    """

    def __init__(self, n_samples: int):
        self.lowest, self.highest, self.spread = (np.full(n_samples, np.nan) for _ in range(3))
        self.whole = np.zeros(n_samples, dtype=bool)
        self.head: list[np.ndarray] = []

    def add(self, rows: slice, block: np.ndarray) -> None:
        """Look at some samples (samples x genes)."""
        low, high = block.min(axis=1), block.max(axis=1)
        self.lowest[rows], self.highest[rows] = low, high
        whole = _whole_rows(block[:, :64])
        if whole.any():  # most samples that are not fail on their first genes
            whole[whole] = _whole_rows(block if whole.all() else block[whole])
        self.whole[rows] = whole
        finite = (low >= 0) & (high < np.inf)
        room = _N_HEAD - len(self.head)
        chosen = np.flatnonzero(finite & (high > 0))[: max(room, 0)]
        self.head += list(block[chosen].astype(np.float64))
        for i in chosen:
            self.spread[rows.start + i] = _upper_spread(block[i])
        for i in np.flatnonzero(finite & (high > 0) & (high <= LOGGED_MAX) & ~whole):
            linear = block[i].sum(dtype=np.float64) <= 1 + 1e-4 or _is_scaled_counts(block[i].astype(np.float64))
            self.spread[rows.start + i] = np.nan if linear else _upper_spread(block[i])

    def leave_out(self, samples) -> None:
        """Forget some samples (index)."""
        samples = list(samples)
        self.lowest[samples] = self.highest[samples] = self.spread[samples] = np.nan

    def units(self) -> Literal["counts", "normalized", "log"]:
        """Of the matrix without the samples in which a value is not finite."""
        known = np.isfinite(self.highest)
        if not known.any():
            return "counts"
        if self.lowest[known].min() < 0:
            return "log"
        if self.whole[known].all():
            return "counts"
        highest = self.highest[known].max()
        return "normalized" if highest > LOGGED_MAX or self._is_linear(highest) else "log"

    def logged_among_linear(self) -> np.ndarray:
        """Samples (bool) that look logged while others are linear for sure, because they hold larger values.

        Values of a logged sample are not whole, stay below 30, and lie much closer together than those of the others;
        fractions and scaled counts are linear, whatever their spread.
        """
        linear = self.certainly_linear()
        if not len(linear):
            return np.zeros(len(self.highest), dtype=bool)
        low = (self.highest <= LOGGED_MAX) & (self.lowest >= 0) & ~self.whole
        return low & (self.spread < _COMPRESSED * np.median(self.spread[linear]))

    def certainly_linear(self) -> np.ndarray:
        """Index of up to 64 samples whose values are too large for logs."""
        return np.flatnonzero((self.highest > LOGGED_MAX) & np.isfinite(self.spread))

    def _is_linear(self, highest: float) -> bool:
        rows = self.head
        sums = np.array([row.sum() for row in rows])
        if sums.max(initial=0) <= 1 + 1e-4:
            return True
        powers = 10.0 ** np.round(np.log10(sums))
        if np.allclose(sums, powers, rtol=1e-4):
            return True
        if all(_is_scaled_counts(row) for row in rows):
            return True
        equal_sums = len(sums) > 1 and np.allclose(sums, sums.mean(), rtol=1e-4)
        heavy = np.median([row.max() / np.quantile(row[row > 0], 0.9) for row in rows]) > _HEAVY_TAIL
        return bool(heavy and (equal_sums or highest > _LOGGED_CP10K_MAX))


def follow_logs(samples: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Which samples (bool) go along with the logarithm of the others' profile rather than with the profile itself.

    Both (samples x the same genes). A linear sample of one cell type may lie as close together as a logged mixture; but
    its largest values then are those of the genes that are largest elsewhere, by their size.
    """
    profile = np.median(linear / np.maximum(linear.sum(axis=1, keepdims=True, dtype=np.float64), 1e-300), axis=0)
    profile = 1e6 * profile
    correlation = [
        [np.corrcoef(row, other)[0, 1] if row.std() > 0 and other.std() > 0 else 0.0 for row in samples]
        for other in (profile, np.log1p(profile))
    ]
    return np.asarray(correlation[1]) > np.asarray(correlation[0])


def _whole_rows(block: np.ndarray) -> np.ndarray:
    """Rows (bool) of whole numbers, infinite ones among them; exact ones are found fast, others up to rounding."""
    whole = (np.rint(block) == block).all(axis=1)
    if not whole.all():
        whole[~whole] = is_integer(block[~whole]).all(axis=1)
    return whole


def _upper_spread(row: np.ndarray) -> float:
    values = row[row > 0].astype(np.float64)
    return float(np.log(values[values >= np.quantile(values, 0.9)]).std())


def _is_scaled_counts(row: np.ndarray) -> bool:
    """Whole multiples of the smallest value; if that is 0.1 to 0.0001, as of rounded logs, spread as linear values."""
    smallest = row[row > 0].min()
    multiples = row[row > 0] / smallest
    small = multiples[multiples <= _MAX_MULTIPLE]
    if len(small) < _MULTIPLES or not is_integer(small).all():
        return False
    digits = -np.log10(smallest)
    rounded = 0.5 < digits < 4.5 and abs(digits - round(digits)) < 1e-4
    return not rounded or _upper_spread(row) > _SPREAD
