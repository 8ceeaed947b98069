"""Promises of the documents about security, beside planted pickles."""

import ast
import csv
import fnmatch
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from processes.secret_run import MARK, SECRETS
from vl_ltr_jax.commands import fetch_text
from vl_ltr_jax.logs import console
from vl_ltr_jax.models.port import hub
from vl_ltr_jax.recognizer import formats
from vl_ltr_jax.recognizer.batch import FileResult
from vl_ltr_jax.recognizer.predictions import Explanation, Prediction
from worlds.fake_wiki import FakeWiki, wiki

__all__ = ["wiki"]  # a fixture

ROOT = Path(__file__).parents[2]
CODE = [*(ROOT / "vl_ltr_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNSAFE_CALLS |= {"tempfile.mktemp", "yaml.load", "torch.jit.load"}
UNSAFE_CALLS |= {"shutil.unpack_archive"}
SAFE_OPTIONS = {
    **{f"{name}.load": "allow_pickle=False" for name in ("np", "numpy", "jnp")},
    **{f"{name}.save": "allow_pickle=False" for name in ("np", "numpy", "jnp")},
    "torch.load": "weights_only=True",
}


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.stem)
def test_no_code_of_a_file_is_run(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not names & UNSAFE_MODULES
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] not in UNSAFE_MODULES
            names = {alias.name for alias in node.names}
            arrays = node.module in ("numpy", "torch", "jax.numpy")
            assert not (arrays and names & {"load", "save"})
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {ast.unparse(keyword) for keyword in node.keywords}
            assert name not in UNSAFE_CALLS and "shell=True" not in options
            assert not name.endswith((".extractall", ".extract"))
            assert not any(option.startswith("trust_remote") for option in options)
            assert name not in SAFE_OPTIONS or SAFE_OPTIONS[name] in options
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.match(r"/(var/)?tmp\b|/dev/shm", node.value)


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Requests to the hub, where the repository has the files of the directory."""
    requests = []

    def snapshot(repo_id, **options):
        requests.append((repo_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return requests


@pytest.mark.parametrize(
    "name",
    ["https://huggingface.co/a/b", "a/b?x=1", "../a", "a/../b", "/etc/x", "a/b/c", "a"]
    + ["-a/b", "a/b@../c", "a/b@", "~x/b"],
)
def test_only_ids_reach_the_hub(downloads, name):
    assert not hub.is_there_or_id(name)
    hub.local_path(name)
    assert not downloads


def test_only_data_is_fetched_from_the_hub(downloads, tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert hub.local_path("some-one/clip_1.5@v1.0/x") == tmp_path
    [(repo_id, options)] = downloads
    assert repo_id == "some-one/clip_1.5" and options["revision"] == "v1.0/x"
    for name, fetched in {
        **dict.fromkeys(("model-00001-of-00002.safetensors", "vocab.json"), True),
        **dict.fromkeys(("pytorch_model.bin", "model.pt", "model.py", "x.pkl"), False),
    }.items():
        patterns = options["allow_patterns"]
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns) == fetched
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(hub.HubError, match="some-one/clip_1.5"):
        hub.local_path("some-one/clip_1.5")


def test_a_run_that_fails_prints_no_secret(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "vl_ltr_jax.main", f"--workdir={tmp_path / 'run'}"]
        + ["--config=configs/shapes_lt.py", "--config.init.clip=owner/nothing"],
        cwd=ROOT,
        env={**os.environ, **SECRETS, "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    printed = run.stdout + run.stderr
    assert run.returncode == 2 and "owner/nothing" in printed
    assert MARK not in printed and "Traceback" not in printed


def test_passwords_in_addresses_are_not_kept(wiki: FakeWiki, tmp_path, capsys):
    wiki.texts = {"Lion": "A cat."}
    (tmp_path / "labels.txt").write_text("Lion 0\n")
    api = wiki.api.replace("://", f"://user:{MARK}@")
    for arguments, code in (([], 0), (["--overwrite"], 1)):
        found = fetch_text.main([f"--root={tmp_path}", f"--api={api}", *arguments])
        assert found == code
        wiki.faults = [(404, {}, b"")]
    printed = capsys.readouterr()
    sources = (tmp_path / "wiki" / "sources.jsonl").read_text()
    assert MARK not in printed.out + printed.err + sources and "Lion" in sources


@pytest.mark.parametrize("log", [console.warn, console.error, console.say])
def test_messages_move_no_cursor_and_name_no_password(log, capsys):
    console.be_quiet(False)
    log(f"class \x1b[2Jred\x07 of ftp://me:{MARK}@host/x and a@b")
    printed = capsys.readouterr().err
    assert "\x1b" not in printed and "\x07" not in printed and MARK not in printed
    assert "ftp://***@host/x and a@b" in printed


def test_names_in_csv_are_exactly_the_classes():
    """A spreadsheet is to import them as text."""
    names = ("=cmd|'/c calc'!A1", '"<b>, `x` | \r\n', "\x1b]0;x\x07")
    prediction = Prediction(names, (0.5, 0.3, 0.2), (0, 1, 2))
    answer = FileResult("=1+1.jpg", Explanation(prediction, None, None, ()), None)
    rows = list(csv.reader(io.StringIO(formats.to_csv(answer), newline="")))
    assert [row[3] for row in rows] == list(names)
    assert {row[0] for row in rows} == {"=1+1.jpg"}
