"""Configurations as a command line makes them."""

import sys
from unittest import mock

from absl import flags

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import flags as config_flags
from vl_ltr_jax.config import settings


def parse(*arguments: str) -> settings.Config:
    """The configuration of a command with these arguments."""
    values = flags.FlagValues()
    holder = config_flags.define_flag(values)
    config_flags.check_flag_names(arguments)
    # The library reads `sys.argv`.
    with mock.patch.object(sys, "argv", ["main", *arguments]):
        assert config_flags.parse_flags(values, sys.argv) == ["main"]
    return configs.from_config_dict(holder.value)
