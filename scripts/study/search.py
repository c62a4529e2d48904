"""The search space of MATRIX_TUNE, and the trials drawn from it.

Trials are the points of a scrambled Halton sequence (Owen 2017, by scipy): evenly spread for any
number of points, and the same for every row, so that all rows search with one budget.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.config.errors import UserError

#: The name of the sampler in matrix.json.
SAMPLER = "Halton, scrambled (scipy.stats.qmc)"
_RANGE = re.compile(r"(log:)?(x?)([0-9.eE+-]+)\.\.(x?)([0-9.eE+-]+)")


@dataclass(frozen=True)
class Dimension:
    """A tuned option: from `low` to `high`, on a log scale or not, or one of `values`.

    relative: the bounds are multiples of the option's default in each row. text: as given.
    """

    option: str
    text: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    relative: bool = False
    values: tuple[str, ...] = ()

    def value(self, share: float, own: str | None) -> str:
        """Return the value at `share` in [0, 1) of the range; `own` is the row's default.

        Numbers have four significant digits. Raises ValueError for a multiple of a missing default.
        """
        if self.values:
            return self.values[int(share * len(self.values))]
        if self.log:
            found = math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        else:
            found = self.low + share * (self.high - self.low)
        if self.relative:
            try:
                found *= float(own or "")
            except ValueError:
                raise ValueError(
                    f"{self.text} is a multiple of the default, and this option has none"
                ) from None
        return f"{found:.4g}"


def dimension(option: str, text: str) -> Dimension:
    """Return the dimension of "log:1e-3..1e-2", "log:x0.25..x4", "0..0.3" or "0.03,0.1,0.3".

    Raises ValueError naming the problem.
    """
    if ".." not in text:
        values = tuple(dict.fromkeys(value.strip() for value in text.split(",")))
        if "" in values or len(values) < 2:
            raise ValueError("give two values or more, or a range (log:1e-3..1e-2)")
        return Dimension(option, text, values=values)
    match = _RANGE.fullmatch(text)
    try:
        low, high = (float(match[3]), float(match[5])) if match else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if match is None or not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{text!r} is not a range: write log:1e-3..1e-2, 0..0.3 or log:x0.25..x4")
    if match[2] != match[4]:
        raise ValueError(f"{text!r}: both ends are multiples of the default (x), or neither")
    if low >= high:
        raise ValueError(f"{text!r}: the lower end comes first")
    if match[1] and low <= 0.0:
        raise ValueError(f"{text!r}: a log scale needs values above 0")
    return Dimension(option, text, low, high, bool(match[1]), bool(match[2]))


def draw(dimensions: int, trials: int, seed: int) -> list[tuple[float, ...]]:
    """Return `trials` points in [0, 1)^dimensions, the same for equal arguments.

    Raises UserError where scipy is not installed.
    """
    try:
        from scipy.stats import qmc
    except ModuleNotFoundError as error:
        raise UserError(
            f"MATRIX_TUNE needs {error.name}, which this Python has not: 'make test-matrix' "
            "installs it"
        ) from error
    points: Sequence[Sequence[float]] = qmc.Halton(dimensions, scramble=True, rng=seed).random(
        trials
    )
    # In floating point a share could be rounded up to 1.
    return [tuple(min(float(share), math.nextafter(1.0, 0.0)) for share in p) for p in points]
