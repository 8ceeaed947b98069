"""One of two processes that compute what `test_any_mesh.py` compares.

python any_mesh_process.py PORT PROCESS_ID MODEL DIRECTORY
"""

import sys

import jax
import numpy as np

port, process_id, model, directory = sys.argv[1:]
jax.config.update("jax_default_matmul_precision", "highest")
jax.distributed.initialize(
    f"127.0.0.1:{port}", 2, int(process_id)
)  # before anything asks for devices

from vl_ltr_jax.runtime import mesh as meshes  # noqa: E402
from worlds.mesh_world import everything  # noqa: E402

result = everything(meshes.make_mesh(model=int(model)))
np.savez(f"{directory}/{process_id}.npz", **result)
