"""The plan before the start: print it on request, and refuse runs that cannot fit."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from gpt2.config.actions import TrainActions
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config
from gpt2.data.declaration import tokenizer_of
from gpt2.data.meta import META
from gpt2.data.tokenizer import GPT2_VOCAB_SIZE, Gpt2Tokenizer
from gpt2.machine.ranks import DistributedContext
from gpt2.planning.plan import bounded, plan
from gpt2.planning.remedies import largest
from gpt2.planning.text import facts, lines, minutes_on_cpu, verdict, without_gpu
from gpt2.run_dir.resume import keep_effective_batch, load_config, with_batch
from gpt2.training.assembly import length_of, open_data

_ALONE = DistributedContext()


def show(config: Config, actions: TrainActions) -> int:
    """Print the plan of a run without starting it; return MEMORY if it cannot fit.

    Works before the data are prepared, if their vocabulary is known. Raises UserError.
    """
    data = None
    if (config.data.data_dir / config.data.dataset / META).exists():
        data = open_data(config)
        vocabulary = data["train"].meta.vocab_size
    elif tokenizer_of(config.data) != Gpt2Tokenizer.name:
        raise UserError(
            f"--plan: the vocabulary of {config.data.dataset} is known once its text is prepared: "
            "make prepare",
            code=Exit.DATA,
        )
    else:
        vocabulary = GPT2_VOCAB_SIZE
    if actions.auto_batch:
        config = choose_batch(config, vocabulary, actions.plan_for)
    planned = plan(config, vocabulary, actions.plan_for, run=actions.run_dir)
    steps = config.train.max_steps or None
    if data is not None:
        steps = length_of(config, data["train"], 1)
    told = facts(planned, data, steps)
    print(json.dumps(told, indent=2) if actions.plan_json else "\n".join(lines(planned, told)))
    return Exit.OK if planned.fits else Exit.MEMORY


def refuse_or_fit(
    config: Config, actions: TrainActions, vocab_size: int, ranks: DistributedContext
) -> Config:
    """Refuse a run that cannot fit; with --auto-batch, return `config` with a batch that does.

    A resumed run keeps its own batch. Raises UserError (MEMORY) with plan and remedies.
    """
    begun = actions.run_dir is not None and (actions.run_dir / "config").exists()
    if actions.auto_batch and not begun:
        config = choose_batch(config, vocab_size, ranks=ranks)
    elif actions.auto_batch and actions.run_dir is not None:
        config = _own_batch(config, actions.run_dir, ranks)
    if actions.ignore_plan or config.machine.shard != "none":  # sharded steps are not planned
        return config
    computed = config
    if begun:
        assert actions.run_dir is not None
        computed = keep_effective_batch(config, actions.run_dir, ranks.world_size)
    planning = functools.partial(plan, computed, vocab_size, here=ranks.here, run=actions.run_dir)
    if bounded(computed) and planning(bounds=True).surely_fits:
        return config
    planned = planning()
    if not planned.fits:
        told = facts(planned, None, None)
        said = "\n".join(verdict(planned, told)).removeprefix("verdict: ")
        said += "\n  --plan shows what takes how much; --ignore-plan starts nevertheless"
        for note in without_gpu(planned):
            said += f"\n  {note}"
        if planned.device.type == "cpu" and (way := minutes_on_cpu(computed)):
            said += f"\n  {way}"
        raise UserError(said, code=Exit.MEMORY)
    return config


def _own_batch(config: Config, run: Path, ranks: DistributedContext) -> Config:
    """Return `config` with the micro-batch that was chosen for the run in `run`."""
    own, given = load_config(run).train, config.train
    product = own.batch_size * own.gradient_accumulation
    if product != given.batch_size * given.gradient_accumulation:
        return config  # another run, which will be refused by name
    if ranks.first:
        print(f"--auto-batch: the run in {run} keeps --batch-size {own.batch_size}", flush=True)
    return with_batch(config, own.batch_size)


def choose_batch(
    config: Config,
    vocab_size: int,
    plan_for: int | None = None,
    ranks: DistributedContext = _ALONE,
) -> Config:
    """Return `config` with the largest micro-batch that fits every rank, same effective batch."""
    planned = plan(config, vocab_size, plan_for, here=ranks.here)
    effective = planned.effective
    # Ranks may have different amounts of free memory, but must use the same batch.
    sizes = ranks.gather(largest(planned.shape, effective, effective, planned.budget))
    size = None if None in sizes else min(sizes)
    if planned.budget.size is None or size is None:
        why = "is unknown" if planned.budget.size is None else "is too small for any micro-batch"
        raise UserError(
            f"--auto-batch: {planned.budget.name} {why}: give --batch-size, or --plan shows more",
            code=Exit.MEMORY,
        )
    config = with_batch(config, size)
    if ranks.first:
        accumulation = config.train.gradient_accumulation
        text = f"--batch-size {config.train.batch_size} --gradient-accumulation {accumulation}"
        print(f"--auto-batch: {text}", flush=True)
    return config
