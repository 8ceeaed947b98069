"""Two processes of four devices train as one of eight does, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from worlds.loop_world import run

PROGRAM = Path(__file__).with_name("training_process.py")


def start(directory, *, num_steps, pause=0.0, count=2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, PROGRAM.parents[1:3])),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']}"
        f" --xla_force_host_platform_device_count={8 // count}",
    }
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(port), str(count), str(process)]
            + [str(directory), str(num_steps), str(pause)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(count)
    ]


def finish(processes):
    try:
        return [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()


def results(processes):
    outputs = finish(processes)
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def test_two_processes_stop_together_resume_and_equal_one(tmp_path):
    stopped = start(tmp_path / "run", num_steps=100_000, pause=0.05)
    try:
        for line in stopped[0].stderr:
            if line.startswith("process 0 5/"):
                break
        stopped[1].send_signal(signal.SIGTERM)
        outputs = finish(stopped)
    finally:
        for process in stopped:
            process.kill()
    assert [process.returncode for process in stopped] == [75, 75], outputs
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name)

    first, second = results(start(tmp_path / "run", num_steps=step + 5))
    assert (first["devices"], first["first_step"]) == (8, step)
    assert first["handed_over"] and second["handed_over"]
    assert first["digest"] == second["digest"]
    whole, _ = run(tmp_path / "one", num_steps=step + 5)
    np.testing.assert_allclose(first["kernel"], whole.params["kernel"], rtol=1e-4)
