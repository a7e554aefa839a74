"""What every refusal of the toolkit looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from jkofilter import InputError


def refused(
    action: Callable[[], Any], name: str, kind: type[Exception] | tuple[type[Exception], ...] = InputError
) -> None:
    """``action`` raises one sentence with ``name`` in it as a word of its own."""
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert re.search(rf"\b{re.escape(name)}\b", message), message
    assert "\n" not in message
    assert message.endswith("."), message
    assert not re.search(r"[.!?]\s+[A-Z]", message), f"more than one sentence: {message}"
