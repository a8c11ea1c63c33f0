from __future__ import annotations

from typing import Any

import pytest

from pybuild.dockerfile.errors import BadSubstitution
from pybuild.dockerfile.words import expand, expand_words

Case = dict[str, Any]


@pytest.mark.conformance("shell/env.json")
def test_expand(case: Case) -> None:
    if not case.get("error"):
        assert expand(case["input"], case["env"]) == case["expected"]
        return
    with pytest.raises(BadSubstitution) as caught:
        expand(case["input"], case["env"])
    assert case.get("error_contains", "") in caught.value.message


@pytest.mark.conformance("shell/words.json")
def test_expand_words(case: Case) -> None:
    assert expand_words(case["input"], case["env"]) == tuple(case["expected"])
