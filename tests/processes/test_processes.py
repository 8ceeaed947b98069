"""The main job as processes: stopped, and started again on other devices."""

import json
import os
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


def until(process: subprocess.Popen, progress: str) -> None:
    """Returns when a line of progress begins so."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(progress):
            return
    raise AssertionError(f"never at {progress}:\n{''.join(lines)}")


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Returns exit codes, standard output and errors."""
    try:
        output = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, output, strict=True)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A configuration file, the workdir of an unbroken quiet run of it, and its end."""
    directory = tmp_path_factory.mktemp("kill")
    config = image_world.write_config(directory, log__checkpoint_every_steps=2)
    [end] = ends([start(config, directory / "unbroken", "--quiet", devices=8)])
    return config, directory / "unbroken", end


def results(workdir: Path):
    return json.loads((workdir / "results.json").read_text())


def test_a_quiet_run_prints_its_result_and_no_more(world):
    _, unbroken, (code, output, errors) = world
    # Orbax may warn that a disk is slow; warnings are never silenced.
    lines = [line for line in errors.splitlines() if "Waiting for previous" not in line]
    assert (code, lines) == (0, [])
    top1 = results(unbroken)["test"]["lgr"]["top1"]
    assert output.startswith(f"test {top1:.1f} overall, ")
    assert str(unbroken / "report.md") in output
    assert output.count("\n") == 1


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
    """Returns the distance of two ends, as a share of the way from the start.

    Biases of attention keys are excluded: their gradient is rounding noise, which AdamW
    turns into steps of the full rate.
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


def test_a_run_resumes_with_other_devices_and_processes(world, tmp_path):
    """Two processes of two devices, asked to stop; four devices in two chunks with
    everything sharded, killed; two processes again, to the end.

    Breaks if one process stops alone, if a process reads rows of another, if the
    batches of a step depend on the devices, if a restore keeps the layout of the save,
    if both processes write, or if a barrier is left to one of them. Ends differ by the
    order of sums alone: Adam's first updates are g / |g|, so entries whose gradient is
    near rounding move freely. 18 steps bring them to less than a hundredth of the way.
    """
    config, unbroken, _ = world
    elastic = tmp_path / "elastic"
    processes = start_two(config, elastic)
    until(processes[0], "pretrain 5/")
    processes[1].send_signal(signal.SIGTERM)
    stopped = ends(processes)
    assert [code for code, *_ in stopped] == [75, 75], stopped

    layout = {"model": 2, "fsdp": "model", "accumulation_steps": 2}
    flags = [f"--config.mesh.{key}={value}" for key, value in layout.items()]
    killed = start(config, elastic, *flags, devices=4)
    until(killed, "finetune 7/")
    killed.kill()
    killed.communicate(timeout=60)

    finished = ends(start_two(config, elastic))
    assert [code for code, *_ in finished] == [0, 0], finished
    assert "finetune: resumes at step" in finished[0][2]
    towers = initial.model_source("tiny_clip")
    _, before = clip_files.load_clip(towers, image_size=image_world.IMAGE_SIZE)
    towers, heads = (
        [
            restore.load_params(workdir / stage / "checkpoints")["params"]
            for workdir in (unbroken, elastic)
        ]
        for stage in ("pretrain", "finetune")
    )
    assert distance(*towers, before["params"]) < 0.01
    zero = jax.tree.map(np.zeros_like, heads[0])
    assert distance(*heads, zero) < 1e-4
    actual, expected = results(elastic), results(unbroken)
    assert actual["data"] == expected["data"]
    assert actual["test"] == expected["test"]
    anchors = [np.load(w / "anchors" / "indices.npy") for w in (unbroken, elastic)]
    np.testing.assert_array_equal(*anchors)
    assert len(list((elastic / "teacher").glob("*.npy"))) == 1
