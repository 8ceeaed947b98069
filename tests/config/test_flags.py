"""The flags of a configuration: the wrapper around absl and ml_collections."""

import sys

import pytest
from absl import flags

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags

# ml_collections loads configuration files in a way that Python 3.11 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
FILE = "--config=configs/shapes_lt.py"


@pytest.fixture(autouse=True)
def forget_the_file():
    """The library loads the next file into the same module."""
    yield
    sys.modules.pop("config_config", None)


def parse(monkeypatch, *arguments):
    """Returns the configuration and the explicit keys, from a command line."""
    values = flags.FlagValues()
    holder = config_flags.define_flag(values)
    monkeypatch.setattr(sys, "argv", ["main", *arguments])  # the library reads it
    assert config_flags.parse_flags(values, sys.argv) == ["main"]
    return holder.value, config_flags.explicit_keys(values)


def test_explicit_keys_are_those_of_the_command_line(monkeypatch):
    words = ["--config.finetune.epochs=20", "--noconfig.evaluate.knn"]
    config, keys = parse(monkeypatch, FILE + ":method=baseline", *words)
    assert keys == {"finetune.epochs", "evaluate.knn"}
    resolved = configs.from_config_dict(config, keys)
    assert resolved.finetune.epochs == 20 and resolved.finetune.head == "fc"
    assert parse(monkeypatch)[1] == set()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--config=configs/shapes_l.py"], ["'configs/shapes_lt.py'"]),
        (["--config", "gone.py:x=1"], ["--config=gone.py"]),
        ([FILE + ":methd=crt"], ["'method'"]),
        ([FILE, "--config.sed=3"], ["'--config.seed'"]),
        (["--config.pretrain.epoch=3"], ["'--config.pretrain.epochs'"]),
        ([FILE, "--config.pretrain=3"], ["config.pretrain"]),
    ],
)
def test_a_wrong_flag_is_named_with_the_nearest(monkeypatch, arguments, names):
    with pytest.raises(configs.ConfigError) as raised:
        parse(monkeypatch, *arguments)
    for name in names:
        assert name in str(raised.value)
