"""Files that once hung or swelled, made anew, and at the command line: one clear line, exit 1."""

from __future__ import annotations

import functools
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.test_npz import archive, npy

# Sixteen references at each of eight levels: a few hundred bytes, four thousand million values.
NESTED = functools.reduce(lambda inner, _: [inner] * 16, range(8), [])
NAMES = {"imlist": ["a"], "qimlist": ["q"]}
GROUND_TRUTH = (
    b"\x80\x02}(X\x06\0\0\0imlistX\x01\0\0\0aX\x07\0\0\0qimlistX\x01\0\0\0qX\x03\0\0\0gnd"
)
ONE = npy("<i4", (1, 1), b"\0" * 4)


def _scans() -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 900 + data[-2:]


def _ranking(path, descr, shape):
    ids = npy("<U1", (1,), b"a\0\0\0")
    first = npy(descr, shape, b"a\0\0\0")
    return archive(
        path, ("query_ids.npy", first), ("database_ids.npy", ids), ("indices.npy", ONE)
    ).read_bytes()


def _evaluate(path, truth):
    return ("evaluate", f"--ranking={path}", f"--ground_truth={truth}")


def _convert(weights, folder):
    flags = (f"--input={weights}", f"--output={folder}/out.npz")
    return "convert_weights", "--source=dolg_paddle", *flags


@pytest.fixture
def sample(tmp_path):
    """Writes a file of a name; returns its path."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def _run(*arguments, limited=True):
    """Runs a tool for at most a minute of the processor, in 1 GiB above what its imports take.

    What imports TensorFlow on its way takes more before it comes to the file.
    """
    script = (
        "import resource, sys\nfrom delf_tf.tools import main\nimport delf_tf.pipelines.runtime\n"
        f"import delf_tf.tools.{arguments[0]}\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        f"if {limited}:\n    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)\n"
        "sys.exit(main.main(['delf_tf', *sys.argv[1:]]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"},
    )


def _refused(done):
    assert done.returncode in (1, 2), done.stderr[-1500:]
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("delf_tf "), last
    return last


@pytest.fixture
def ranking(tmp_path):
    np.savez(tmp_path / "r.npz", query_ids=["q"], database_ids=["a"], indices=np.zeros((1, 1), int))
    return tmp_path / "r.npz"


TUPLES = b"cbuiltins\ntuple\nq\0](" + b"N" * 30_000 + b"e\x85q\1](" + b"h\0h\1R" * 60_000 + b"e"


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({**NAMES, "gnd": NESTED}, 2), GROUND_TRUTH + TUPLES + b"u."],
    ids=["nested", "tuples"],
)
def test_ground_truths_of_much(sample, ranking, content):
    done = _run(*_evaluate(ranking, sample("gnd.pkl", content)))
    assert "far more values than the file has bytes for" in _refused(done)


def test_weights_of_much(sample, tmp_path):
    weights = sample("nested.pdparams", pickle.dumps({"a": NESTED}, 2))
    done = _run(*_convert(weights, tmp_path), limited=False)
    assert "far more values" in _refused(done)


@pytest.mark.parametrize(("descr", "shape"), [("<U1", ((1,),)), ("<U2147483647", (1,))])
def test_rankings_that_lie(sample, tmp_path, descr, shape):
    path = sample("rank.npz", _ranking(tmp_path / "x.npz", descr, shape))
    labels = sample("labels.csv", b"image,place\na,1\n")
    assert "must be a whole .npz file" in _refused(_run(*_evaluate(path, labels)))


def test_a_picture_of_many_scans(sample, tmp_path):
    picture = sample("scans.jpg", _scans())
    done = _run("match", picture, picture, f"--output={tmp_path}/m.png", limited=False)
    assert "must have at most" in _refused(done)
    assert "scans=9" in done.stderr


def test_the_samples_that_were_found(shared, ranking, tmp_path):
    folder = shared / "hostile"
    if not folder.is_dir():
        pytest.skip("needs ../shared/hostile")
    labels = tmp_path / "labels.csv"
    labels.write_text("image,place\na,1\n")
    for name in ("gnd_nested.pkl", "gnd_tuple_bomb.pkl"):
        _refused(_run(*_evaluate(ranking, folder / name)))
    for name in ("rank_token.npz", "rank_u.npz"):
        _refused(_run(*_evaluate(folder / name, labels)))
    _refused(_run(*_convert(folder / "nested.pdparams", tmp_path), limited=False))
    scans = folder / "scans_7000_900.jpg"
    _refused(_run("match", scans, scans, f"--output={tmp_path}/m.png", limited=False))
