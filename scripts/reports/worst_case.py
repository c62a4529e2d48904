"""The worst case for failed seeds: a claim must stand had they ended as badly as possible.

A failed run has no loss. The assumed worst case is within the observed range: a failed run of the
side that looks better gets the highest final loss of any run of the two rows, one of the other side
the lowest. Where only one side of a seed failed, the other keeps its loss.
"""

from __future__ import annotations

from scripts.reports.rows import Row, paired_differences


def worst_differences(row: Row, against: Row) -> list[float]:
    """Return the differences of loss, row minus against, of paired and of failed seeds.

    Failed seeds have the worst case for the sign of the mean of the paired ones.
    """
    found = paired_differences(row, against)
    better = sum(found) < 0.0
    ours, theirs = ({run.seed: side.loss_of(run) for run in side.runs} for side in (row, against))
    seen = [*ours.values(), *theirs.values()]
    for_ours, for_theirs = (max(seen), min(seen)) if better else (min(seen), max(seen))
    for seed in sorted({*row.lost, *against.lost}):
        found.append(ours.get(seed, for_ours) - theirs.get(seed, for_theirs))
    return found
