"""Vendors' numbers for GPUs: speed of matrix products and of memory. None is measured here.

Sources: the data sheets of the NVIDIA B200, H200, H100 (SXM, PCIe, NVL), A100, A40, A30, A10, L40S,
L4, V100 and T4 Tensor Core GPUs, of the RTX A6000, and the white papers of the Ada (RTX 4090) and
Ampere (RTX 3090) architectures; AMD Instinct MI300X, Radeon PRO W7900 and RX 7900 XTX.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU with its vendor's numbers.

    pattern: matches torch's name of it.
    flops: dense matrix FLOP/s in 16 bits with fp32 sums, without sparsity.
    bandwidth: bytes per second of its memory.
    bf16: whether it supports bf16.
    """

    pattern: str
    flops: float
    bandwidth: float
    bf16: bool = True


#: The first matching pattern is used, so special forms of a name come before general ones.
CARDS = {
    "B200": Card(r"\bB200\b", 2250e12, 8000e9),
    "H200": Card(r"\bH200\b", 989.4e12, 4800e9),
    "H100 PCIe": Card(r"\bH100 PCIe\b", 756e12, 2000e9),
    "H100 NVL": Card(r"\bH100 NVL\b", 835e12, 3900e9),
    "H100": Card(r"\bH100\b", 989.4e12, 3350e9),
    "A100 40 GB": Card(r"\bA100.*\b40GB\b", 312e12, 1555e9),
    "A100": Card(r"\bA100\b", 312e12, 2039e9),
    "A40": Card(r"\bA40\b", 149.7e12, 696e9),
    "A30": Card(r"\bA30\b", 165e12, 933e9),
    "A10": Card(r"\bA10\b", 125e12, 600e9),
    "L40S": Card(r"\bL40S\b", 362e12, 864e9),
    "L4": Card(r"\bL4\b", 121e12, 300e9),
    "V100": Card(r"\bV100\b", 125e12, 900e9, bf16=False),
    "T4": Card(r"\bT4\b", 65e12, 320e9, bf16=False),
    "RTX 4090": Card(r"\bRTX 4090\b(?! Laptop| D)", 165.2e12, 1008e9),
    "RTX 3090": Card(r"\bRTX 3090\b(?! Ti)", 71e12, 936e9),
    "RTX A6000": Card(r"\bRTX A6000\b", 154.8e12, 768e9),
    "MI300X": Card(r"\bMI300X\b", 1307.4e12, 5300e9),
    "W7900": Card(r"\bW7900\b", 122.6e12, 864e9),
    "RX 7900 XTX": Card(r"\b7900 XTX\b", 122.8e12, 960e9),
}


def card_of(name: str) -> Card | None:
    """Return the card with torch's name `name`; None if it is not in the table."""
    return next((card for card in CARDS.values() if re.search(card.pattern, name)), None)


def peak_flops(name: str, precision: str) -> float | None:
    """Return the vendor's matrix FLOP/s of the card `name` in fp32, bf16 or fp16.

    None where unknown: fp32 runs in several ways, and bf16 is emulated on some cards.
    """
    card = card_of(name)
    if card is None or precision == "fp32" or (precision == "bf16" and not card.bf16):
        return None
    return card.flops
