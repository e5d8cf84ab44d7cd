"""Loops of the solvers over samples, genes and types, compiled by numba.

All of them are in this file: what is compiled is kept on disk until the file of the outermost loop changes, and would
not notice a change elsewhere.
"""

from collections.abc import Callable
from contextlib import suppress

import numba
import numpy as np

LANES = 16  # genes are padded to whole vectors
_SETTLED = 5  # steps after which the scale of the residuals stays
_TILE = 512  # genes whose sums are in float32, which is as exact as a whole vector's and leaves room in the cache
_FAST = {"contract", "reassoc", "nsz"}  # sums in any order, so that they run in vectors; NaN stays NaN


def compiled(function: Callable) -> Callable:
    """Compile on first use, for threads without Python's lock; keep it on disk where a folder can be written."""
    kernel = numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)(function)
    with suppress(RuntimeError):  # neither the package's folder nor the user's cache can be written
        kernel.enable_caching()
    return kernel


@compiled
def _descend(gram, target, solution, gradient, inverse, n_sweeps, tolerance):
    """Cyclic coordinates for one sample, and whether they came to rest; changes `solution`; two are scratch."""
    n_types = len(target)
    for k in range(n_types):
        inverse[k] = 1 / gram[k, k] if gram[k, k] > 0 else 0.0
        total = target[k]
        for j in range(n_types):
            total -= gram[k, j] * solution[j]
        gradient[k] = total
    for _ in range(n_sweeps):
        moved = largest = 0.0
        for k in range(n_types):
            new = solution[k] + gradient[k] * inverse[k]
            if new < 0:  # and not max(), which would make 0 of NaN
                new = 0.0
            change = new - solution[k]
            if change != 0:
                for j in range(n_types):
                    gradient[j] -= gram[k, j] * change
                solution[k] = new
            moved, largest = max(moved, abs(change)), max(largest, new)
        if moved <= tolerance * largest:
            return True
    return False


@compiled
def _face_minimum(gram, target, solution, lower, best, inside):
    """Go to the minimum over the types in use, by Cholesky; False, and no move, where they are linearly dependent.

    A type that would turn negative is dropped, and the others go on. `lower`, `best` and `inside` are scratch.
    """
    while True:
        n_used = 0
        for k in range(len(target)):
            if solution[k] > 0:
                inside[n_used] = k
                n_used += 1
        for a in range(n_used):
            for b in range(a + 1):
                total = gram[inside[a], inside[b]]
                for j in range(b):
                    total -= lower[a, j] * lower[b, j]
                if a > b:
                    lower[a, b] = total / lower[b, b]
                elif total > 1e-10 * gram[inside[a], inside[a]]:
                    lower[a, a] = np.sqrt(total)
                else:
                    return False
        for a in range(n_used):
            total = target[inside[a]]
            for j in range(a):
                total -= lower[a, j] * best[j]
            best[a] = total / lower[a, a]
        for a in range(n_used - 1, -1, -1):
            for j in range(a + 1, n_used):
                best[a] -= lower[j, a] * best[j]
            best[a] /= lower[a, a]
        share, dropped = 1.0, -1
        for a in range(n_used):
            reach = solution[inside[a]] / (solution[inside[a]] - best[a]) if best[a] < 0 else 1.0
            if reach < share:
                share, dropped = reach, a
        for a in range(n_used):
            solution[inside[a]] = max(solution[inside[a]] + share * (best[a] - solution[inside[a]]), 0.0)
        if dropped < 0:
            return True
        solution[inside[dropped]] = 0.0


@compiled
def descend(first, end, gram, target, solution, n_sweeps, tolerance):
    """`coordinate_descent` of samples `first` to `end`; `gram` (samples or 1 x types x types), `solution` in place."""
    gradient, inverse = np.empty(target.shape[1]), np.empty(target.shape[1])
    for n in range(first, end):
        _descend(gram[n % len(gram)], target[n], solution[n], gradient, inverse, n_sweeps, tolerance)


