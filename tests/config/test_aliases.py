"""Names of nanoGPT and Hugging Face lead to our flags, and conditions are said as flags."""

from __future__ import annotations

import pytest

from gpt2.config import actions, cli
from gpt2.config.aliases import ALIASES, with_dashes
from gpt2.config.bind import bind
from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        bind(cli.parse("train.py", "", argv, actions.TrainActions)[0])
    assert len(caught.value.messages) == 1
    return caught.value.messages[0]


def test_every_alias_leads_to_a_flag_and_is_none_itself() -> None:
    options = Options()
    train = {flag_of(name): name for name in options.names()}
    others = {
        flag_of(field)
        for kind in (actions.TrainActions, actions.SampleActions)
        for field in kind.__dataclass_fields__
    }
    for theirs, ours in ALIASES.items():
        flag, _, value = ours.partition(" ")
        assert flag in train or flag in others, ours
        assert f"--{theirs}" not in train, theirs
        assert with_dashes(theirs) == theirs
        if value:
            assert value in options.members(train[flag]), ours


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--lr", "1e-3"], "unknown flag --lr; here it is --learning-rate"),
        (["--lr=1e-3"], "unknown flag --lr=1e-3; here it is --learning-rate"),
        (["--wandb"], "here it is --tracker wandb"),
        (["--bf16"], "here it is --precision bf16"),
        (["--max_iters", "5"], "here it is --max-steps"),
        (["--out_dir", "x"], "here it is --run-dir"),
        (["--wandb_log", "True"], "here it is --tracker wandb"),
        (
            ["--muon-momentum", "0.9"],
            "--muon-momentum has no effect here: it needs --optimizer muon",
        ),
        (
            ["--target-sparsity", "0.5"],
            "--target-sparsity has no effect here: it needs a --pruning-method other than none",
        ),
        (["--optimizer", "sgd", "--pruning-method", "state"], "it needs --optimizer ad"),
        (["--max-time", "5x"], "--max-time: '5x' is not a time; write 90, 90s, 5m or 1h"),
    ],
)
def test_what_is_said(typed: list[str], said: str) -> None:
    assert said in refused(*typed)


def test_a_refused_choice_has_no_second_error() -> None:
    said = refused("--pruning-method", "magnitud", "--target-sparsity", "0.5")
    assert said.startswith("--pruning-method 'magnitud' is unknown; did you mean")
    assert "no effect" not in said
    said = refused("--optimizer", "sgdd", "--sgd-momentum", "0.9", "--pruning-method", "none")
    assert "no effect" not in said
    typed = ["--optimizer", "sgdd", "--target-sparsity", "0.5"]
    with pytest.raises(UserError) as caught:  # the second is an error of its own
        bind(cli.parse("train.py", "", typed, actions.TrainActions)[0])
    assert "--target-sparsity has no effect here" in caught.value.messages[1]


def test_underscores_and_capitals_are_taken() -> None:
    options, _ = cli.parse(
        "train.py", "", ["--learning_rate", "1e-3", "--batch_size=3", "--optimizer", "adamW"],
        actions.TrainActions,
    )  # fmt: skip
    config = bind(options)
    assert (config.optim.learning_rate, config.train.batch_size) == (1e-3, 3)
    assert config.optim.optimizer == "adamw"
    assert refused("--batch_size", "--seed=3") == "--batch-size needs a value (see --help)"


def test_a_flag_of_another_entry_is_named_with_it() -> None:
    assert refused("--start", "hi").startswith(
        "unknown flag --start; here it is --prompt of sample.py"
    )
    said = refused("--ckpt", "x")
    assert "here it is --run of sample.py and evaluate.py and export.py" in said
