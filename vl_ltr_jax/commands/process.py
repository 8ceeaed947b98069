"""Process-wide settings, which commands make and libraries leave alone."""

import sys
import warnings
from collections.abc import Callable, Sequence

from absl import logging
from PIL import Image

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime import cpu_memory


def prepare() -> None:
    """Sets up memory, warnings and log records of this process, before JAX starts."""
    if cpu_memory.runs_on_cpu():
        cpu_memory.keep()
    # Pillow warns of large pictures that it decodes, and refuses twice as large ones.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # At INFO, Orbax reports every file.
    logging.set_verbosity(logging.WARNING)
    # absl's handler would write into the line of a progress bar.
    logging.get_absl_handler().python_handler.addFilter(console.log_record)


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Runs a command that reads no configuration, and exits with its code."""
    prepare()
    sys.exit(main(sys.argv[1:]))
