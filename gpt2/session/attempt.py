"""One attempt at a run: train its parts, evaluate, and write the results."""

from __future__ import annotations

import contextlib
import itertools
import math
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.config.text import shown_path
from gpt2.config.typed import Config
from gpt2.data.batches import validation_batches
from gpt2.data.tokenizer import from_description
from gpt2.data.tokens import TokenFile
from gpt2.machine import device as machine
from gpt2.machine.out_of_memory import way_out
from gpt2.machine.signals import StopRequest
from gpt2.machine.watchdog import Watchdog
from gpt2.model.attention import attention_form
from gpt2.model.fused_softmax import check_compiler
from gpt2.model.generate import Sampling, stream
from gpt2.model.language_model import LanguageModel
from gpt2.model.loss import IGNORED
from gpt2.optim.adam_bf16 import Bf16StateAdam
from gpt2.optim.precision import DTYPES
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import SAMPLE, RunFolder, now, read_metrics
from gpt2.run_dir.resume import RUNS
from gpt2.session import messages
from gpt2.session.guards import WatchdogRecorder
from gpt2.session.record import run_record
from gpt2.session.retry import OutOfMemoryRetry, first_steps, try_micro_batch
from gpt2.session.summary import results
from gpt2.training.compilation import compile_or_fall_back
from gpt2.training.evaluation import evaluate
from gpt2.training.evaluation_batch import EvaluationBatch, Total, evaluation_batch
from gpt2.training.final_losses import FinalLosses, final_losses
from gpt2.training.loop import Parts, Progress, forward_backward, train
from gpt2.training.recorder import RunRecorder
from gpt2.training.rollback import Rollback, RolledBackError


