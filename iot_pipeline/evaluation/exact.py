"""Exact interval of a mean of few values: a bootstrap of few flows is too narrow, and of one flow it is a point."""

CONFIDENCE = 0.95
LEAST_FLOWS = 20  # of fewer, an interval by bootstrap is too narrow; of three that agree it is a point


def exact_interval(mean: float, trials: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a mean of values from 0 to 1.

    It is exact where each value is 0 or 1. At a given mean nothing scatters more than such values, so of others, such
    as an AUROC, which is the mean of each flow's place among the known ones, it is wider than need be.
    """
    from scipy.stats import beta

    hits, tail = mean * trials, (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high
