"""iNaturalist 2018 at its size: opened whole, within memory, and a batch made."""

import os
import subprocess
import sys

import numpy as np

from vl_ltr_jax.benchmarks import inat_size


def test_counts_are_those_of_inaturalist_in_sum_and_extremes():
    counts = inat_size.long_tail()
    assert (counts.sum(), counts.max(), counts.min()) == (437_513, 1000, 2)
    assert counts.shape == (8142,) and (np.diff(counts) <= 0).all()


def test_a_data_set_of_its_size_opens_in_little_memory():
    """A copy of each row, or token ids of 64 bits, would not fit into 1.5 GB."""
    done = subprocess.run(
        [sys.executable, "-m", "vl_ltr_jax.benchmarks.inat_size"],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    rows = (line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    found = {name.strip(): float(value.replace(",", "")) for name, value in rows}
    assert found["images"] == 437_513
    assert found["sentences"] == 8142 * (80 + 43)
    assert found["peak MiB"] < 1.5e9 / 2**20