class Attempt:
    """A run in its folder with all its parts, from its start or its last checkpoint."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        model: LanguageModel,
        parts: Parts,
        data: Mapping[str, TokenFile],
        stop: StopRequest,
        dog: Watchdog,
        began: Mapping[str, str] | None,
    ) -> None:
        self.config, self.folder, self.model, self.parts = config, folder, model, parts
        self.data, self.meta = data, data["train"].meta
        self.device = parts.precision.device
        self.console = Console(folder.log, silent=not parts.ranks.first)
        self.stop, self.dog, self.began = stop, dog, began
        training = config.train
        self.progress = Progress(parts.schedule.steps, float(training.max_time) or None)
        self.recorder = RunRecorder(
            folder,
            self.console,
            parts,
            self.progress,
            training,
            self.evaluate,
            self.stop,
            self.dog.during,
        )
        size = training.eval_batch_size or training.batch_size
        self.evaluation = EvaluationBatch(size, parts.ranks, self.console, self._record_reduction)
        self.record: dict[str, Any] = {}
        self._moved = False  # whether part of the run was computed under other conditions

    @contextlib.contextmanager
    def recorded(self, again: bool) -> Iterator[None]:
        """Keep run.json up to date: how the run started, and how it ended.

        `again`: a later attempt of a process that has recorded itself already.
        """
        self.record = run_record(
            self.folder, self.config, self.parts, self.meta, self.began, again, self.console.warn
        )
        self._moved = "determinism" in self.record
        self.evaluation.size = evaluation_batch(self.evaluation.size, self.record["lowered"])
        self._save_record()
        before = self.stop.notice
        if self.parts.ranks.first:
            self.stop.notice = self._notice
        try:
            yield
        except (OutOfMemoryRetry, RolledBackError):
            raise  # another attempt follows
        except BaseException as failure:
            error = self._with_a_way_back(failure)
            if self.record["status"] == "running":  # not an error in the sample of a finished run
                self._end("failed", error.code if isinstance(error, UserError) else Exit.BUG)
            lines = traceback.format_exception(error)
            if isinstance(error, UserError):
                lines = [f"error: {text}\n" for text in error.messages]
            with contextlib.suppress(OSError):  # a full disk may have ended the run
                self.folder.log.write("".join(lines))
            if error is not failure:
                raise error from failure
            raise
        finally:
            self.stop.notice = before  # releases this attempt's model before the next is built
            self.parts.batches.close()
            with self.dog.during("writing a checkpoint"):
                self.recorder.close()
            self.console.end()

    def run(self, rollback: Rollback | None = None) -> int:
        """Train, evaluate, write results; return the exit code. `rollback` led to this run."""
        with self.dog.during("reading the checkpoint"):
            self.recorder.restore(rollback)
        watched = WatchdogRecorder(self.recorder, self.dog, self.progress, self.model)
        with first_steps(self.config.train, self.parts.ranks, self.progress):
            try_micro_batch(self.parts, self.progress.data_step)
            self._compile()
            self._say_what_runs()
            self.recorder.catch_up()
            if not self.recorder.stopping:
                self.console.begin(self.progress.fraction())
                train(self.parts, self.progress, watched)
        if not self.recorder.stopping:
            self.parts.pruner.verify()
        self.recorder.save(required=True)
        if not self.recorder.stopping:
            self.recorder.conclude()
        losses = None if self.recorder.stopping else self._final_losses()
        if losses is None or self.recorder.stopping:
            self.console.end()
            return self._preempted()
        with self.dog.during(messages.ENDING):
            self._finish(losses)
        return Exit.OK

    def evaluate(self) -> float | None:
        """Return the loss over the whole validation split; None when stopped."""
        return self._loss_over(self.data["val"])

    def _final_losses(self) -> FinalLosses | None:
        """Return the losses that only a finished run has; None when stopped."""
        last = self.recorder.last
        assert last is not None
        block = self.config.model.block_size
        return final_losses(last["val_loss"], self.data, block, self._loss_over)

    def _loss_over(self, split: TokenFile, first: int = 0) -> float | None:
        """Return the loss over a split from input `first` on; None when stopped."""
        ranks = self.parts.ranks
        autocast = self.parts.precision.autocast

        def compute(size: int, total: Total) -> float | None:
            batches = self._announced(split, size, first)
            if ranks.sharded:  # every rank is needed for every batch
                return evaluate(self.model, batches, IGNORED, autocast)
            share = itertools.islice(batches, ranks.rank, None, ranks.world_size)
            return evaluate(self.model, share, IGNORED, autocast, self._may_stop, total)

        with self.dog.during("an evaluation"):
            return self.evaluation.evaluate(compute)

    def _announced(
        self, split: TokenFile, size: int, first: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an evaluation, and show on a terminal how many are done."""
        block = self.config.model.block_size
        count = math.ceil((len(split.ids) - 1 - first) / (size * block))
        self.console.phase("evaluating ...", begins=True)
        batches = validation_batches(split, block, size, self.device, first)
        for number, batch in enumerate(batches):
            yield batch
            self.console.phase(f"evaluating ... {min(1.0, (number + 1) / count):.0%}")

    def _record_reduction(self, change: dict[str, Any]) -> None:
        self.record["lowered"] = [*self.record["lowered"], change]
        try:
            self._save_record()
        except UserError as error:  # a full disk: a resume would only find the reduction out again
            self.console.warn(f"{error}; training continues")

    def _may_stop(self) -> bool:
        # One of several ranks must not stop alone: the others would wait for it.
        return bool(self.stop) and self.parts.ranks.world_size == 1

    def _compile(self) -> None:
        if self.config.model.loss == "fused":
            check_compiler(self.device, DTYPES[self.parts.precision.name])
        if not self.config.machine.compile:
            return
        self.console.say("compiling the model ...")

        def trial() -> None:
            forward_backward(self.parts, self.progress.data_step)
            self.parts.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad(), self.parts.precision.autocast():
                size, block = self.evaluation.size, self.config.model.block_size
                batches = validation_batches(self.data["val"], block, size, self.device)
                self.model.eval()(*next(batches))
            self.model.train()
            if isinstance(self.parts.optimizer, Bf16StateAdam):
                self.parts.optimizer.compile()

        failure = compile_or_fall_back(self.model.body, trial)
        self.model.train()
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.record.update(compiled=failure is None, compile_failure=failure)
        if failure is not None:
            self.console.warn(f"--compile: not possible here, continuing without ({failure})")

    def _say_what_runs(self) -> None:
        """Record the kernels and the determinism of the run, and print the lines of its start."""
        config, compiled = self.config, self.record["compiled"]
        dtype = DTYPES[self.parts.precision.name]
        self.record.update(
            attention=attention_form(config.model, config.train.batch_size, dtype, self.device),
            determinism=machine.determinism(
                self.device,
                compiled=compiled,
                deterministic=config.machine.deterministic,
                mixed=bool(config.train.max_time) or self._moved,
            ),
        )
        self._save_record()
        messages.startup(
            config, self.model, self.parts, self.progress, self.data, self.record, self.folder.path,
            self.console,
        )  # fmt: skip

    def _notice(self, signal: str, again: bool) -> str:
        """Return the answer to a signal; called from the thread of the stop request."""
        saved = max(store.steps(self.folder.checkpoints), default=None)
        if again:
            return messages.stopped_at_once(saved, self.folder.path)
        return messages.stopping(signal, self.dog.doing, self.dog.step_seconds, saved)

    def _with_a_way_back(self, error: BaseException) -> BaseException:
        """Return the error; for data that changed under the run, with the way to resume."""
        if not isinstance(error, UserError) or error.code != Exit.DATA:
            return error
        saved = max(store.steps(self.folder.checkpoints), default=None)
        *others, last = error.messages
        told = f"{last}; {messages.way_back(saved, self.folder.path)}"
        return UserError(*others, told, code=error.code, everywhere=error.everywhere)

    def _preempted(self) -> int:
        self.record["stopped_by"] = self.stop.signal
        self._end("preempted", Exit.PREEMPTED)
        way = f"the same command and --run-dir {shown_path(self.folder.path)}"
        if self.folder.path.parent == RUNS:
            way = f"make resume (or {way})"
        if self.stop.low_memory:
            way += f"; {way_out(self.config.train)}"
        by = "Ctrl-C" if self.stop.signal == "SIGINT" else self.stop.signal
        self.console.say(f"stopped ({by}) after step {self.progress.step}, checkpoint saved")
        self.console.say(f"resume with: {way}")
        for line in messages.make_adds(Exit.PREEMPTED) if self.parts.ranks.world_size == 1 else ():
            self.console.say(line)
        return Exit.PREEMPTED

    def _finish(self, losses: FinalLosses) -> None:
        summary = results(self.parts, self.progress, self.recorder, self.data, losses)
        ranks = self.parts.ranks
        if not (ranks.first or ranks.sharded):
            return
        # Write the results first: no failure of the sample can lose them.
        try:
            self.folder.write_json("summary.json", summary)
        except UserError as error:
            way = "the last checkpoint is whole: make room and run this again to have the results"
            raise UserError(f"{error}; {way}", code=Exit.CHECKPOINT) from error
        self._end("finished", Exit.OK)
        self.recorder.metrics.track(summary, "final/")
        if self.config.train.sample_tokens and not self.stop:
            text = from_description(self.meta.tokenizer).decode(self._sample())
            self.recorder.metrics.track_text("sample", text)
            self.console.end()
            self.console.say(f"{'--- sample ':-<72}\n{text}\n{'':-<72}")
            with contextlib.suppress(UserError):  # the results are saved, and the text was shown
                self.folder.write_text(SAMPLE, text)
        self.console.end()
        self.console.curve(read_metrics(self.folder.path))
        for number, line in enumerate(messages.final_summary(summary, self.folder.path)):
            self.console.say(line, bold=number == 0)

    def _sample(self) -> list[int]:
        """Return the token ids of a sample; fewer when asked to stop."""
        prompt, count = [self.data["val"].first()], self.config.train.sample_tokens
        found: list[int] = []
        with machine.exact_products():  # as sample.py has them: the same text from one seed
            for (token,) in stream(self.model, prompt, count, Sampling(temperature=0.8, seed=0)):
                found.append(token)
                said = f"writing a sample ... {len(found) / count:.0%}"
                self.console.phase(said, len(found) == 1)
                self.dog.alive()
                if self._may_stop():
                    break
        return found

    def _end(self, status: str, code: int) -> None:
        self.record.update(status=status, exit_code=int(code), end=now())
        with contextlib.suppress(UserError):
            self._save_record()

    def _save_record(self) -> None:
        self.folder.write_json("run.json", self.record)
