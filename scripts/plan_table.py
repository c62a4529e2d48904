"""Compute the memory of training by size, micro-batch and checkpointing, as a Markdown table.

`--check FILE` compares the table in FILE with the one computed now; `--write FILE` replaces it,
between the two lines that mark its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("plan_table.py")

from collections.abc import Iterator, Sequence

from gpt2.config.cli import Parser
from gpt2.config.entry import run_entry
from gpt2.config.errors import UserError
from gpt2.planning.remedies import CONTEXT, RESERVED
from gpt2.planning.step import peak_of
from gpt2.planning.step_shape import FP32, StepShape

#: The published sizes: name, layers, heads, width.
SIZES = (
    ("gpt2", 12, 12, 768),
    ("gpt2-medium", 24, 16, 1024),
    ("gpt2-large", 36, 20, 1280),
    ("gpt2-xl", 48, 25, 1600),
)
#: Context and micro-batch of each column.
COLUMNS = ((256, 8), (256, 32), (256, 64), (256, 128), (1024, 8), (1024, 32))
VOCABULARY = 50257
START, END = "<!-- plan table: make plan-table -->", "<!-- end of the plan table -->"
#: MiB of fp32 logits at a time.
_CHUNK = 64


def main(argv: Sequence[str]) -> int:
    """Print, check or write the table; return the exit code.

    Raises UserError.
    """
    parser = Parser(prog="plan_table.py", description=__doc__)
    parser.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="FILE")
    asked = parser.parse_args(argv)
    text = "\n".join(table())
    if asked.check or asked.write:
        path = asked.check or asked.write
        before, held, after = parts(path)
        if asked.check and held.strip() != text.strip():
            raise UserError(f"{path}: the plan table is another: scripts/plan_table.py --write")
        if asked.write:
            path.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")
    else:
        print(text)
    return 0


def parts(path: Path) -> tuple[str, str, str]:
    """Return the text of a file before, in and after the table.

    Raises UserError.
    """
    text = path.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise UserError(f"{path} has no place for the table: two lines, {START} and {END}")
    before, _, rest = text.partition(START)
    held, _, after = rest.partition(END)
    return before, held, after


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    heads = [f"{batch} x {block}" for block, batch in COLUMNS]
    yield "| GB allocated | activations | state | " + " | ".join(heads) + " |"
    yield "|---|---|---|" + "--:|" * len(COLUMNS)
    for size in SIZES:
        yield from rows(*size)
    yield ""
    yield (
        "Computed, not measured on a GPU: bf16 AMP, AdamW, flash attention, dropout 0, no "
        "accumulation, `--loss-chunk-mib 64`. The default of a GPU, 512, takes up to 1.2 GB more. "
        "GB are 10^9 bytes allocated; columns are micro-batch x context; `state` is "
        "`--optimizer-state-precision`. Accumulation keeps the gradients, which adds "
        + ", ".join(f"{_parameters(*size[1:]) * FP32 / 1e9:.1f}" for size in SIZES)
        + f" GB for the four sizes. A card needs about {RESERVED - 1:.0%} and "
        f"{CONTEXT / 1e9:.1f} GB more (assumed). At any batch size, 1.5 B parameters with AdamW in "
        f"fp32 take {16 * _parameters(*SIZES[-1][1:]) / 1e9:.1f} GB."
    )


def rows(name: str, layers: int, heads: int, width: int) -> Iterator[str]:
    """Yield the lines of one size."""
    for checkpointing, state in (("none", 8), ("selective", 8), ("full", 8), ("full", 4)):
        cells = []
        for block, batch in COLUMNS:
            shape = _work(layers, heads, width, block, batch, checkpointing, state)
            cells.append(f"{peak_of(shape).total / 1e9:.1f}")
        precision = "fp32" if state == 8 else "bf16"
        yield f"| {name} | {checkpointing} | {precision} | " + " | ".join(cells) + " |"


def _work(
    layers: int, heads: int, width: int, block: int, batch: int, checkpointing: str, state: int
) -> StepShape:
    blank = StepShape(
        layers=layers,
        heads=heads,
        width=width,
        block=block,
        vocabulary=VOCABULARY,
        bias=True,
        batch=batch,
        accumulated=False,
        precision="bf16",
        attention="fused",
        dropout=False,
        cpu_kernels=False,
        chunk_mib=_CHUNK,
        tall=False,
        fused=False,
        checkpointing=checkpointing,
        state=0,
        step=0,
    )
    return StepShape(**{**vars(blank), "state": state * blank.parameters})


def _parameters(layers: int, heads: int, width: int) -> int:
    return _work(layers, heads, width, 1024, 1, "none", 0).parameters


if __name__ == "__main__":
    run_entry("plan_table.py", lambda: main(sys.argv[1:]))
