"""The repository keeps its own rules: the order of imports, sizes, style and types."""

import ast
import graphlib
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

# A package imports only from packages before it; `data` has an order of its own.
PACKAGES = (
    *("runtime", "logs", "storage", "checkpoint", "method", "data", "models"),
    *("config", "train", "evaluate", "run", "systems", "stages", "preflight"),
    *("recognizer", "report", "comparison", "commands", "benchmarks"),
)
DATA = ("root", "images", "text", "sources", "shapes", "batches", "checks", "wiki")
# Files to run, with a body in `commands`; nobody imports them.
ENTRIES = (
    *("main", "compare", "predict", "export", "replay"),
    *("data.check", "data.show", "data.fetch_text", "data.tfds_builders"),
    "models.port.__main__",
    "preflight.__main__",
)
LIBRARIES_OF_COMMANDS = ("flags", "command", "exits", "process")
DOORS = {
    "orbax": "checkpoint",
    "clu": "logs.event_files",
    "tensorflow": "logs.event_files",
    "tensorboard": "logs.event_files",
    "ml_collections": "config",
    "torch": "models.port.torch_files",
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
    """`vl_ltr_jax/data/text/corpus.py` is `data.text.corpus`."""
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


MODULES = {name_of(path): path for path in CODE}


def imports_of_ours(path):
    """Modules of the package that the file imports, without its own name."""
    for imported in imported_modules(path):
        first, _, name = imported.partition(".")
        if first != "vl_ltr_jax":
            continue
        while name and name not in MODULES:  # a name in a module
            name = name.rpartition(".")[0]
        yield name


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_import(path):
    importlib.import_module(f"vl_ltr_jax.{name_of(path)}".rstrip("."))


def test_imports_only_point_down():
    for name, path in MODULES.items():
        if not name or name in ENTRIES:
            continue
        package, *inner = name.split(".")
        for imported in filter(None, imports_of_ours(path)):
            target, *place = imported.split(".")
            message = f"{path} imports {imported}, which comes later in the order"
            assert PACKAGES.index(target) <= PACKAGES.index(package), message
            if target == package == "data" and inner and place:
                assert DATA.index(place[0]) <= DATA.index(inner[0]), message


def test_no_two_files_import_each_other():
    arrows = {name: set(imports_of_ours(path)) for name, path in MODULES.items()}
    order = graphlib.TopologicalSorter(
        {name: targets - {"", name} for name, targets in arrows.items() if name}
    )
    order.prepare()  # raises CycleError, which names the files


def test_nobody_imports_a_command():
    for path in CODE:
        for imported in imports_of_ours(path):
            assert imported not in ENTRIES, f"{path} imports {imported}"
            package, _, name = imported.partition(".")
            is_command = package == "commands" and name
            if is_command and name not in LIBRARIES_OF_COMMANDS:
                message = f"{path} imports the command {imported}"
                assert name_of(path) in ENTRIES, message


def test_files_at_the_root_are_entries():
    known = {*ENTRIES, "", *(name for name in MODULES if name.partition(".")[2])}
    assert MODULES.keys() - known <= set(PACKAGES)
    for name in ENTRIES:
        assert len(MODULES[name].read_text().splitlines()) <= 8, name


def test_folders_are_small():
    """Files of a folder; folders in it are counted on their own."""
    for top in (PACKAGE, ROOT / "tests", ROOT / "configs", ROOT / "launch"):
        for folder in {path.parent for path in top.rglob("*.*")}:
            if not {"golden", "__pycache__"} & set(folder.parts):
                files = [path for path in folder.iterdir() if path.is_file()]
                assert len(files) <= 20, f"{folder} has {len(files)} files"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=name_of)
def test_each_package_says_what_it_holds(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_each_large_dependency_has_one_door():
    for path in CODE:
        for module in imported_modules(path):
            package = module.split(".")[0]
            compared = ("torch", "tensorflow")  # the other side of a comparison
            if package in compared and "benchmarks" in path.parts:
                continue
            door = DOORS.get(package, "")
            message = f"{path} imports {module}: only {door} may"
            assert f"{name_of(path)}.".startswith(f"{door}.") or not door, message


def test_only_the_mesh_module_builds_shardings():
    for path in CODE:
        if name_of(path) != "runtime.mesh":
            built = {name for name, _ in calls(path)} | set(imported_modules(path))
            assert not built & SHARDING_BUILDERS, f"{path}: leave these to the mesh"


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
    assert statistics.median(lengths[path] for path in CODE) < 160


# Pro-forms: a reader would have to look for the noun that they stand for.
PRO_FORMS = set(
    "told left found given made kept one there behind met shown said seen gone others"
    " whole rest wanted asked meant none both of".split()
)


def names_of(tree):
    """Names that code gives to functions, classes, arguments and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.arg):
            yield node.arg, node
        elif isinstance(getattr(node, "ctx", None), ast.Store):
            if isinstance(node, ast.Name):
                yield node.id, node
            elif isinstance(node, ast.Attribute):
                yield node.attr, node


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_names_are_nouns_of_the_field(path):
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for name, node in names_of(ast.parse(path.read_text())):
        noun = name.strip("_").lower()
        assert noun not in PRO_FORMS, f"{path}:{node.lineno} {name}"
        message = f"{path}:{node.lineno} {name}: a verb, for functions"
        assert noun != "read" or isinstance(node, functions), message


# A first line says what a caller gets, or names the thing.
NO_FIRST_WORDS = "What Whether Where Which How Of That If When Why".split()


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_docstrings_begin_with_a_verb_or_a_noun(path):
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            place = f"{path}:{getattr(node, 'lineno', 1)}"
            assert text.split()[0] not in NO_FIRST_WORDS, f"{place} {text[:60]}"


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
    listed = requirements((ROOT / "tests" / "requirements.txt").read_text())
    assert project["optional-dependencies"]["test"] == listed


def readme():
    return (ROOT / "README.md").read_text()


def test_every_flag_of_a_documented_command_exists():
    importlib.import_module("vl_ltr_jax.commands.train")
    known = set(flags.FLAGS)
    documents = [
        path
        for folder in (PACKAGE, ROOT / "configs", ROOT / "tests")
        for path in folder.rglob("README.md")
    ]
    for path in [*(ROOT / "launch").iterdir(), ROOT / "README.md", *documents]:
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