@compiled
def minimise(first, end, gram, target, solution, done):
    """Exact minima, `solution` from zeros; where types are linearly dependent, or never at rest, `done` stays False."""
    n_types = target.shape[1]
    gradient, inverse, best = np.empty(n_types), np.empty(n_types), np.empty(n_types)
    lower, inside = np.empty((n_types, n_types)), np.empty(n_types, np.int64)
    for n in range(first, end):
        own, aim, here = gram[n % len(gram)], target[n], solution[n]
        done[n] = _descend(own, aim, here, gradient, inverse, 20, 1e-10)
        for _ in range(100):
            if done[n] or not _face_minimum(own, aim, here, lower, best, inside):
                break
            done[n] = _descend(own, aim, here, gradient, inverse, 1, 1e-10)


@compiled
def _means(amounts, signature, offset, mean):
    """Fill `mean` (genes,) with offset + sum of amounts (types,) times signature (types x genes)."""
    for g in range(len(mean)):
        mean[g] = offset
    for k in range(len(amounts)):
        amount = np.float32(amounts[k])
        if amount != 0:
            for g in range(len(mean)):
                mean[g] += amount * signature[k, g]


@compiled
def _log_ratios(bulk, mean, offset, residual):
    """Fill `residual` with log((bulk + offset) / mean), all above zero, to 1e-7 by the series of artanh."""
    for g in range(len(bulk)):
        bits = np.float32((bulk[g] + offset) / mean[g]).view(np.int32)
        exponent = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> 23)  # mantissa between the roots of 1/2 and 2
        mantissa = np.int32(bits - np.int32(exponent << 23)).view(np.float32)
        s = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
        q = s * s
        series = np.float32(2 / 7) + q * np.float32(2 / 9)
        series = np.float32(2 / 3) + q * (np.float32(2 / 5) + q * series)
        residual[g] = np.float32(exponent) * np.float32(0.6931471805599453) + s * (np.float32(2) + q * series)


