"""Check the name of a library optimizer against the tested ones, without the library."""

from __future__ import annotations

from gpt2.config.library import LIBRARIES, is_own_code, split_name
from gpt2.config.names import nearest
from gpt2.optim.libraries.compatibility import COMPATIBLE, REFUSED


def refusal(name: str) -> str:
    """Return why `name` ("po:sophia") cannot be used here; empty if it can.

    module:Class is only checked when it is imported. Raises ValueError for a malformed name.
    """
    first, second = split_name(name)
    if is_own_code(name) or second in COMPATIBLE[first]:
        return ""
    if reason := REFUSED[first].get(second):
        return f"--optimizer {name} cannot be used here: {reason}"
    longer = [other for other in REFUSED[first] if other.startswith(second)]
    if len(longer) == 1:
        return (
            f"--optimizer {name}: {first}:{longer[0]} exists but cannot be used here: "
            f"{REFUSED[first][longer[0]]}"
        )
    return (
        f"--optimizer {name}: {LIBRARIES[first].module} has no {second!r} that was tested"
        f"{nearest(second, sorted(COMPATIBLE[first]))} (make list-optimizers prints all)"
    )
