"""Configurations for the tests of the memory plan."""

from __future__ import annotations

from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.typed import Config


def configured(line: str) -> Config:
    """Return the configuration of a command line of train.py."""
    return bind(parse("train.py", "", line.split(), TrainActions)[0])
