"""The data-efficiency factor: the tokens a control would need, from several horizons.

A horizon is the length of a whole run, with its own schedule to the end. L = a D^-b + c is fitted
to the control's final losses at three horizons or more (D tokens; least squares over the means of
seeds). The contender's loss at D tokens is the control's at D_eff tokens of that curve, D_eff = ((L
- c) / a)^(-1/b), and the factor is D_eff / D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from scripts.reports.statistics import Interval, interval

#: Fewest horizons of a fit, and the smallest ratio of the longest to the shortest.
FEWEST_HORIZONS, SPAN = 3, 4.0
#: Range of exponents searched. Published ones are between 0.05 and 0.6.
_EXPONENTS = (0.01, 4.0)


@dataclass(frozen=True)
class Curve:
    """L = a D^-b + c. tokens: the horizons it was fitted to, rising.

    residual: root mean square per degree of freedom; None for three points.
    """

    a: float
    b: float
    c: float
    residual: float | None
    tokens: tuple[float, ...]

    def loss(self, tokens: float) -> float:
        """Return the loss of the curve at a number of tokens."""
        return float(self.a * tokens**-self.b + self.c)

    def tokens_for(self, loss: float) -> float | None:
        """Return the tokens at which the curve has a loss; None where it never has."""
        if loss <= self.c:
            return None
        return float(((loss - self.c) / self.a) ** (-1.0 / self.b))


@dataclass(frozen=True)
class Factor:
    """D_eff / D at one horizon, with its 95 % interval over seeds, which is None for one seed."""

    tokens: float
    factor: float
    low: float | None
    high: float | None
    seeds: int
    beyond: bool


def fit(tokens: Sequence[float], losses: Sequence[float]) -> Curve | None:
    """Return the curve through losses at rising numbers of tokens; None if none fits.

    Raises ValueError for fewer than three points, or for a span below a factor of four.
    """
    if len(tokens) < FEWEST_HORIZONS or tokens[-1] / tokens[0] < SPAN:
        raise ValueError(f"{len(tokens)} horizons from {tokens[0]:g} to {tokens[-1]:g} tokens")
    unit = math.exp(sum(map(math.log, tokens)) / len(tokens))  # gives a and c similar sizes
    scaled, values = np.array(tokens) / unit, np.array(losses)

    def left(exponent: float) -> tuple[float, float, float]:
        """Return the sum of squares for an exponent, and a and c."""
        design = np.stack([scaled**-exponent, np.ones_like(scaled)], axis=1)
        (a, c), *_ = np.linalg.lstsq(design, values, rcond=None)
        return float(((design @ (a, c) - values) ** 2).sum()), float(a), float(c)

    grid = np.geomspace(*_EXPONENTS, 60)
    sums = [left(exponent)[0] for exponent in grid]
    place = int(np.argmin(sums))
    if place in (0, len(grid) - 1):
        return None  # closer to a straight line, or a step, than to such a curve
    rough = optimize.minimize_scalar(
        lambda exponent: left(exponent)[0],
        bounds=(grid[place - 1], grid[place + 1]),
        method="bounded",
        options={"xatol": 1e-10},
    )
    start = float(rough.x)
    _, a, c = left(start)
    fine = optimize.least_squares(
        lambda theta: theta[0] * scaled ** -theta[1] + theta[2] - values,
        (a, start, c),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    a, b, c = map(float, fine.x)
    if a <= 0.0 or not _EXPONENTS[0] < b < _EXPONENTS[1]:
        return None
    freedom = len(tokens) - 3
    residual = math.sqrt(2.0 * float(fine.cost) / freedom) if freedom else None
    return Curve(a * unit**b, b, c, residual, tuple(tokens))


def factor(
    tokens: Sequence[float],
    control: Sequence[Sequence[float]],
    contender: Sequence[float],
    horizon: float,
) -> Factor | None:
    """Return the factor of a contender at one horizon; None where the control never gets there.

    control: for each of `tokens`, the final losses by seed; contender: its losses at `horizon`, for
    the same seeds in the same order. The interval is Student's t on the logarithm of the factor, by
    the delta method. The factor is a smooth function of the means over seeds; its derivative gives
    every seed one number with the factor's scatter. A seed that shifts control and contender alike
    cancels as in a paired test.
    """
    by_seed = np.array(control, dtype=float)  # (horizons, seeds)
    own = np.array(contender, dtype=float)
    curve = fit(tokens, by_seed.mean(axis=1).tolist())
    loss = float(own.mean())
    reached = curve.tokens_for(loss) if curve else None
    if curve is None or reached is None:
        return None
    slopes = _slopes(curve, tokens, loss)
    influence = slopes @ by_seed - own / (curve.b * (loss - curve.c))
    found: Interval = interval(influence.tolist())
    middle = math.log(reached / horizon)
    low, high = (
        None if end is None else math.exp(middle + end - found.mean)
        for end in (found.low, found.high)
    )
    return Factor(
        horizon, reached / horizon, low, high, len(own), reached > tokens[-1] * (1.0 + 1e-6)
    )


def _slopes(curve: Curve, tokens: Sequence[float], loss: float) -> np.ndarray:
    """Return the derivative of log D_eff by the control's mean loss at each horizon."""
    unit = tokens[-1]
    a, b, c = curve.a * unit**-curve.b, curve.b, curve.c
    scaled = np.array(tokens) / unit
    power = scaled**-b
    by_parameter = np.stack([power, -a * power * np.log(scaled), np.ones_like(power)], axis=1)
    # From the normal equations: how a, b and c change with a loss.
    moves = np.linalg.pinv(by_parameter)  # (3, horizons)
    distance = (loss - c) / a
    gradient = np.array([1.0 / (a * b), math.log(distance) / b**2, 1.0 / (b * (loss - c))])
    return np.asarray(gradient @ moves)
