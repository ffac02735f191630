"""The architecture's import rules: layers point down, no circles, light packages stay light."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys

import pytest

from delf_tf.tools.main import TOOLS

LAYERS = {
    0: [
        *("types", "checks", "config", "options", "artifacts", "npz", "progress", "safe_pickle"),
        *("protos", "quiet_tensorflow", "tensor_file", "threads", "beam"),
    ],
    1: ["datasets", "synthetic", "models", "features", "matching", "evaluation"],
    2: ["extraction", "training", "retrieval"],
    3: ["report", "export", "serving"],
    4: ["pipelines"],
    5: ["benchmarks"],
    6: ["tools"],
}
# Modules that are named in strings are imported from there, such as "delf_tf.types:Ranking".
DOTTED = re.compile(r"delf_tf(\.\w+)+(:\w+)?")
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
FOLDERS = {"protos": "protos", "tools": "tools"}
MAX_MODULES = 15
MAX_TOOL_LINES = 130
NO_TENSORFLOW = ["types", "features", "matching", "retrieval", "evaluation", "report"]


def _sources(repository, part):
    folder = repository / FOLDERS.get(part, f"delf_tf/{part}")
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _imported(source, *, for_types=True):
    """Yields every dotted name of the package that a file imports, lazily or by a string too."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    skipped = set() if for_types else _for_types_alone(tree)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value.replace(":", ".")] if DOTTED.fullmatch(node.value) else []
        if node not in skipped:
            yield from (name for name in names if name.startswith("delf_tf."))


def _for_types_alone(tree):
    """Returns the nodes below `if TYPE_CHECKING`, which are never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    named = [node for node in blocks if getattr(node.test, "id", "") == "TYPE_CHECKING"]
    return {below for node in named for below in ast.walk(node)}


def _imported_parts(source):
    for name in _imported(source):
        part = name.split(".")[1]
        if part in LAYER_OF:
            yield part


def _modules(repository):
    """Returns every module of the package by its dotted name."""
    modules = {}
    for part, folder in [("", "delf_tf"), *((f".{name}", name) for name in FOLDERS)]:
        for source in (repository / folder).rglob("*.py"):
            relative = source.relative_to(repository / folder).with_suffix("")
            name = ".".join((f"delf_tf{part}", *relative.parts))
            modules[name.removesuffix(".__init__")] = source
    return modules


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


def test_the_public_names_are_of_layers_below_the_tools(repository):
    parts = set(_imported_parts(repository / "delf_tf" / "__init__.py"))
    assert "types" in parts
    assert parts <= {part for part in LAYER_OF if LAYER_OF[part] < LAYER_OF["tools"]}


def test_no_module_imports_itself_by_way_of_others(repository):
    modules = _modules(repository)
    graph = {}
    for name, source in modules.items():
        found = set()
        for imported in _imported(source, for_types=False):
            owner = imported
            while owner not in modules:
                owner = owner.rpartition(".")[0]
            found.add(owner)
        # A package's __init__ is a facade: it names its modules, which may name the package.
        graph[name] = set() if source.name == "__init__.py" else found - {name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


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


def test_tools_are_thin_and_nothing_else_lies_beside_them(repository):
    shared = {"__init__", "main", "command_line"}
    sources = {path.stem: path for path in (repository / "tools").glob("*.py")}
    assert set(sources) - shared == set(TOOLS)
    for name in TOOLS:
        lines = len(sources[name].read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_TOOL_LINES, f"{name} has {lines} lines"
