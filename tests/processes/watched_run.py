"""One start of the main job, watched from outside: its workdir and what it says."""

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
    """What every start has in common.

    Attributes:
      config: the configuration file.
      flags: further ones.
      programs: where compiled programs lie.
      devices: virtual ones.
      optimized: whether XLA optimises; small programs are quicker without.
    """

    config: Path
    flags: tuple[str, ...] = ()
    programs: Path | None = None
    devices: int = 1
    optimized: bool = True


class WatchedRun:
    """A process of the main job; all it says on standard error is kept.

    Attributes:
      workdir: of the run.
      process: a group of its own, so that what it leaves behind can be seen.
      lines: of standard error.
      began: when it started, as `time.time`.
    """

    def __init__(self, job: Job, workdir: Path, *, programs: Path | None = None):
        self.workdir, self.lines = workdir, list[str]()
        paths = (p for p in workdir.rglob("*") if "compiled" not in p.parts)
        self._before = {path: _identity(path) for path in paths}
        tests = Path(__file__).parents[1]
        xla = f"--xla_force_host_platform_device_count={job.devices}"
        if not job.optimized:  # as tests are; the last count of devices holds
            xla = f"{os.environ['XLA_FLAGS']} {xla}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla,
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        if cache := programs or job.programs:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        self.began = time.time()
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
        """Leaves no process behind, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for number in self.group():
            os.kill(number, signal.SIGKILL)
        self._listener.join()
        self.process.stderr.close()
        with open(f"{self.workdir}.stderr", "a") as file:
            file.write("\n".join([f"--- {self.process.pid}", *self.lines, ""]))

    def end(self, seconds: float) -> int | None:
        """Waits for the exit code; None: it does not come."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._listener.join(10)
        return code

    def group(self) -> list[int]:
        """Processes that this one has started and that still live, it excluded."""
        found = []
        for name in os.listdir("/proc"):
            try:
                stat = Path("/proc", name, "stat").read_text() if name.isdigit() else ""
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if fields and int(fields[2]) == self.process.pid and fields[0] != "Z":
                found.append(int(name))
        return [number for number in found if number != self.process.pid]

    def until(self, *conditions: Callable[[], bool]) -> int | None:
        """Waits for the first of the conditions, and says which; None: it has ended."""
        while self.process.poll() is None:
            for index, condition in enumerate(conditions):
                if condition():
                    return index
            time.sleep(POLL_SECONDS)
        return None

    def catches(self, number: signal.Signals) -> bool:
        """Whether the process has a handler of its own for a signal."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
        return bool(caught >> (number - 1) & 1)

    def said(self, text: str) -> bool:
        """Whether a line has this text."""
        return any(text in line for line in list(self.lines))

    def stage(self) -> str:
        """The stage that is under way, as far as was said."""
        found = [line.partition(":")[0] for line in self.lines if ": starts" in line]
        ended = [s for s in found if self.whole(s)]
        if not found or self.whole("evaluate"):
            return "report" if self.whole("evaluate") else "start-up"
        return found[-1] if found[-1] not in ended else f"after {found[-1]}"

    def step(self, stage: str) -> int:
        """The last step that was told of; -1: none yet."""
        told = [re.match(rf"{stage} ([\d,]+)/", line) for line in list(self.lines)]
        return max((int(m[1].replace(",", "")) for m in told if m), default=-1)

    def whole(self, stage: str) -> bool:
        """Whether the stage is finished."""
        return (self.workdir / stage / "artifact.json").exists()

    def renewed(self, name: str) -> bool:
        """Whether this start has written a file, which an earlier one may have too."""
        path = self.workdir / name
        now = _identity(path)
        return now is not None and now != self._before.get(path)

    def names(self, *parts: str) -> list[str]:
        """Names of a directory; none where it is not."""
        try:
            with os.scandir(self.workdir.joinpath(*parts)) as entries:
                return [entry.name for entry in entries]
        except OSError:
            return []

    def steps(self, stage: str) -> list[int]:
        """Steps whose checkpoints have their name."""
        return sorted(int(n) for n in self.names(stage, "checkpoints") if n.isdigit())

    def saves(self, stage: str) -> bool:
        """Whether a checkpoint is being written."""
        return any(
            "orbax-checkpoint-tmp" in name
            and self.renewed(f"{stage}/checkpoints/{name}")
            for name in self.names(stage, "checkpoints")
        )

    def safe_since(self) -> float:
        """When the newest thing that a later start goes on from was whole."""
        paths = [self.workdir / stage / "artifact.json" for stage in STAGES]
        for stage in TRAINING:
            if steps := self.steps(stage):
                paths.append(self.workdir / stage / "checkpoints" / str(steps[-1]))
        paths += self.workdir.glob("finetune/views/*.npy")
        times = [path.stat().st_mtime for path in paths if path.exists()]
        return max([self.began, *times])


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
