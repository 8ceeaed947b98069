"""What README promises under Security, beside planted pickles."""

import ast
import csv
import fnmatch
import io
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from processes.secret_run import MARK, SECRETS, watched
from vl_ltr_jax.commands import fetch_text
from vl_ltr_jax.logs import console
from vl_ltr_jax.models.port import hub
from vl_ltr_jax.recognizer import formats
from vl_ltr_jax.recognizer.batch import FileResult
from vl_ltr_jax.recognizer.predictions import Explanation, Prediction
from vl_ltr_jax.report import tables
from worlds.fake_wiki import FakeWiki, wiki

__all__ = ["wiki"]  # a fixture

ROOT = Path(__file__).parents[2]
CODE = [*(ROOT / "vl_ltr_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
RUN_CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "tempfile.mktemp",
    ),
    *("yaml.load", "yaml.unsafe_load", "torch.jit.load", "shutil.unpack_archive"),
}
SAFELY = {
    **{f"{name}.load": "allow_pickle=False" for name in ("np", "numpy", "jnp")},
    **{f"{name}.save": "allow_pickle=False" for name in ("np", "numpy", "jnp")},
    "torch.load": "weights_only=True",
}


def test_nothing_in_the_package_can_run_what_a_file_holds():
    """Nor unpack an archive, nor write to a name in /tmp that others can guess."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
                assert not names & RUN_CODE, where
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in RUN_CODE, where
                of_arrays = node.module in ("numpy", "torch", "jax.numpy")
                names = {alias.name for alias in node.names}
                assert not of_arrays or not names & {"load", "save"}, where
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                given = {ast.unparse(keyword) for keyword in node.keywords}
                assert name not in FORBIDDEN, where
                assert not name.endswith((".extractall", ".extract")), where
                assert "shell=True" not in given, where
                assert not {g for g in given if g.startswith("trust_remote")}, where
                assert name not in SAFELY or SAFELY[name] in given, where
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"/(var/)?tmp\b|/dev/shm", node.value), where


NO_IDS = [
    *("https://huggingface.co/a/b", "http://a/b", "file:a/b", "a/b?x=1", "a/b#c"),
    *(
        "../a",
        "a/..",
        "a/../b",
        "a/b..c",
        "/etc/x",
        "a/b/c",
        "a\\b",
        "a",
        ".a/b",
        "-a/b",
    ),
    *(
        "a/b@../c",
        "a/b@/c",
        "a/b@x/../y",
        "a/b@",
        "a/b\n",
        "ä/b",
        "a/ b",
        "~x/b",
        "a/b\0",
    ),
]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """What reaches the hub; the repository there has the files of the directory."""
    import huggingface_hub

    asked = []

    def snapshot(repo_id, **options):
        asked.append((repo_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


@pytest.mark.parametrize("name", NO_IDS)
def test_only_ids_reach_the_hub(fetched, name):
    assert not hub.is_there_or_id(name)
    hub.local_path(name)
    assert not fetched


def test_only_data_is_fetched_from_the_hub(fetched, tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert hub.local_path("some-one/clip_1.5@v1.0/x") == tmp_path
    [(repo_id, options)] = fetched
    assert repo_id == "some-one/clip_1.5" and options.pop("revision") == "v1.0/x"
    patterns = options.pop("allow_patterns")
    assert not options

    def is_wanted(name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert is_wanted("model-00001-of-00002.safetensors") and is_wanted("vocab.json")
    for name in ("pytorch_model.bin", "model.pt", "model.py", "x.pkl", "model.ckpt"):
        assert not is_wanted(name)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(hub.HubError, match="pickles are not fetched by themselves"):
        hub.local_path("some-one/clip_1.5")


def test_a_listening_socket_is_seen():
    listened = set()
    with watched(listened), socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        time.sleep(0.5)
    assert listened


def test_a_run_that_fails_tells_no_secret(tmp_path):
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "vl_ltr_jax.main",
                f"--workdir={tmp_path / 'run'}",
            ),
            *("--config=configs/shapes_lt.py", "--config.init.clip=owner/nothing"),
        ],
        cwd=ROOT,
        env={**os.environ, **SECRETS, "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2 and "owner/nothing" in said
    assert MARK not in said and "Traceback" not in said


def test_passwords_in_addresses_are_not_kept(wiki: FakeWiki, tmp_path, capsys):
    wiki.texts = {"Lion": "A cat."}
    (tmp_path / "labels.txt").write_text("Lion 0\n")
    api = wiki.api.replace("://", f"://user:{MARK}@")
    for arguments, code in (([], 0), (["--overwrite"], 1)):
        found = fetch_text.main([f"--root={tmp_path}", f"--api={api}", *arguments])
        assert found == code
        wiki.faults = [(404, {}, b"")]
    said = capsys.readouterr()
    assert "127.0.0.1" in said.err and "404" in said.err
    kept = (tmp_path / "wiki" / "sources.jsonl").read_text()
    assert MARK not in said.out + said.err + kept and "Lion" in kept


@pytest.mark.parametrize("say", [console.warn, console.error, console.say])
def test_what_is_said_moves_no_cursor_and_names_no_password(say, capsys):
    console.be_quiet(False)
    say(f"class \x1b[2Jred\x07 of ftp://me:{MARK}@host/x and a@b")
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\x07" not in said and MARK not in said
    assert "ftp://***@host/x and a@b" in said


def test_results_and_progress_move_no_cursor(capsys):
    console.result("a\x1b[2Jb\tc\n", "")
    assert capsys.readouterr().out == "a\\x1b[2Jb\tc\n\n"
    with console.Progress("texts", 2, "classes") as line:
        line.at(1, details=["\x1b[2J"])
        assert "\x1b[2J" not in str(line)


HOSTILE = ("=cmd|'/c calc'!A1", '"<b>, `x` | \r\n', "\x1b]0;x\x07")


def test_names_in_csv_are_exactly_what_they_are():
    """README: a spreadsheet is to import them as text."""
    prediction = Prediction(HOSTILE, (0.5, 0.3, 0.2), (0, 1, 2))
    answer = FileResult("=1+1.jpg", Explanation(prediction, None, None, ()), None)
    rows = list(csv.reader(io.StringIO(formats.to_csv(answer), newline="")))
    assert [row[3] for row in rows] == list(HOSTILE)
    assert {row[0] for row in rows} == {"=1+1.jpg"} and {len(row) for row in rows} == {
        5
    }


def test_names_in_the_report_are_no_markup():
    names = ["<script>", "[a](javascript:x)", "`|`\nb"]
    told = {"num_anchors": 2, "without_images": names, "with_fewer_sentences": []}
    results = {
        "data": dict.fromkeys(("num_classes", "train_images", "largest_class"), 1)
        | {"smallest_class": 1, "sentences": 1},
        "cost": {"images_seen": 1, "seconds": 1.0},
        "anchors": told,
        "versions": {},
        "test": {},
        "val": {},
    }
    text = tables.markdown(results, "<i>: VL-LTR", "ViT", {})
    assert "<script>" not in text and "[a]" not in text.replace("\\[a\\]", "")
    assert "\\`\\|\\` b" in text and "# &lt;i&gt;: VL-LTR\n" in text
