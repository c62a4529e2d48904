"""The ledger of bytes: phases, kinds, small and large blocks."""

from __future__ import annotations

from gpt2.machine.device import KEPT
from gpt2.planning.ledger import KINDS, NOTHING, Ledger, block, peak_over, plus

LOGITS, WORKSPACE = KINDS.index("logits"), KINDS.index("workspace")


def test_each_phase_has_its_own_peak() -> None:
    ledger = Ledger()
    ledger.begin("first", "one")
    ledger.take(LOGITS, 10)
    ledger.give(LOGITS, 6)
    ledger.begin("second", "two", "three")
    ledger.take(WORKSPACE, 3)
    ledger.end()
    assert ledger.phases["one"].peak == block("logits", 10)
    assert ledger.phases["two"] is ledger.phases["three"]
    assert sum(ledger.phases["two"].peak) == 4 + 3 == ledger.total
    peak = peak_over(list(ledger.phases.values()))
    assert (peak.phase, peak.total, peak.held["logits"]) == ("first", 10, 10)
    assert peak.resident == 10 + 3  # small blocks of one kind do not fit the holes of another


def test_large_blocks_go_back_to_the_system() -> None:
    ledger = Ledger()
    ledger.begin("only", "only")
    ledger.take(LOGITS, KEPT)
    ledger.give(LOGITS, KEPT)
    ledger.take(WORKSPACE, KEPT)
    ledger.end()
    assert peak_over(list(ledger.phases.values())).resident == KEPT


def test_phases_are_affine_in_the_layers() -> None:
    def phases_of(layers: int) -> Ledger:
        ledger = Ledger()
        ledger.begin("forward pass", "last")
        ledger.take(LOGITS, 7 + 5 * layers)
        ledger.end()
        return ledger

    one, two, many = (phases_of(n).phases["last"] for n in (1, 2, 9))
    assert one.towards(two, 8) == many
    assert one.towards(two, 0) == one
    more = block("masks", 3)
    assert one.shifted(more).peak == plus(one.peak, more)
    assert one.shifted(NOTHING) == one
