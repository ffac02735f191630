from __future__ import annotations

import subprocess
import sys

import pytest

import delf_tf


def test_public_names_resolve():
    for name in delf_tf.__all__:
        assert getattr(delf_tf, name) is not None
    assert "create_model" in dir(delf_tf)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        delf_tf.creat_model  # noqa: B018


def test_import_is_light(repository):
    script = (
        "import sys, delf_tf; delf_tf.Ranking; "
        "assert not {'tensorflow', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=repository)
