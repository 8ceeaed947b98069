"""The repository keeps its own rules: layers, sizes, style, types, and its map."""

import ast
import importlib
import importlib.metadata
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from absl import flags

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vl_ltr_jax"
CODE = sorted(PACKAGE.rglob("*.py"))
ALL_PYTHON = [
    path
    for folder in (PACKAGE, ROOT / "configs", ROOT / "tests", ROOT / "launch")
    for path in sorted(folder.rglob("*.py"))
]

# A module imports only from modules before it. Those up to `models` know arrays and
# plain arguments; configurations, meshes, checkpoints and logs come after them.
ORDER = (
    *("errors", "paths", "dependencies"),
    *("whole_file", "json_text", "programs", "terminal", "usage", "exits"),
    *("losses", "shots", "accuracy", "mixup", "anss", "optim", "train_state"),
    *("data", "models"),
    *(
        "settings",
        "bounds",
        "config",
        *("heap", "programs"),
        "cluster",
        "mesh",
        *("checkpoint_messages", "checksums", "misfits", "state_items"),
        *("checkpoint", "preemption", "saves"),
        "logs",
        "provenance",
        *("artifacts", "workdir"),
    ),
    *(
        "pair_sums",
        "chunks",
        "pairs",
        "pretrain",
        "finetune",
        "embed",
        "evaluate",
        "flops",
        "pace",
        "rows",
        *("incidents", "non_finite", "train_metrics"),
        "loop",
    ),
    *(
        "initial",
        "inputs",
        "training",
        "run",
        "anchors",
        "teacher",
        "views",
        "recognition",
        "baselines",
        *("unseen", "heads", "recognizer_checks", "recognizer_files"),
        *("predictions", "recognizer"),
        "dashboard",
        *("evaluation", "loading"),
        *("report", "outcomes"),
        *("curves", "page"),
        "stages",
        *("array_sizes", "repeats", "diagnosis"),
        "main",
    ),
    *("comparison", "compare"),
    *("stablehlo", "export", "answers", "answer_formats", "predict"),
    *("data.check", "data.show", "replay"),
    *("tiny_clip", "benchmarks"),
)
SOLE_IMPORTERS = {
    "orbax": "checkpoint",
    "clu": "logs",
    "tensorflow": "logs",
    "tensorboard": "logs",
    "ml_collections": "config",
    "torch": "models.torch_files",
}
OPTIONAL = ("torch",)  # an extra; where it is absent, an error says what to install
SHARDING_BUILDERS = {
    "jax.make_mesh",
    "jax.make_array_from_process_local_data",
    "jax.make_array_from_callback",
    "jax.sharding.Mesh",
    "jax.sharding.NamedSharding",
}


def name_of(path):
    """`vl_ltr_jax/data/corpus.py` is `data.corpus`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_modules(path):
    """Every module that the file imports, at any depth, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports from the package's root"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def layer_of(name):
    """A command of a package may stand above the package itself."""
    parts = name.split(".")
    command = ".".join(parts[:2])
    return command if command in ORDER else parts[0]


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_import(path):
    importlib.import_module(f"vl_ltr_jax.{name_of(path)}".rstrip("."))


def test_imports_only_point_down():
    for path in CODE:
        importer = layer_of(name_of(path))
        if not importer:
            continue
        assert importer in ORDER, f"{path}: give {importer!r} a place in ORDER"
        for module in imported_modules(path):
            if not module.startswith("vl_ltr_jax."):
                continue
            imported = layer_of(module.removeprefix("vl_ltr_jax."))
            if imported in ("__version__", importer):
                continue
            message = f"{path} imports {module}, which is above it"
            assert ORDER.index(imported) < ORDER.index(importer), message


def test_each_large_dependency_has_one_door():
    for path in CODE:
        for module in imported_modules(path):
            package = module.split(".")[0]
            others = ("torch", "tensorflow")  # the other side of a comparison
            if package in others and "benchmarks" in path.parts:
                continue
            door = SOLE_IMPORTERS.get(package, name_of(path))
            assert name_of(path) == door, f"{path} imports {module}: only {door} may"


def test_only_the_mesh_module_builds_shardings():
    for path in CODE:
        if name_of(path) != "mesh":
            built = {name for name, _ in calls(path)} | set(imported_modules(path))
            assert not built & SHARDING_BUILDERS, f"{path}: leave these to mesh.py"


def test_no_configuration_has_defaults_at_its_readers():
    """`config.get(key, default)` keeps a misspelt key silent."""
    for path in CODE:
        for name, node in calls(path):
            if name.endswith(".get") and len(node.args) + len(node.keywords) > 1:
                message = f"{path}:{node.lineno} reads {ast.unparse(node)}"
                assert not re.search("config|cfg|options", name), message


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in ALL_PYTHON}
    too_long = {str(path): n for path, n in lengths.items() if n > 400}
    assert not too_long
    assert statistics.median(lengths[path] for path in CODE) < 180


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--no-error-summary"],
    ],
    ids=lambda command: " ".join(command),
)
def test_linters_are_content(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def requirements(text):
    """Names and specifiers, without comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def test_every_import_is_a_declared_requirement():
    text = (ROOT / "requirements.txt").read_text()
    declared = {
        re.split(r"[<>=\[]", line)[0].lower().replace("-", "_")
        for line in requirements(text)
    }
    homes = importlib.metadata.packages_distributions()
    for path in CODE:
        for module in imported_modules(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in ("vl_ltr_jax", *OPTIONAL):
                continue
            names = {name.lower().replace("-", "_") for name in homes[top]}
            assert names & declared, f"{path} imports {module}: add it to requirements"


def test_the_test_extra_equals_the_tests_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = requirements((ROOT / "tests" / "requirements.txt").read_text())
    assert project["optional-dependencies"]["test"] == wanted


def mapped_files():
    for folder in (PACKAGE, ROOT / "configs", ROOT / "launch"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".sh", ".yaml") and path.name != "__init__.py":
                yield path


def test_the_readme_maps_every_file_and_no_other():
    words = set(re.findall(r"[\w/.-]+\.(?:py|sh|yaml)\b", readme()))
    paths = [path.relative_to(ROOT).as_posix() for path in mapped_files()]
    for path in paths:
        listed = any(f"/{path}".endswith(f"/{word.lstrip('/')}") for word in words)
        assert listed, f"README's file map lacks {path}"
    here = [
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.py"), *mapped_files(), *ALL_PYTHON]
    ]
    for word in words:
        found = any(f"/{path}".endswith(f"/{word.lstrip('/')}") for path in here)
        assert found, f"README names {word}, which is not there"


def readme():
    return (ROOT / "README.md").read_text()


def test_every_flag_of_a_documented_command_exists():
    importlib.import_module("vl_ltr_jax.commands.train")
    known = set(flags.FLAGS)
    scripts = [*(ROOT / "launch").iterdir(), ROOT / "README.md"]
    for path in scripts:
        text = path.read_text().replace("\\\n", " ")
        for command in re.findall(r"-m vl_ltr_jax\.main\b(.*)", text):
            for flag in re.findall(r"--([a-z_]+)", command):
                message = f"{path.name} passes --{flag}, which main lacks"
                assert flag in known, message


def test_continuous_integration_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    command = re.search(r"^python3? -m venv .*pytest.*$", readme(), re.MULTILINE)
    assert command, "README's test command is missing"
    assert command[0] in script
