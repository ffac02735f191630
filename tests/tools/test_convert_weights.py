"""The convert_weights tool: files in, a weights file out, faults in one line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from delf_tf.models.create import create_model
from delf_tf.models.zoo import checkpoint
from delf_tf.tools import command_line, convert_weights
from tests.golden_arrays import multiscale_image
from tests.golden_weights import regenerate


def _run(*argv):
    return command_line.run(
        convert_weights.main, convert_weights.FLAGS, ["delf_tf convert_weights", *argv]
    )


@pytest.fixture(scope="module")
def weights(repository, tmp_path_factory):
    """The super-features reference network's state dict, as .npz."""
    path = tmp_path_factory.mktemp("foreign") / "fire.npz"
    golden = repository / "tests/golden/models/fire_r50_state_dict.json"
    np.savez(path, **regenerate(golden))
    return path


def test_a_file_becomes_a_model(weights, tmp_path, capsys):
    output = tmp_path / "ours.npz"
    argv = ("--source=superfeatures_pytorch", f"--input={weights}", f"--output={output}")
    assert _run(*argv, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(output)
    assert told["name"] == "superfeatures_resnet50"
    model = create_model("superfeatures_resnet50", weights=output)
    assert model.options["kwargs"]["num_superfeatures"] == 256
    before = output.read_bytes()
    assert _run(*argv) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_paddle_files_are_read_as_data(repository, tmp_path, capsys):
    golden = repository / "tests/golden/models/dolg_r50_no_multi_atrous_state_dict.json"
    state = {}
    for name, array in regenerate(golden).items():
        renamed = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        if not name.startswith(("desc_cls", "pool_g")) and not name.endswith("tracked"):
            state[renamed] = array.T if array.ndim == 2 else array
    state["StructuredToParameterName@@"] = {"fc.weight": "linear_0.w_0"}
    (tmp_path / "dolg.pdparams").write_bytes(pickle.dumps(state, protocol=2))
    argv = [f"--input={tmp_path}/dolg.pdparams", f"--output={tmp_path}/ours.npz"]
    assert _run("--source=dolg_paddle", *argv) == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path}/ours.npz"


def test_differences_are_told_apart(tmp_path, repository, golden_dir, capsys):
    with np.load(golden_dir / "dolg/multiscale_preprocess.npz") as golden:
        bgr, descriptor = multiscale_image(), golden["dolg_r50_noma_calm/scale1.0"][0]
    np.savez(
        tmp_path / "reference.npz",
        image=bgr[..., ::-1],
        network_input=(bgr / 255 - [0.406, 0.456, 0.485]) / [0.225, 0.224, 0.229],
        descriptor=descriptor,
    )
    state = "tests/golden/models/dolg_r50_no_multi_atrous_state_dict.json"
    np.savez(tmp_path / "dolg.npz", **regenerate(repository / state))
    argv = [f"--input={tmp_path}/dolg.npz", f"--output={tmp_path}/ours.npz", "--json"]
    assert _run("--source=dolg_pytorch", *argv, f"--reference={tmp_path}/reference.npz") == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert differences["model"] < 1e-4
    assert differences["preprocessing"] < 1e-6


def test_wrong_files_write_nothing(weights, tmp_path, capsys):
    output = tmp_path / "ours.npz"
    argv = [f"--input={weights}", f"--output={output}"]
    assert _run("--source=mobilenet_v2_onnx_zoo", *argv) == 1
    error = capsys.readouterr().err
    assert "unknown: features.0.weight [64, 3, 7, 7]" in error
    assert error.splitlines()[-1].startswith("delf_tf convert_weights: The arrays must be")
    (tmp_path / "evil.pdparams").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    argv[0] = f"--input={tmp_path}/evil.pdparams"
    assert _run("--source=dolg_paddle", *argv) == 1
    assert "Nothing in it was run" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "--source, --input and --output must be given"),
        (["--source=dolg_pytorch", "--input=x.npz"], "--output must be given"),
        (["--source=dolg_padle", "--input=x", "--output=y"], "Did you mean 'dolg_paddle'"),
        (["--source=dolg_pytorch", "--input=x", "--output=y", "z"], "flags only"),
    ],
)
def test_usage_errors(capsys, argv, told):
    assert _run(*argv) == 2
    assert told in capsys.readouterr().err


def test_parts_are_joined(tmp_path, capsys):
    parts = {
        name: checkpoint.save_weights(create_model(name, seed=0), tmp_path / f"{name}.npz")
        for name in ("gem_efficientnet_lite2", "xfeat")
    }
    output = tmp_path / "joined.npz"
    argv = ["--source=compact_parts", f"--input={parts['gem_efficientnet_lite2']}"]
    assert _run(*argv, f"--output={output}") == 2
    assert "--local" in capsys.readouterr().err
    assert _run(*argv, f"--local={parts['xfeat']}", f"--output={output}") == 0
    model = create_model("compact_efficientnet_lite2", output)
    assert model.global_dim == 2000
    assert model.attention is None
    argv += [f"--local={parts['xfeat']}", f"--output={output}", "--overwrite"]
    assert _run(*argv, "--attention_dim=-1") == 2
    assert "--attention_dim=-1" in capsys.readouterr().err
    assert _run(*argv, "--attention_dim=8") == 0
    assert create_model("compact_efficientnet_lite2", output).attention.hidden_dim == 8