@compiled
def _median_size(residual, n_genes, bits):
    """Lower median of the sizes of the first `n_genes` residuals: bisection of bits, whose order is that of sizes."""
    for g in range(n_genes):
        bits[g] = np.float32(abs(residual[g])).view(np.int32)
    low, high, rank = np.int32(0), np.int32(0x7F800000), (n_genes + 1) // 2
    while low < high:
        middle = np.int32(low + (high - low) // 2)
        below = np.int32(0)
        for g in range(n_genes):
            below = np.int32(below + np.int32(bits[g] <= middle))
        if below >= rank:
            high = middle
        else:
            low = np.int32(middle + 1)
    return np.int32(high).view(np.float32)


@compiled
def _normal_equations(signature, relative, response, scaled, gram, target):
    """Fill `gram` (types x types) and `target` (types,) of weighted least squares; `scaled` is scratch.

    `scaled` (types + 3 x tile) and `gram` have three rows more, which pad the groups of four.
    """
    n_types, n_genes = signature.shape
    for k in range(n_types):
        target[k] = 0.0
    for k in range(n_types + 1):
        for j in range(gram.shape[1]):
            gram[k, j] = 0.0
    for start in range(0, n_genes, _TILE):
        end = min(start + _TILE, n_genes)
        w, y = relative[start:end], response[start:end]
        for k in range(n_types):
            row, s, total = scaled[k], signature[k, start:end], np.float32(0)
            for g in range(len(w)):
                value = w[g] * s[g]
                row[g] = value
                total += value * y[g]
            target[k] += total
        for k in range(0, n_types, 2):
            s, t = signature[k, start:end], signature[min(k + 1, n_types - 1), start:end]
            for j in range(0, k + 2, 4):  # two by four at a time: eight sums hide the time that one takes
                row0, row1, row2, row3 = scaled[j], scaled[j + 1], scaled[j + 2], scaled[j + 3]
                s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = np.float32(0)
                for g in range(len(s)):
                    s0 += row0[g] * s[g]
                    s1 += row1[g] * s[g]
                    s2 += row2[g] * s[g]
                    s3 += row3[g] * s[g]
                    t0 += row0[g] * t[g]
                    t1 += row1[g] * t[g]
                    t2 += row2[g] * t[g]
                    t3 += row3[g] * t[g]
                gram[k, j] += s0
                gram[k, j + 1] += s1
                gram[k, j + 2] += s2
                gram[k, j + 3] += s3
                gram[k + 1, j] += t0
                gram[k + 1, j + 1] += t1
                gram[k + 1, j + 2] += t2
                gram[k + 1, j + 3] += t3
    for k in range(n_types):
        for j in range(k):
            gram[j, k] = gram[k, j]


@compiled
def _work(mean, residual, gene_weight, limit, odds, offset, relative, response):
    """Fill weights over squared means and the working response (genes,); return the sum of the weights.

    `odds` is the dispersion times the depth.
    """
    one, two, total = np.float32(1), np.float32(2), np.float32(0)
    least = max(limit, np.float32(1e-12))
    for g in range(len(mean)):
        m, e = mean[g], residual[g]
        relative[g] = gene_weight[g] * limit * odds / (max(abs(e), least) * m * (odds * m + one))
        response[g] = m * (one + min(max(e, -two), two)) - offset
        total += relative[g] * m * m
    return total


@compiled
def regress(first, end, bulk, scale, rows, genes, options, start, anchor, amounts, spread, residuals, weights):
    """Robust regression of samples `first` to `end` with a fixed gene factor; see `hpvade.solvers.robust`.

    `rows` (samples x 2) holds offset and depth, `genes` (types + 1 x genes) the signature and the gene weights, padded
    with zeros; `scale` brings `bulk` to their unit. `amounts` and `spread` become the answer and the residuals' robust
    standard deviation; `residuals` and `weights` (samples x genes) are filled unless they are empty.
    """
    anchor_weight, dispersion, huber, mad, n_steps, tolerance = options
    n_types, n_genes, n_padded = len(genes) - 1, bulk.shape[1], genes.shape[1]
    signature, gene_weight = genes[:n_types], genes[n_types]
    y, mean, residual = np.zeros(n_padded, np.float32), np.empty(n_padded, np.float32), np.empty(n_padded, np.float32)
    relative, response = np.empty(n_padded, np.float32), np.empty(n_padded, np.float32)
    scaled, bits = np.zeros((n_types + 3, _TILE), np.float32), np.empty(n_genes, np.int32)
    gram, target, new = np.empty((n_types + 3, n_types + 3)), np.empty(n_types), np.empty(n_types)
    gradient, inverse = np.empty(n_types), np.empty(n_types)
    for n in range(first, end):
        offset, odds, limit, current = rows[n, 0], np.float32(dispersion) * rows[n, 1], np.float32(0), amounts[n]
        for g in range(n_genes):
            y[g] = scale * bulk[n, g]
        for k in range(n_types):
            current[k] = start[n, k]
        for t in range(n_steps):
            _means(current, signature, offset, mean)
            _log_ratios(y, mean, offset, residual)
            if t < _SETTLED:
                limit = np.float32(huber * mad) * _median_size(residual, n_genes, bits)
            total_weight = _work(mean, residual, gene_weight, limit, odds, offset, relative, response)
            _normal_equations(signature, relative, response, scaled, gram, target)
            total = 0.0
            for k in range(n_types):
                new[k], total = current[k], total + current[k]
            pull = anchor_weight * total_weight * (limit / huber) ** 2 / max(total, 1e-30)
            for k in range(n_types):
                target[k] += pull * anchor[n, k]
                gram[k, k] += 1e-6 * gram[k, k] + pull / max(total, 1e-30)
            _descend(gram, target, new, gradient, inverse, 10, 1e-7)
            moved, total = 0.0, 0.0
            for k in range(n_types):
                moved, total = moved + abs(new[k] - current[k]), total + new[k]
            ends = t >= _SETTLED and moved <= tolerance * total
            for k in range(n_types):  # half steps once close; see `_robust._Problem.solve`
                current[k] = new[k] if t < _SETTLED - 1 or ends else (current[k] + new[k]) / 2
            if ends:
                break
        _means(current, signature, offset, mean)
        _log_ratios(y, mean, offset, residual)
        spread[n] = mad * _median_size(residual, n_genes, bits)
        if len(residuals):
            _work(mean, residual, gene_weight, limit, odds, offset, relative, response)
            for g in range(n_genes):
                residuals[n, g], weights[n, g] = residual[g], relative[g] * mean[g] * mean[g]
