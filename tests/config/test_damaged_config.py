"""Damaged configurations by the hundred: each is one, or refused with its key."""

import dataclasses
import json
import math
import sys
from unittest import mock

import ml_collections
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import config_dict as references

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags
from vl_ltr_jax.config import settings
from worlds import data_damage as damage
from worlds.file_damage import examples

# Of ml_collections, where a configuration file sets a value; its line is named then.
LIBRARYS = (TypeError, ValueError, KeyError, OverflowError, RecursionError)
# It loads configuration files as Python 3.11 does not like, and no later one can.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
FLAT = settings.flatten(settings.Config())
SECTIONS = sorted({key.partition(".")[0] for key in FLAT if "." in key})
FILE = """from vl_ltr_jax.config import default_config


def get_config():
    config = default_config()
    config.data.source = "shapes"
    config.data.name = "x"
    config.init.clip = "tiny_clip"
    config.pretrain.epochs = 3
    config.pretrain.warmup_epochs = 1
    config.seed = 7
    return config
"""


def sound():
    config = configs.default_config()
    config.data.source = "shapes"
    config.data.name = "x"
    config.init.clip = "tiny_clip"
    return config


class Odd:
    """Of a configuration file that has its own ideas."""

    def __repr__(self):
        raise KeyError("no name")


def nested(depth):
    made = ml_collections.ConfigDict()
    for _ in range(depth):
        made = ml_collections.ConfigDict({"data": made})
    return made


VALUES = st.one_of(
    st.sampled_from(damage.VALUES),
    st.sampled_from(damage.TOKENS),
    st.sampled_from((10**400, -(10**400), 10**5000, -1, 2**31 - 1, 5e-324, -5e-324)),
    st.builds(lambda: np.zeros(3)),
    st.builds(lambda: np.array(["full", "none"])),
    st.sampled_from((np.float32(1), np.int64(3), np.str_("none"), np.bool_(True))),
    st.builds(Odd),
    st.sampled_from((b"bytes", {"a"}, (1, 2), range(3), object, len)),
    st.builds(lambda: references.placeholder(int, required=True)),
    st.builds(ml_collections.ConfigDict),
    st.builds(lambda: nested(3000)),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
)


def refused_or_sound(config, *names):
    """What came through is within bounds, and survives its own file."""
    found = damage.outcome(lambda: configs.from_config_dict(config), *names)
    if found is None:
        return None
    values = settings.flatten(found)
    numbers = [value for value in values.values() if type(value) in (int, float)]
    assert all(math.isfinite(number) for number in numbers)
    assert all(
        value.encode() is not None for value in values.values() if type(value) is str
    )
    assert configs.from_json(settings.to_json(found)) == found
    assert json.loads(settings.to_json(found)) == dataclasses.asdict(found)
    return found


@examples(260)
@given(data=st.data(), key=st.sampled_from(sorted(FLAT)))
def test_values(data, key):
    config = sound()
    section, _, name = key.rpartition(".")
    part = config[section] if section else config
    try:
        part[name] = data.draw(VALUES)
    except LIBRARYS:
        return
    refused_or_sound(config, name, "the configuration cannot be read", "warmup_epochs")


@examples(80)
@given(
    section=st.sampled_from(("", *SECTIONS)),
    key=st.one_of(st.sampled_from(damage.TOKENS), st.text(min_size=1, max_size=9)),
    value=VALUES,
    gone=st.booleans(),
)
def test_keys(section, key, value, gone):
    config = sound()
    part = config[section] if section else config
    if gone:
        names = sorted(part)
        del part[names[len(key) % len(names)]]
        assert refused_or_sound(config, "missing") is None
        return
    try:
        part[key] = value
    except LIBRARYS:
        return
    assert refused_or_sound(config, "unknown key", "cannot be read") is None


@examples(40)
@given(value=VALUES, section=st.sampled_from(SECTIONS))
def test_sections(value, section):
    config = sound()
    try:
        config[section] = value
    except LIBRARYS:
        return
    assert refused_or_sound(config, section, "cannot be read") is None


def test_a_reference_that_fails_later():
    config, size = sound(), references.FieldReference(1)
    config.data.num_threads = 8 // size
    size.set(0)
    assert refused_or_sound(config, "cannot be read (ZeroDivisionError") is None


@pytest.mark.parametrize("key", [k for k, v in FLAT.items() if type(v) is float])
def test_no_number_is_nan(key):
    section, _, name = key.partition(".")
    config = sound()
    config[section][name] = float("nan")
    assert refused_or_sound(config, key) is None


def parsed(*arguments):
    """What a command makes of its arguments, short of the run itself."""
    values = flags.FlagValues()
    holder = config_flags.define_flag(values)
    config_flags.check_flag_names(arguments)
    with mock.patch.object(
        sys, "argv", ["main", *arguments]
    ):  # the library looks there
        assert config_flags.parse_flags(values, sys.argv) == ["main"]
    return configs.from_config_dict(holder.value)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "given.py"
    path.write_text(FILE)
    return path


def test_the_file_that_is_damaged_below_is_sound(file):
    assert parsed(f"--config={file}", "--config.seed=9").seed == 9


def test_a_file_that_returns_nothing_is_told_so(tmp_path):
    (tmp_path / "empty.py").write_text("def get_config():\n    pass\n")
    with pytest.raises(configs.ConfigError, match="returned a NoneType, not a ConfigD"):
        parsed(f"--config={tmp_path / 'empty.py'}")


@pytest.mark.parametrize("where", ["", "def get_config():\n    "])
def test_a_file_that_ends_the_process_is_told_of(tmp_path, where):
    """Breaks when `sys.exit` in a file ends the command without a word."""
    (tmp_path / "ends.py").write_text(f"import sys\n{where}sys.exit(0)\n")
    with pytest.raises(configs.ConfigError, match="ends.py:[23]: SystemExit: 0;"):
        parsed(f"--config={tmp_path / 'ends.py'}")


@examples(90)
@given(
    key=st.one_of(
        st.sampled_from(sorted(FLAT)), st.sampled_from(("seed.x", "data", ""))
    ),
    value=st.one_of(st.sampled_from(damage.TOKENS), st.text(max_size=6)),
)
def test_overrides(file, key, value):
    load = lambda: parsed(f"--config={file}", f"--config.{key}={value}")  # noqa: E731
    damage.outcome(load)


@examples(110)
@given(data=st.data())
def test_configuration_files(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.py"
    path.write_bytes(data.draw(damage.damaged_text(FILE)))
    damage.outcome(lambda: parsed(f"--config={path}"))


@pytest.mark.parametrize("name", [t for t in damage.TOKENS if t.strip() != ""])
def test_names_of_configuration_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # far enough below the root for `../..`
    load = lambda: parsed(f"--config={name}")  # noqa: E731
    assert damage.outcome(load, "there is no such", "the file fails at /etc") is None
