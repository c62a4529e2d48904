"""Measurements of the bench: time, the limit of matrix products, memory, and a profile."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2.machine.device import give_back_freed_memory
from gpt2.machine.host_memory import Host
from scripts.benchmark.contestants import Side


def model_flops(parameters: int, tokens: int) -> int:
    """Return the FLOP of training on `tokens` tokens, counted as 6 per parameter and token.

    All parameters count, the tied embedding once. Attention's own products do not (Kaplan et al.
    2020, 2.1), so the number does not depend on what a program computes.
    """
    return 6 * parameters * tokens


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class MatmulLimit:
    """The fastest square matrix product of this machine in one dtype, at torch's thread count."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> None:
        self._device, self._dtype, self._seconds = device, dtype, seconds
        sizes = (4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
        # The size is chosen once, so that later measurements are comparable.
        self.size = max(sizes, key=self.rate)

    def rate(self, size: int | None = None) -> float:
        """Measure for about `seconds`; return FLOP/s.

        The numbers are random: a GPU multiplies equal ones at a higher clock. A GPU gets several
        products at once, to keep it busy between waits.
        """
        n = size or self.size
        draws = torch.Generator(self._device).manual_seed(0)  # torch's own belongs to the sides
        a = torch.randn((n, n), generator=draws, device=self._device).to(self._dtype)
        out = torch.empty_like(a)
        torch.mm(a, a, out=out)
        synchronise(self._device)
        count, start = 0, time.perf_counter()
        together = 1 if self._device.type == "cpu" else 8
        while (taken := time.perf_counter() - start) < self._seconds:
            for _ in range(together):
                torch.mm(a, a, out=out)
            synchronise(self._device)
            count += together
        return count * 2 * n**3 / taken


def milliseconds(run: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Return the wall time of a step, the mean over `steps`, without garbage collection."""
    gc.collect()
    gc.disable()
    try:
        synchronise(device)
        start = time.perf_counter()
        run(steps)
        synchronise(device)
        return 1000.0 * (time.perf_counter() - start) / steps
    finally:
        gc.enable()


def interleaved(
    runs: Mapping[str, Callable[[int], None]],
    steps: int,
    repeats: int,
    device: torch.device,
    limit: MatmulLimit | None = None,
) -> dict[str, list[float]]:
    """Return ms/step of every run and the limit's FLOP/s (`matmul`), a value for each repeat.

    In every repeat all take a turn, each time starting with another: a disturbance that lasts
    longer than a turn affects all of them.
    """
    names = list(runs)
    found: dict[str, list[float]] = {name: [] for name in names}
    rates = []
    for repeat in range(repeats):
        if limit:
            rates.append(limit.rate())
        first = repeat % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(milliseconds(runs[name], steps, device))
    return {"matmul": rates, **found} if limit else found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the interquartile range of `values`."""
    if len(values) < 2:
        return {"median": values[0], "iqr": 0.0}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "iqr": high - low}


def summary(
    values: Sequence[float],
    ours: Sequence[float],
    matmul: Sequence[float],
    parameters: int,
    tokens: int,
    per_token: float = 0.0,
    peak: float | None = None,
) -> dict[str, Any]:
    """Return a side's numbers from its and our ms/step, and the matmul FLOP/s, of each repeat.

    `of_limit` and `ours_faster` (its ms over ours) are computed within a repeat, then over repeats.
    `mfu` is from the FLOP `per_token` (palm_flops) and the vendor's `peak` of the card, if known.
    """
    middle = spread(values)
    seconds, flops = middle["median"] / 1000.0, model_flops(parameters, tokens)
    shares = [flops / (ms / 1000.0) / limit for ms, limit in zip(values, matmul, strict=True)]
    return {
        "ms_per_step": {**middle, "values": list(values)},
        "tokens_per_second": tokens / seconds,
        "flops_per_second": flops / seconds,
        "of_limit": spread(shares),
        "mfu": None if peak is None else tokens / seconds * per_token / peak,
        "ours_faster": spread([ms / own for ms, own in zip(values, ours, strict=True)]),
    }


def host_bytes() -> int | None:
    """Return the anonymous memory of this process in bytes; None where unknown.

    Mapped files are left out: this is what the process takes from others.
    """
    host = Host()
    return host.held() if host.watched else None


def held_bytes(side: Side) -> int:
    """Return the bytes of a side's weights and optimizer state."""
    state = [
        value
        for of_one in side.optimizer.state.values()
        for value in of_one.values()
        if isinstance(value, Tensor)
    ]
    return sum(t.numel() * t.element_size() for t in (*side.model.parameters(), *state))


def peak_memory(side: Side, others: Sequence[Side], device: torch.device) -> dict[str, int | None]:
    """Return the peak bytes of two steps of `side`: allocated on the device, and on the host.

    The other sides' weights and state in the same memory are subtracted.
    """
    foreign = sum(held_bytes(other) for other in others)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    give_back_freed_memory()  # the rest is in use
    host = peak_host(lambda: side.run(2))
    return {
        "device_bytes": torch.cuda.max_memory_allocated(device) - foreign if cuda else None,
        "host_bytes": host if cuda or host is None else host - foreign,
    }


def peak_of(work: Callable[[], object], device: torch.device) -> int | None:
    """Return the extra peak memory of `work`, in bytes.

    On a GPU these are allocated bytes; on a CPU anonymous memory, after unused memory was returned
    to the system.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    give_back_freed_memory()
    start = host_bytes()
    highest = peak_host(work)
    return None if start is None or highest is None else highest - start


def peak_host(work: Callable[[], object]) -> int | None:
    """Return the peak of anonymous memory in bytes while `work` runs; None where unknown."""
    host, done = Host(), threading.Event()
    if not host.watched:
        return None
    highest = host.held()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, host.held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return highest


def profile(side: Side, device: torch.device, trace: Path, count: int = 12) -> list[dict[str, Any]]:
    """Profile two steps: write a Chrome trace, return the top costs by self time.

    Each cost is an operation at one set of shapes: its ms and calls in a step, and its share of
    all.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    cuda = device.type == "cuda"
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    steps = 2
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        side.run(steps)
        synchronise(device)
    profiler.export_chrome_trace(str(trace))
    events = profiler.key_averages(group_by_input_shape=True)

    def cost(event: Any) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    total = sum(cost(event) for event in events) or 1.0
    return [
        {
            "operation": event.key,
            "shapes": " ".join(str(shape) for shape in event.input_shapes if shape),
            "ms": cost(event) / 1000.0 / steps,
            "calls": event.count // steps,
            "share": cost(event) / total,
        }
        for event in sorted(events, key=cost, reverse=True)[:count]
    ]
