"""The bench's numbers as Markdown, ready for docs/benchmarks.md."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from gpt2.config.text import markdown_table

_IDLE = 0.3  # a higher load average means other work


def tables(report: dict[str, Any]) -> str:
    """Return every result of a report under its own heading."""
    return "\n\n".join(_result(report, result) for result in report["results"])


def _result(report: dict[str, Any], result: dict[str, Any]) -> str:
    parts = [_heading(report, result), _speed(result)]
    if result["profile"]:
        parts.append(_profile(result["profile"]))
    return "\n\n".join(parts)


def _heading(report: dict[str, Any], result: dict[str, Any]) -> str:
    shape, machine, matmul = result["shape"], result["machine"], result["matmul"]
    date = datetime.fromisoformat(report["date"])
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items())
    peak = matmul["card_peak"]
    card = f"; the card's stated peak {peak / 1e12:.0f} TFLOP/s" if peak else ""
    return (
        f"### {result['model']}: {result['parameters'] / 1e6:.1f} M parameters\n\n"
        f"{date.day} {date:%B %Y}; {machine['device_name']}, {machine['cores']} cores, "
        f"{machine['threads']} threads; {versions}; {result['precision']}, "
        f"{'compiled' if result['compiled'] else 'not compiled'}."
        f"{load_remark(report['load_average'])}\n"
        f"{shape['layers']} layers, {shape['width']} wide, {shape['heads']} heads, vocabulary "
        f"{shape['vocabulary']}, dropout {shape['dropout']:g}, batch {shape['batch']} x "
        f"{shape['accumulation']} x {shape['block']} tokens.\n"
        f"{result['repeats']} interleaved turns of {result['steps']} steps: median +- "
        f"interquartile range. FLOP counted as 6 x parameters x tokens, in MFU attention's "
        f"12 x layers x width x context as well. Matrix products of "
        f"{matmul['size']}: median {matmul['median'] / 1e9:.1f}, best "
        f"{matmul['best'] / 1e9:.1f} GFLOP/s{card}."
    )


def _speed(result: dict[str, Any]) -> str:
    peak = result["matmul"]["card_peak"]
    titles = ["", "ms/step", "tokens/s", "GFLOP/s", "of the matmul limit"]
    titles += ["MFU"] if peak else []
    titles += ["ours is faster by", "device MiB", "host MiB", "compile s"]
    rows = []
    for name, side in result["sides"].items():
        row = [
            name,
            spread_text(side["ms_per_step"], 1),
            f"{side['tokens_per_second']:,.0f}",
            f"{side['flops_per_second'] / 1e9:,.1f}",
            spread_text(side["of_limit"], 3),
        ]
        row += [f"{side['mfu']:.3f}"] if peak else []
        row += ["" if name == "ours" else spread_text(side["ours_faster"], 3) + " x"]
        row += [_mebibytes(side["device_bytes"]), _mebibytes(side["host_bytes"])]
        row += ["" if side["compile_seconds"] is None else f"{side['compile_seconds']:.1f}"]
        rows.append(row)
    return markdown_table(titles, rows)


def _profile(costs: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"`{cost['operation']}`",
            cost["shapes"],
            str(cost["calls"]),
            f"{cost['ms']:.1f}",
            f"{100.0 * cost['share']:.1f} %",
        ]
        for cost in costs
    ]
    return "Where ours spends its time:\n\n" + markdown_table(
        ["operation", "shapes", "calls/step", "ms/step", "share"], rows
    )


def load_remark(load: float) -> str:
    """Return a sentence if the load average before the measurement shows other work."""
    return "" if load < _IDLE else f" The machine was not idle (load average {load:.1f} before)."


def spread_text(value: dict[str, Any], digits: int) -> str:
    """Return a median and its interquartile range."""
    return f"{value['median']:,.{digits}f} +- {value['iqr']:,.{digits}f}"


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.0f}"
