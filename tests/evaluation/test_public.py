"""The package's names lead where they say."""

from __future__ import annotations

import pytest

from delf_tf import evaluation


@pytest.mark.parametrize("name", evaluation.__all__)
def test_names_resolve(name):
    found = getattr(evaluation, name)
    assert found.__name__ == name
    assert found.__module__ == evaluation._PUBLIC[name]


def test_other_names_do_not():
    assert dir(evaluation) == sorted(evaluation.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        evaluation.nonsense  # noqa: B018
