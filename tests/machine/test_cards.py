"""The table of cards: names as torch gives them."""

from __future__ import annotations

import pytest

from gpt2.machine.cards import CARDS, card_of, peak_flops


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("AMD Radeon PRO W7900", "W7900"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A1000", None),
        ("NVIDIA L40", None),
        ("NVIDIA GB10", None),
    ],
)
def test_cards_are_told_apart(name: str, card: str | None) -> None:
    found = card_of(name)
    assert found == (None if card is None else CARDS[card])


def test_the_peak_is_that_of_the_precision() -> None:
    assert peak_flops("NVIDIA H200", "bf16") == 989.4e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp16") == 989.4e12
    assert peak_flops("NVIDIA H200", "fp32") is None
    assert peak_flops("Tesla T4", "fp16") == 65e12
    assert peak_flops("Tesla T4", "bf16") is None  # which it emulates
    assert peak_flops("some card of tomorrow", "bf16") is None
