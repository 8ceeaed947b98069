"""One of several processes of a small training run: `test_processes.py` starts them.

python training_process.py PORT NUM_PROCESSES PROCESS_ID DIRECTORY NUM_STEPS PAUSE
"""

import hashlib
import itertools
import json
import sys
import time

import jax
import numpy as np

port, num_processes, process_id, directory, num_steps, pause = sys.argv[1:]
jax.config.update("jax_default_matmul_precision", "highest")
jax.distributed.initialize(
    f"127.0.0.1:{port}", int(num_processes), int(process_id)
)  # before anything asks for devices

from vl_ltr_jax.checkpoint.manager import Checkpoints  # noqa: E402
from vl_ltr_jax.checkpoint.restore import load_params  # noqa: E402
from vl_ltr_jax.logs.event_files import Logs  # noqa: E402
from vl_ltr_jax.runtime import mesh as meshes  # noqa: E402
from vl_ltr_jax.train.loop import train  # noqa: E402
from vl_ltr_jax.train.metrics import Span  # noqa: E402
from worlds import loop_world  # noqa: E402


def batches(mesh, first_step):
    """This process's rows of the batches that `test_loop` draws."""
    share = slice(jax.process_index(), None, jax.process_count())
    for step in itertools.count(first_step + 1):
        rng = np.random.default_rng(step)
        image = rng.normal(size=(8, 16)).astype(np.float32)
        target = rng.normal(size=(8, 4)).astype(np.float32)
        time.sleep(float(pause))
        yield meshes.to_global(mesh, {"image": image[share], "target": target[share]})


mesh = meshes.make_mesh()
state = loop_world.new_state()
shardings = meshes.shard_largest_axis(mesh, state, min_elements=1)
state = meshes.place(meshes.to_host(state), shardings)
with (
    Checkpoints(f"{directory}/checkpoints", every_steps=1000) as checkpoints,
    Logs(directory, title=f"process {process_id}", plain_seconds=0) as logs,
):
    restored = checkpoints.restore_latest(state)
    state = restored[0] if restored else state
    first_step = int(meshes.to_host(state.step))
    state = train(
        state,
        jax.jit(loop_world.step_fn, donate_argnums=0),
        batches(mesh, first_step),
        Span(first_step, int(num_steps), 8, 1),
        checkpoints=checkpoints,
        logs=logs,
    )
kernel = meshes.to_host(state.params)["kernel"]
saved = load_params(f"{directory}/checkpoints")["params"]["kernel"]
print(
    json.dumps(
        {
            "first_step": first_step,
            "devices": jax.device_count(),
            "kernel": kernel.tolist(),
            "handed_over": bool(np.array_equal(saved, kernel)),
            "digest": hashlib.sha256(kernel.tobytes()).hexdigest(),
        }
    )
)
