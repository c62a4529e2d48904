from __future__ import annotations

from gpt2.config import effects
from gpt2.config.effects import free_at_resume, not_compared, product_at_resume
from gpt2.config.options import Options

PLAIN = {"spike": "off"}


def test_what_changes_no_result_is_free_at_a_resume_and_makes_no_row() -> None:
    for name in ("eval_batch_size", "activation_checkpointing", "num_threads", "log_interval"):
        assert name in free_at_resume(PLAIN)
        assert name in not_compared(PLAIN)


def test_which_run_it_is_makes_no_row_and_stays() -> None:
    assert {"seed", "data_dir"} <= not_compared(PLAIN)
    assert "seed" not in free_at_resume(PLAIN)
    assert "data_dir" in free_at_resume(PLAIN)  # the hash of the data is compared


def test_what_run_json_records_makes_no_row_and_stays() -> None:
    assert {"precision", "compile", "deterministic", "batch_size"} <= not_compared(PLAIN)
    assert not {"precision", "compile", "deterministic", "batch_size"} & free_at_resume(PLAIN)
    assert set(product_at_resume()) == {"batch_size", "gradient_accumulation"}


def test_a_rollback_depends_on_where_the_checkpoints_are() -> None:
    assert "checkpoint_interval" in free_at_resume(PLAIN) & not_compared(PLAIN)
    rollback = {"spike": "rollback"}
    assert "checkpoint_interval" not in free_at_resume(rollback) | not_compared(rollback)


def test_the_name_and_the_options_of_a_tracker_change_no_result() -> None:
    told = {"name", "tracker", "trackio_project", "trackio_group", "wandb_project", "wandb_tags"}
    assert told <= free_at_resume(PLAIN) & not_compared(PLAIN)


def test_most_options_make_another_result() -> None:
    fields = {name.lower() for name in Options().names()}
    assert effects.notes().keys() <= fields
    for name in ("learning_rate", "max_steps", "dropout", "sparsity_pattern", "spike", "dataset"):
        assert name in fields
        assert name not in free_at_resume(PLAIN) | not_compared(PLAIN)
