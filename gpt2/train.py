"""Train GPT-2: flags -> configuration -> parts -> loop -> results."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("train.py")

from collections.abc import Sequence

from gpt2.config import plugins
from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.entry import run_entry
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.run_dir.version_1_defaults import take_from_run


def main(argv: Sequence[str]) -> int:
    """Run the action or the training that `argv` asks for; return the exit code."""
    options, actions = parse("train.py", "Train GPT-2 on one machine.", argv, TrainActions)
    take_from_run(options, actions.run_dir)
    config = bind(options)
    if actions.list_optimizers:
        from gpt2.planning.optimizer_list import show

        show()
        return 0
    if actions.measure_precision:
        from gpt2.planning.cpu_precision import report

        print(report(config))
        return 0
    if actions.check_config:
        if plugins.defines(PLUGIN_PACKAGES["OPTIMIZER"], config.optim.optimizer, "check"):
            from gpt2.training.assembly import check_optimizer

            check_optimizer(config)
        print("options are valid; 'make plan' also looks at device, data and memory")
        return 0
    if actions.plan or actions.plan_json:
        from gpt2.planning.command import show as show_plan

        return show_plan(config, actions)
    # Imported this late because torch takes seconds: every option is checked before.
    from gpt2.session.session import run

    return run(config, options, actions, argv)


if __name__ == "__main__":
    run_entry("train.py", lambda: main(sys.argv[1:]))
