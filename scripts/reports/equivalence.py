"""Test whether two rows are equal within a margin, or one is no worse (--equivalence MARGIN).

Two one-sided t tests (Schuirmann 1987), paired by seed: that the true difference is below +margin
(no worse), and that it is above -margin (no better). Both together show equivalence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.reports.statistics import LEVEL, Spread, one_sided


@dataclass(frozen=True)
class Equivalence:
    """The results of the two tests, after the correction for all pairs of the page.

    p_worse: small shows that the row is worse by less than the margin. p_better: small shows that
    it is better by less than the margin.
    """

    margin: float
    p_worse: float
    p_better: float

    @property
    def outcome(self) -> str:
        """Return one of: equivalent, no worse, no better, not shown."""
        worse, better = self.p_worse <= LEVEL, self.p_better <= LEVEL
        if worse and better:
            return "equivalent"
        return "no worse" if worse else "no better" if better else "not shown"

    @property
    def p(self) -> float:
        """Return the p value of the outcome's claim."""
        if self.outcome == "no worse":
            return self.p_worse
        return self.p_better if self.outcome == "no better" else max(self.p_worse, self.p_better)


def equivalences(
    pairs: Sequence[tuple[Sequence[float], Spread | None]], margin: float
) -> list[Equivalence]:
    """Return the outcome for the differences of every pair, in the order given.

    Holm's procedure is over the two tests of all m pairs. A true difference cannot be both above
    one bound and below the other, so at most m of the 2 m hypotheses are true, and no p value is
    multiplied by more than m (Shaffer 1986, procedure S1). One pair is two tests at 5 %.
    """
    p_values: list[float] = []
    for differences, spread in pairs:
        p_values.append(one_sided(differences, margin, spread)[0])
        p_values.append(one_sided(differences, -margin, spread)[1])
    corrected = _corrected(p_values, len(pairs))
    return [Equivalence(margin, corrected[2 * n], corrected[2 * n + 1]) for n in range(len(pairs))]


def _corrected(p_values: Sequence[float], most: int) -> list[float]:
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        factor = min(most, len(p_values) - rank)
        highest = max(highest, min(1.0, factor * p_values[place]))
        corrected[place] = highest
    return corrected
