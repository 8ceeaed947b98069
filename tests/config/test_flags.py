"""The flags of a configuration: the wrapper around absl and ml_collections."""

import subprocess
import sys

import pytest
from absl import flags

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags
from worlds.paper_world import ROOT

# ml_collections loads configuration files in a way that Python 3.11 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
FILE = "--config=configs/shapes_lt.py"


@pytest.fixture(autouse=True)
def forget_the_file():
    """The library loads the next file into the same module."""
    yield
    sys.modules.pop("config_config", None)


def parse(monkeypatch, *arguments):
    """Returns the checked configuration of a command line, and its explicit keys."""
    values = flags.FlagValues()
    holder = config_flags.define_flag(values)
    monkeypatch.setattr(sys, "argv", ["main", *arguments])  # the library reads it
    assert config_flags.parse_flags(values, sys.argv) == ["main"]
    keys = config_flags.explicit_keys(values)
    return configs.from_config_dict(holder.value, keys), keys


def test_explicit_keys_are_those_of_the_command_line(monkeypatch):
    words = ["--config.finetune.epochs=20", "--noconfig.evaluate.knn"]
    config, keys = parse(monkeypatch, FILE + ":method=baseline", *words)
    assert keys == {"finetune.epochs", "evaluate.knn"}
    assert config.finetune.epochs == 20 and config.finetune.head == "fc"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--config=configs/shapes_l.py"], "'configs/shapes_lt.py'"),
        (["--config", "gone.py:x=1"], "--config=gone.py"),
        ([FILE, "--config=configs/inat18.py"], "--config=configs/inat18.py"),
        ([FILE + ":methd=crt"], "'method'"),
        ([FILE + ":method=ctr"], "'crt'"),
        ([FILE, "--config.sed=3"], "'--config.seed'"),
        (["--config.pretrain.epoch=3"], "'--config.pretrain.epochs'"),
        ([FILE, "--config.pretrain=3"], "config.pretrain"),
        ([FILE, "--config.seed=x"], "seed"),
        ([FILE, "--config.anchors.num_anchors=3.5"], "num_anchors"),
    ],
)
def test_a_wrong_flag_is_named_with_the_nearest(monkeypatch, arguments, name):
    with pytest.raises(configs.ConfigError) as raised:
        parse(monkeypatch, *arguments)
    assert name in str(raised.value)


BEGIN = "from vl_ltr_jax.config import default_config\n\ndef get_config():\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def get_config(:\n", "broken.py:1"),
        ("x = 1\n", "get_config"),
        (f"{BEGIN}    default_config().pretrian.epochs = 3\n", "broken.py:4"),
        ("def get_config():\n    return {'seed': 3}\n", "dict"),
        ("import sys\nsys.exit(0)\n", "broken.py:2"),
    ],
)
def test_a_broken_configuration_file_is_named_by_line(
    monkeypatch, tmp_path, text, name
):
    """Breaks if `sys.exit` in a file ends the command without a word."""
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(configs.ConfigError) as raised:
        parse(monkeypatch, f"--config={tmp_path / 'broken.py'}")
    assert name in str(raised.value)


def test_a_stray_argument_ends_the_command_with_one_message():
    command = [sys.executable, "-m", "vl_ltr_jax.main", FILE, "--workdir=unused"]
    done = subprocess.run(
        [*command, "config.seed=3"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert "config.seed=3" in done.stderr and "Traceback" not in done.stderr
