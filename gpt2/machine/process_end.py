"""End a process that can no longer be asked to stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NoReturn

from gpt2.config.errors import Exit


def end_process(code: Exit, last_words: Callable[[], object], patience: float) -> NoReturn:
    """End this process with `code` after `last_words`, waiting `patience` seconds for them.

    They run in their own thread: the disk or terminal that they write to may hang.
    """
    speaker = threading.Thread(target=last_words, daemon=True)
    speaker.start()
    speaker.join(patience)
    os._exit(code)
