"""The architecture's import rules: layers point down, and the light packages load no TensorFlow."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

LAYERS = {
    0: ["types", "checks", "config", "artifacts", "progress", "safe_pickle", "protos"],
    1: ["datasets", "synthetic", "models", "features", "matching", "evaluation"],
    2: ["extraction", "training", "retrieval"],
    3: ["report", "export", "serving"],
    4: ["benchmarks"],
    5: ["tools"],
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
FOLDERS = {"protos": "protos", "tools": "tools"}
MAX_MODULES = 15
NO_TENSORFLOW = ["types", "features", "matching", "retrieval", "evaluation", "report"]


def _sources(repository, part):
    folder = repository / FOLDERS.get(part, f"delf_tf/{part}")
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _imported_parts(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "delf_tf" and len(parts) > 1 and parts[1] in LAYER_OF:
                yield parts[1]


@pytest.mark.parametrize("part", LAYER_OF)
def test_imports_point_down(repository, part):
    sources = _sources(repository, part)
    assert sources
    for source in sources:
        for imported in _imported_parts(source):
            allowed = imported == part or LAYER_OF[imported] < LAYER_OF[part]
            # The modules of layer 0 may use each other.
            allowed = allowed or LAYER_OF[imported] == LAYER_OF[part] == 0
            assert allowed, f"{source} (layer {LAYER_OF[part]}) imports {imported}"


@pytest.mark.parametrize("part", NO_TENSORFLOW)
def test_light_packages_import_no_tensorflow(repository, part):
    modules = [
        "delf_tf." + ".".join(source.relative_to(repository / "delf_tf").with_suffix("").parts)
        for source in _sources(repository, part)
    ]
    names = [m[: -len(".__init__")] if m.endswith(".__init__") else m for m in modules]
    imports = "; ".join(f"import {name}" for name in names)
    script = f"{imports}; import sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=repository)


def test_every_part_has_a_layer(repository):
    found = {
        path.stem if path.is_file() else path.name
        for path in (repository / "delf_tf").iterdir()
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
    }
    assert found <= set(LAYER_OF)


def test_files_stay_short(repository):
    for folder in ("delf_tf", "tools", "protos", "configs", "tests"):
        for source in (repository / folder).rglob("*.py"):
            if not source.name.endswith("_pb2.py"):
                lines = len(source.read_text(encoding="utf-8").splitlines())
                assert lines <= 500, f"{source} has {lines} lines"
                assert source.stem != "utils"


def test_rooms_stay_small(repository):
    folders = {path.parent for path in (repository / "delf_tf").rglob("*.py")}
    for folder in folders:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MAX_MODULES, f"{folder} has {len(modules)} modules"
