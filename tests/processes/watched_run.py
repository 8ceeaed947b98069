"""One start of the main job, watched from outside: its workdir and its lines."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TRAINING = ("pretrain", "finetune")
STAGES = ("pretrain", "embed", "anchors", "finetune", "evaluate")
POLL_SECONDS = 0.002


class Job(NamedTuple):
    """Arguments that all starts have in common.

    Attributes:
      config: configuration file.
      flags: further ones.
      programs: directory of compiled programs.
      optimized: False for small programs, which compile faster so.
    """

    config: Path
    flags: tuple[str, ...] = ()
    programs: Path | None = None
    optimized: bool = True


class WatchedRun:
    """A process of the main job, with its lines on standard error.

    Attributes:
      workdir: of the run.
      process: as it was started.
      lines: of standard error.
    """

    def __init__(self, job: Job, workdir: Path):
        self.workdir, self.lines = workdir, list[str]()
        paths = (p for p in workdir.rglob("*") if "compiled" not in p.parts)
        self._before = {path: _identity(path) for path in paths}
        tests = Path(__file__).parents[1]
        devices = "--xla_force_host_platform_device_count=1"
        flags = "" if job.optimized else os.environ["XLA_FLAGS"]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} {devices}",  # the last count of devices holds
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        if job.programs:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(job.programs)
        with open(f"{workdir}.stdout", "ab") as stdout:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "vl_ltr_jax.main"),
                    *(f"--config={job.config}", f"--workdir={workdir}", *job.flags),
                ],
                env=environment,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def close(self) -> None:
        """Ends the process, and appends its lines to a file."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._listener.join()
        self.process.stderr.close()
        with open(f"{self.workdir}.stderr", "a") as file:
            file.write("\n".join([f"--- {self.process.pid}", *self.lines, ""]))

    def end(self, seconds: float) -> int | None:
        """Returns the exit code, or None if it does not come in time."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._listener.join(10)
        return code

    def until(self, *conditions: Callable[[], bool]) -> int | None:
        """Returns the index of the first condition to hold, or None at the end."""
        while self.process.poll() is None:
            for index, condition in enumerate(conditions):
                if condition():
                    return index
            time.sleep(POLL_SECONDS)
        return None

    def catches(self, number: signal.Signals) -> bool:
        """Returns True if the process has a handler of its own for a signal."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
        return bool(caught >> (number - 1) & 1)

    def printed(self, text: str) -> bool:
        """Returns True if a line has this text."""
        return any(text in line for line in list(self.lines))

    def stage(self) -> str:
        """Returns the name of the stage under way."""
        starts = [line.partition(":")[0] for line in self.lines if ": starts" in line]
        if not starts or self.finished("evaluate"):
            return "report" if self.finished("evaluate") else "start-up"
        return f"after {starts[-1]}" if self.finished(starts[-1]) else starts[-1]

    def step(self, stage: str) -> int:
        """Returns the last step in a line of progress; -1 before the first."""
        steps = [re.match(rf"{stage} (\d+)/", line) for line in list(self.lines)]
        return max((int(match[1]) for match in steps if match), default=-1)

    def finished(self, stage: str) -> bool:
        """Returns True if the stage has its artifact."""
        return (self.workdir / stage / "artifact.json").exists()

    def renewed(self, name: str) -> bool:
        """Returns True if this start has written a file, not an earlier start."""
        path = self.workdir / name
        now = _identity(path)
        return now is not None and now != self._before.get(path)

    def names(self, *parts: str) -> list[str]:
        """Returns names in a directory, which may be absent."""
        try:
            return os.listdir(self.workdir.joinpath(*parts))
        except OSError:
            return []

    def steps(self, stage: str) -> list[int]:
        """Returns steps of complete checkpoints."""
        return sorted(int(n) for n in self.names(stage, "checkpoints") if n.isdigit())


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
