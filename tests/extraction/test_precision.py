from __future__ import annotations

import pytest
import tensorflow as tf

from delf_tf.extraction.backends import precision


@pytest.fixture
def cpu_info(tmp_path, monkeypatch):
    def write(flags):
        (tmp_path / "cpuinfo").write_text(
            f"processor : 0\nflags\t\t: fpu {flags}\n\nprocessor : 1\n"
        )

    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.platform, "system", lambda: "Linux")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    return write


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512f", False),
        ("avx512f avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
        ("avx512_bf16x", False),
    ],
)
def test_auto_follows_the_processor(cpu_info, flags, expected):
    cpu_info(flags)
    assert precision.has_fast_bfloat16() == expected


def test_auto_without_one_dnn_or_linux_is_float32(cpu_info, monkeypatch):
    cpu_info("avx512_bf16")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not precision.has_fast_bfloat16()
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert precision.has_fast_bfloat16()
    monkeypatch.setattr(precision.platform, "system", lambda: "Darwin")
    assert not precision.has_fast_bfloat16()


def test_auto_without_cpuinfo_is_float32(cpu_info):
    assert not precision.has_fast_bfloat16()


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((9, 0), True)])
def test_auto_follows_the_gpu_before_the_processor(cpu_info, monkeypatch, capability, expected):
    cpu_info("avx512_bf16")
    config = tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(
        config.experimental, "get_device_details", lambda gpu: {"compute_capability": capability}
    )
    assert precision.has_fast_bfloat16() is expected
