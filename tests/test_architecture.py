"""The arrows of the design: which room imports which. Reads the imports, runs nothing."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each room may import of this project, and the frameworks that it must not.
PIPELINES = {
    "guim_tf.schema",
    "guim_tf.mapping",
    "guim_tf.strict_json",
    "guim_tf.text",
    "beam_pipelines",
}
SERVING = {"guim_tf.schema", "serving"}
STANDARD_LIBRARY_ONLY = (
    "__init__",
    "schema",
    "strict_json",
    "mapping",
    "config",
    "version",
    "precision",
    "threads",
    "cli",
)

# Inside the model room: a file may import the files left of it, none to the right of it.
LAYERS = (
    (
        "version",
        "schema",
        "strict_json",
        "keras_compat",
        "text",
        "precision",
        "threads",
        "few_shapes",
        "graphs",
        "user_batches",
    ),
    ("config", "mapping", "popularity", "packing", "replicas"),
    (
        "datasets",
        "catalogue",
        "masking",
        "layers",
        "mixture",
        "lookup",
        "sampling",
        "artifacts",
        "shared_negatives",
        "drawn_negatives",
        "shards",
        "optimizers",
        "interrupt",
        "divergence",
        "cluster",
        "vector_search",
    ),
    ("index_items", "index_report", "scann_search"),
    ("item_encoder", "user_encoder", "data"),
    ("batch_items", "recompute", "side_by_side"),
    ("losses",),
    ("model",),
    ("encoders",),
    ("alignment",),
    ("evaluation",),
    ("validation", "inspection"),
    ("runs",),
    ("warm_start", "checkpoints", "ensemble"),
    ("fitting",),
    ("training",),
    ("export",),
    ("recommender",),
    ("retrieval",),
    ("benchmark",),
    ("cli", "__init__"),
)


def sources(room: str) -> list[pathlib.Path]:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, room
    return files


def module_name(file: pathlib.Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: pathlib.Path, *, functions_too: bool = True) -> set[str]:
    """Dotted names that a file imports: `from a import b` gives `a.b`."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if functions_too else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(a + ".") for a in allowed)


def of_project(names: set[str]) -> set[str]:
    return {n for n in names if within(n, {"guim_tf", "beam_pipelines", "serving"})}


def of_framework(names: set[str], *frameworks: str) -> set[str]:
    return {n for n in names if within(n, set(frameworks))}


@pytest.mark.parametrize(("room", "allowed"), [("beam_pipelines", PIPELINES), ("serving", SERVING)])
def test_a_room_imports_only_what_is_drawn(room, allowed):
    for file in sources(room):
        strange = {n for n in of_project(imports(file)) if not within(n, allowed)}
        assert not strange, f"{file}: {strange}"


def test_the_model_room_knows_no_beam_no_grpc_and_no_serving():
    for file in sources("guim_tf"):
        names = imports(file)
        strange = of_framework(names, "apache_beam", "grpc", "grpc_health")
        strange |= {n for n in names if n.endswith("_grpc")}
        strange |= {n for n in of_project(names) if not within(n, {"guim_tf"})}
        assert not strange, f"{file}: {strange}"


def test_the_server_room_knows_no_keras_and_no_recommenders():
    for file in sources("serving"):
        names = imports(file)
        assert not of_framework(names, "tf_keras", "keras", "tensorflow_recommenders"), file


def test_the_page_is_a_client_that_the_server_room_does_not_know():
    allowed = {"guim_tf.schema", "serving.client", "serving.histories", "serving.explore"}
    for file in sources("serving"):
        names = of_project(imports(file))
        if "explore" in file.parts:
            strange = {n for n in names if not within(n, allowed)}
        else:
            strange = {n for n in names if within(n, {"serving.explore"})}
        assert not strange, f"{file}: {strange}"


def test_keras_comes_through_one_door():
    for room in ("guim_tf", "beam_pipelines", "serving"):
        for file in sources(room):
            if file.name != "keras_compat.py":
                assert not of_framework(imports(file), "keras", "tf_keras"), file
                assert not re.search(r"^[^#\"]*\btf\.keras\.", file.read_text("utf-8"), re.M), file


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_contracts_need_the_standard_library_only(name):
    file = ROOT / "guim_tf" / f"{name}.py"
    allowed = set(sys.stdlib_module_names) | {"guim_tf"}
    strange = {n for n in imports(file, functions_too=False) if n.split(".")[0] not in allowed}
    assert not strange


def test_inside_the_model_room_data_flows_one_way():
    place = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for file in sources("guim_tf"):
        parts = file.relative_to(ROOT / "guim_tf").with_suffix("").parts
        here = place[parts[0]]
        for name in of_project(imports(file)):
            target = name.split(".")[1]
            if target in place and target != parts[0]:
                assert place[target] < here or (place[target] == here == 0), (
                    f"{file}: {name} lies in the same or a later layer"
                )


def test_no_pickle_and_no_eval():
    for room in ("guim_tf", "beam_pipelines", "serving"):
        for file in sources(room):
            assert not of_framework(imports(file), "pickle", "dill", "cloudpickle"), file
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "exec"), f"{file}:{node.lineno}"


def run_python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a process that knows nothing of this one's Keras."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def test_importing_the_package_is_cheap():
    code = (
        "import sys, guim_tf, guim_tf.schema, guim_tf.config, guim_tf.cli;"
        "heavy = {'tensorflow', 'numpy', 'apache_beam', 'grpc', 'pyarrow'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_keras_2_is_selected_when_the_package_comes_before_or_after_tensorflow():
    for order in ("guim_tf, tensorflow as tf", "tensorflow as tf, guim_tf"):
        code = (
            f"import {order}, tf_keras, tensorflow_recommenders;"
            "assert tf.keras.layers.Dense is tf_keras.layers.Dense"
        )
        done = run_python(code)
        assert done.returncode == 0, done.stderr


def test_too_late_an_import_says_what_to_do():
    code = "import tensorflow as tf; tf.keras.layers; import guim_tf"
    done = run_python(code)
    assert done.returncode == 1
    assert "TF_USE_LEGACY_KERAS=1" in done.stderr.splitlines()[-1]


def test_the_public_names_are_these():
    import guim_tf

    verbs = {"load_dataset", "train", "export", "build_index", "evaluate"}
    assert set(guim_tf.__all__) == {"__version__", "Config", "Schema", "GUIM"} | verbs
    for name in guim_tf.__all__:
        assert getattr(guim_tf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        guim_tf.nonsense  # noqa: B018 - the access is the test
