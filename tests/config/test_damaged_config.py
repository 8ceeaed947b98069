"""A damaged configuration is one within its bounds, or the error names its key."""

import dataclasses
import gc
import json
import math
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import ml_collections
import numpy as np
import pytest
from absl import flags
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags
from vl_ltr_jax.config import settings
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.stages import pipeline
from worlds import image_world
from worlds.file_damage import VALUES, examples

# ml_collections loads configuration files as Python 3.12 does not like.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
FLAT = settings.flatten(settings.Config())
SECTIONS = sorted({key.partition(".")[0] for key in FLAT if "." in key})
ANY = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from((10**400, 2**31 - 1, 5e-324, b"bytes", {"a"}, (1, 2), object)),
    st.sampled_from((np.float32(1), np.int64(3), np.str_("none"), np.bool_(True))),
    st.builds(lambda: np.zeros(3)),
    st.builds(ml_collections.ConfigDict),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
)


def build(changes):
    """Sets keys of a sound configuration, and builds it.

    ml_collections refuses some values itself, where the configuration file sets them.
    """
    config = configs.default_config()
    config.data.source, config.data.name = "shapes", "x"
    config.init.clip = "tiny_clip"
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        try:
            (config[section] if section else config)[name] = value
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise configs.ConfigError(f"{key}: {error}") from error
    return configs.from_config_dict(config)


def built_or_refused(key, value):
    try:
        config = build({key: value})
    except configs.ConfigError as error:
        assert key.rpartition(".")[2] in str(error) or "warmup_epochs" in str(error)
        return
    numbers = [v for v in settings.flatten(config).values() if type(v) in (int, float)]
    assert all(map(math.isfinite, numbers))
    assert configs.from_json(settings.to_json(config)) == config
    assert json.loads(settings.to_json(config)) == dataclasses.asdict(config)


@examples(260)
@given(key=st.sampled_from(sorted(FLAT)), value=ANY)
def test_a_value_is_within_bounds_or_refused_by_key(key, value):
    built_or_refused(key, value)


@examples(40)
@given(section=st.sampled_from(SECTIONS), value=ANY)
def test_a_section_is_one_or_refused_by_name(section, value):
    built_or_refused(section, value)


@examples(40)
@given(section=st.sampled_from(("", *SECTIONS)), name=st.text("abcxyz_", min_size=1))
def test_an_unknown_key_is_refused_by_name(section, name):
    key = f"{section}.{name}x" if section else f"{name}x"
    with pytest.raises(configs.ConfigError, match=key):
        build({key: 1})


@pytest.mark.parametrize("key", [k for k, v in FLAT.items() if type(v) is float])
def test_nan_is_refused_by_key(key):
    with pytest.raises(configs.ConfigError, match=key):
        build({key: float("nan")})


def parse(*arguments):
    """Returns the configuration of a command with these arguments."""
    values = flags.FlagValues()
    holder = config_flags.define_flag(values)
    # The library reads `sys.argv`.
    with mock.patch.object(sys, "argv", ["main", *arguments]):
        assert config_flags.parse_flags(values, sys.argv) == ["main"]
    return configs.from_config_dict(holder.value)


BEGIN = "from vl_ltr_jax.config import default_config\n\ndef get_config():\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", ["SyntaxError", "broken.py:1"]),
        ("import nosuchmodule\n", ["nosuchmodule", "broken.py:1"]),
        ("x = 1\n", ["get_config"]),
        (f"{BEGIN}    default_config().pretrian.epochs = 3\n", ["pretrian", ".py:4"]),
        ("def get_config():\n    return {'seed': 3}\n", ["dict"]),
        ("def get_config():\n    pass\n", ["NoneType"]),
        ("import sys\nsys.exit(0)\n", ["broken.py:2", "SystemExit"]),
        (f"{BEGIN}    raise SystemExit\n", ["broken.py:4", "SystemExit"]),
    ],
)
def test_a_broken_configuration_file_is_named_by_line(tmp_path, text, words):
    """Breaks if `sys.exit` in a file ends the command without a word."""
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(configs.ConfigError) as raised:
        parse(f"--config={tmp_path / 'broken.py'}")
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("--config.seed=x", "seed"),
        ("--config.seed.x=1", "seed"),
        ("--config.anchors.num_anchors=3.5", "num_anchors"),
        ("--config.pretrain.epoch=3", "pretrain.epochs"),
    ],
)
def test_a_wrong_argument_is_named(argument, word):
    with pytest.raises(UserError, match=word):
        parse("--config=configs/shapes_lt.py", argument)


def test_a_stray_argument_ends_the_command_with_one_message():
    command = [sys.executable, "-m", "vl_ltr_jax.main", "--config=configs/shapes_lt.py"]
    run = subprocess.run(
        [*command, "--workdir=unused", "config.seed=3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and run.stderr.startswith("error: ")
    assert "config.seed=3" in run.stderr and "Traceback" not in run.stderr


def test_batches_that_do_not_divide_stop_before_any_array(tmp_path):
    config = image_world.configure(image_world.write(tmp_path / "world"))
    config.pretrain.global_batch_size = 12  # the tests have 8 devices
    checked = configs.from_config_dict(config)
    gc.collect()
    arrays = len(jax.live_arrays())
    with pytest.raises(configs.ConfigError, match="pretrain.global_batch_size=12"):
        pipeline.run(
            Run(checked, epath.Path(tmp_path / "run"), run_inputs.read(checked))
        )
    assert len(jax.live_arrays()) <= arrays
