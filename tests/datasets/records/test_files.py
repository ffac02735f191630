from __future__ import annotations

import io

import pytest

from delf_tf.checks import InputError
from delf_tf.datasets.records import files as record_files


def _shard(tmp_path, payloads, name="train-00000-of-00001"):
    path = tmp_path / name
    with path.open("wb") as file:
        for payload in payloads:
            record_files.write_record(file, payload)
    return path


def test_checksum_is_castagnoli():
    # RFC 3720, B.4: 32 zero bytes; and the customary check value of "123456789".
    def unmasked(data):
        rotated = (record_files.masked_crc32c(data) - 0xA282EAD8) & 0xFFFFFFFF
        return (rotated << 15 | rotated >> 17) & 0xFFFFFFFF

    assert unmasked(bytes(32)) == 0x8A9136AA
    assert unmasked(b"123456789") == 0xE3069283


def test_tensorflow_reads_what_is_written_and_the_reverse(tmp_path):
    import tensorflow as tf

    payloads = [b"a", bytes(range(256)) * 9, b"\n\x00"]
    path = _shard(tmp_path, payloads)
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(path))] == payloads
    theirs = tmp_path / "theirs"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert theirs.read_bytes() == path.read_bytes()
    found = record_files.scan(theirs, check="full")
    assert found.lengths.tolist() == [len(payload) for payload in payloads]


@pytest.mark.parametrize("check", record_files.CHECKS)
def test_scan_of_a_whole_shard(tmp_path, check):
    found = record_files.scan(_shard(tmp_path, [b"abc", b"de"]), check=check)
    assert found.offsets.tolist() == [0, 19]
    assert found.lengths.tolist() == [3, 2]
    assert found.bad == ()


def test_damaged_content_is_found_by_the_full_check_alone(tmp_path):
    path = _shard(tmp_path, [b"abc", b"de", b"f"])
    raw = bytearray(path.read_bytes())
    raw[19 + 12] ^= 1
    path.write_bytes(raw)
    assert record_files.scan(path).num_records == 3
    found = record_files.scan(path, check="full")
    assert [(bad.index, bad.path) for bad in found.bad] == [(1, str(path))]
    assert "CRC" in found.bad[0].reason
    assert found.lengths.tolist() == [3, 1]


def test_damaged_length_loses_the_rest(tmp_path):
    path = _shard(tmp_path, [b"abc", b"de", b"f"])
    raw = bytearray(path.read_bytes())
    raw[19] ^= 1
    path.write_bytes(raw)
    found = record_files.scan(path)
    assert found.num_records == 1
    assert found.bad[0].index == 1
    assert "rest of the shard" in found.bad[0].reason


@pytest.mark.parametrize("cut, reason", [(1, "inside the record"), (9, "header")])
def test_truncated_shard(tmp_path, cut, reason):
    path = _shard(tmp_path, [b"abc", b"de"])
    whole = path.read_bytes()
    path.write_bytes(whole[: -(1 if cut == 1 else 18 - 5)])
    found = record_files.scan(path)
    assert found.num_records == 1
    assert reason in found.bad[0].reason


def test_empty_records_and_empty_shards(tmp_path):
    found = record_files.scan(_shard(tmp_path, [b"", b"de"]))
    assert found.num_records == 1
    assert found.bad[0].index == 0
    empty = tmp_path / "empty"
    empty.touch()
    found = record_files.scan(empty)
    assert found.num_records == 0
    assert found.bad[0].index == -1


def test_repair_keeps_the_good_records(tmp_path):
    path = _shard(tmp_path, [b"abc", b"", b"de"])
    copy = record_files.repair(record_files.scan(path), tmp_path / "copy")
    expected = io.BytesIO()
    for payload in (b"abc", b"de"):
        record_files.write_record(expected, payload)
    assert copy.read_bytes() == expected.getvalue()


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="must be a file"):
        record_files.scan(tmp_path / "none")
    with pytest.raises(InputError, match="check must be one of"):
        record_files.scan(_shard(tmp_path, [b"a"]), check="ful")
