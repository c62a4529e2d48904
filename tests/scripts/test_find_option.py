"""make explain OPTION=/word: what people search for is found."""

from __future__ import annotations

import pytest

from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from scripts import find_option
from scripts.kconfig import search


@pytest.fixture(scope="module")
def entries() -> list[search.Entry]:
    return [*search.options(), *search.actions()]


@pytest.mark.parametrize(
    ("word", "options"),
    [
        (
            "oom",
            ["--batch-size", "--activation-checkpointing", "--host-memory-limit", "--auto-batch"],
        ),
        ("NaN", ["--nonfinite"]),
        ("inf", ["--nonfinite"]),
        ("resume", ["--checkpoint-interval", "--resume", "CONFIG_MATRIX_NAME"]),
        ("skip", ["--nonfinite skip", "--spike skip"]),
        ("shard", ["--shard", "--shard fsdp"]),
        ("lr", ["--learning-rate", "--min-lr"]),
        ("wandb", ["--tracker wandb"]),
        ("max_iters", ["--max-steps"]),
    ],
)
def test_the_words_that_people_search_for_are_found(
    word: str, options: list[str], entries: list[search.Entry]
) -> None:
    found = [entry.typed for entry, _ in search.matching(word, entries)]
    assert set(options) <= set(found)
    assert len(found) < 20


def test_every_option_can_be_found_by_its_flag(entries: list[search.Entry]) -> None:
    typed = {entry.typed for entry in entries}
    assert {flag_of(name) for name in Options().names()} <= typed


def test_names_come_before_help_and_the_sentence_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert find_option.main(["/skip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["--nonfinite", "skip", "skip"]
    assert lines[1].strip() == "Skip the optimizer step, count it, and continue."
    assert "Ten skipped steps in a row" in " ".join(lines)
    assert lines[-1] == "make explain OPTION=NAME says all about one of them"


@pytest.mark.parametrize(
    ("word", "said"), [("/xyzzy", "no option has 'xyzzy'"), ("/", "which word?")]
)
def test_a_word_that_is_nowhere_is_one_line(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        find_option.main([word])
