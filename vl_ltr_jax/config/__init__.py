"""Keys of a configuration, their bounds and their flags."""

from vl_ltr_jax.config.build import default_config
from vl_ltr_jax.config.flags import arguments

__all__ = ["arguments", "default_config"]
