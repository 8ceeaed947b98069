"""The main job as processes: killed and started again, and two of them as one run."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import image_world
import jax
import numpy as np
import pytest

from vl_ltr_jax import checkpoint

CONFIG = """
from pathlib import Path
import image_world

def get_config():
    return image_world.configure(Path({root!r}))
"""


def start(
    config: Path, workdir: Path, *flags: str, devices: int = 1
) -> subprocess.Popen:
    tests = Path(__file__).parent
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        # The same programs in every process: compiled once.
        "JAX_COMPILATION_CACHE_DIR": str(config.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "vl_ltr_jax.main"),
            *(f"--config={config}", f"--workdir={workdir}", *flags),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at(config: Path, workdir: Path, stage: str, step: int) -> None:
    """Starts the run and kills it when it says that a step is done."""
    process = start(config, workdir)
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith(f"{stage} {step}/"):
                break
        else:
            raise AssertionError(f"never at {stage} {step}:\n{''.join(said)}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


def finish(config: Path, workdir: Path) -> str:
    process = start(config, workdir)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def final(workdir: Path, stage: str):
    return checkpoint.load_params(workdir / stage / "checkpoints")["params"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A configuration file, and the workdir of an unbroken run of it."""
    directory = tmp_path_factory.mktemp("kill")
    root = image_world.write(directory / "world")
    config = directory / "config.py"
    config.write_text(CONFIG.format(root=str(root)))
    finish(config, directory / "unbroken")
    return config, directory / "unbroken"


def results(workdir: Path):
    return json.loads((workdir / "results.json").read_text())


def test_a_killed_run_ends_with_bit_equal_parameters(world, tmp_path):
    """Breaks if the data position, the optimizer's moments or the step of the random
    numbers do not come back, or if a restore casts."""
    config, whole = world
    draw = random.Random()
    # A save waits for the one before it: past step 6, that of step 4 is complete.
    steps = {stage: draw.randint(7, 11) for stage in ("pretrain", "finetune")}
    for stage, step in steps.items():
        kill_at(config, tmp_path / "killed", stage, step)
    said = finish(config, tmp_path / "killed")
    assert "pretrain: finished before" in said
    assert "finetune: resumes at step" in said
    for stage in ("pretrain", "finetune"):
        equal = jax.tree.map(
            np.array_equal,
            final(whole, stage),
            final(tmp_path / "killed", stage),
        )
        assert all(jax.tree.leaves(equal)), (stage, steps)
    killed, unbroken = results(tmp_path / "killed"), results(whole)
    assert killed["test"] == unbroken["test"]
    assert killed["cost"]["images_seen"] == unbroken["cost"]["images_seen"]


def test_two_processes_make_one_run(world, tmp_path):
    """Breaks if a process reads rows of another, if both write, or if a barrier or a
    collective is left to one of them."""
    config, whole = world
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"--coordinator_address=127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        start(
            config,
            tmp_path / "two",
            *(address, "--num_processes=2", f"--process_id={index}"),
            devices=2,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert results(tmp_path / "two")["data"] == results(whole)["data"]
    for stage in ("pretrain", "finetune"):
        jax.tree.map(
            # AdamW turns rounding of near-zero gradients into steps of the rate, 1e-4.
            lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4),
            final(whole, stage),
            final(tmp_path / "two", stage),
        )
