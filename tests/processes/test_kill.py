"""The main job as processes: killed and started again, there or on other devices."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.run import initial
from worlds import image_world

CONFIG = """
from pathlib import Path
from worlds import image_world

def get_config():
    config = image_world.configure(Path({root!r}))
    config.log.checkpoint_every_steps = 2
    return config
"""


def start(
    config: Path, workdir: Path, *flags: str, devices: int = 4
) -> subprocess.Popen:
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']}"
        f" --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        # Their own: a process that is killed may leave half a program.
        "JAX_COMPILATION_CACHE_DIR": str(config.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "vl_ltr_jax.main"),
            *(f"--config={config}", f"--workdir={workdir}", *flags),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at(
    config: Path, workdir: Path, stage: str, step: int, *flags: str, devices: int = 4
) -> None:
    """Starts the run and kills it when it says that a step is done."""
    process = start(config, workdir, *flags, devices=devices)
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


def finish(config: Path, workdir: Path, *flags: str) -> tuple[str, str]:
    """Runs to the end; gives standard output and error."""
    process = start(config, workdir, *flags)
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def final(workdir: Path, stage: str):
    return restore.load_params(workdir / stage / "checkpoints")["params"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A configuration file, and the workdir of an unbroken run of it."""
    directory = tmp_path_factory.mktemp("kill")
    root = image_world.write(directory / "world")
    config = directory / "config.py"
    config.write_text(CONFIG.format(root=str(root)))
    said = finish(config, directory / "unbroken", "--quiet")
    (directory / "said.json").write_text(json.dumps(said))
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
    report, said = finish(config, tmp_path / "killed")
    assert "VL-LTR (LGR)" in report and "standard rule" in report
    assert "report.html: starts" in said and "report.html: written in " in said
    assert "pretrain: finished before" in said
    assert "finetune: resumes at step" in said
    assert "finetune: 12 steps, 96 images in " in said
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


def test_a_quiet_run_says_where_its_result_is_and_no_more(world):
    _, whole = world
    said, errors = json.loads((whole.parent / "said.json").read_text())
    # Orbax may warn that a disk is slow; warnings are never silenced.
    ours = [line for line in errors.splitlines() if "Waiting for previous" not in line]
    assert ours == []
    top1 = results(whole)["test"]["lgr"]["top1"]
    assert said.startswith(f"test {top1:.1f} overall, ")
    assert said.endswith(f" (VL-LTR (LGR)): {whole / 'report.md'}\n")
    assert said.count("\n") == 1


def start_two(config: Path, workdir: Path, *flags: str) -> list[subprocess.Popen]:
    """Two processes of two devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"--coordinator_address=127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(
            config,
            workdir,
            *(address, "--num_processes=2", f"--process_id={index}", *flags),
            devices=2,
        )
        for index in range(2)
    ]


def distance(ours, theirs, start) -> float:
    """How far two ends lie apart, as a share of the way from the start.

    Biases of attention keys have no gradient but rounding noise, which AdamW turns
    into steps of the full rate: they are left out.
    """
    apart = moved = 0.0
    paths, _ = jax.tree_util.tree_flatten_with_path(start)
    for (path, first), a, b in zip(
        paths, jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
        if not jax.tree_util.keystr(path).endswith("['k_proj']['bias']"):
            apart += np.sum((np.asarray(a) - np.asarray(b)) ** 2)
            moved += np.sum((np.asarray(a) - np.asarray(first)) ** 2)
    return float(np.sqrt(apart / moved))


def test_a_run_goes_on_with_other_devices_and_processes(world, tmp_path):
    """Eight devices, killed; four in two chunks with everything sharded, killed; two
    processes of two devices, to the end.

    Breaks if a process reads rows of another, if the batches of a step depend on the
    devices, if a restore keeps the layout of the save, if both processes write, or if
    a barrier is left to one of them. Ends differ by the order of sums alone: Adam's
    first updates are g / |g|, so entries whose gradient is near rounding move freely,
    which 18 steps bring to less than a hundredth of the way.
    """
    config, whole = world
    elastic = tmp_path / "elastic"
    kill_at(config, elastic, "pretrain", 7, devices=8)
    layout = {"model": 2, "fsdp": "model", "accumulation_steps": 2}
    flags = [f"--config.mesh.{key}={value}" for key, value in layout.items()]
    kill_at(config, elastic, "finetune", 7, *flags, devices=4)
    processes = start_two(config, elastic)
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert "pretrain: finished before" in said[0]
    assert "finetune: resumes at step" in said[0]
    towers = initial.model_source("tiny_clip")
    _, before = clip_files.load_clip(towers, image_size=image_world.IMAGE_SIZE)
    ends = [final(workdir, "pretrain") for workdir in (whole, elastic)]
    assert distance(*ends, before["params"]) < 0.01
    heads = [final(workdir, "finetune") for workdir in (whole, elastic)]
    zero = jax.tree.map(np.zeros_like, heads[0])
    assert distance(*heads, zero) < 1e-4
    found, expected = results(elastic), results(whole)
    assert found["data"] == expected["data"]
    assert found["test"] == expected["test"]
    anchors = [np.load(w / "anchors" / "indices.npy") for w in (whole, elastic)]
    np.testing.assert_array_equal(*anchors)
    assert len(list((elastic / "teacher").glob("*.npy"))) == 1
