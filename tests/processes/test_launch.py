"""The launch scripts: dry runs, and runs with stand-ins of clusters."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vl_ltr_jax.runtime import preemption

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])

# Stands in for gcloud: the slice's state is a file, and the first run is preempted.
GCLOUD = """#!/bin/bash
cd "$(dirname "$0")"
echo "$4 ${@: -1}" >> calls
case $4 in
  describe) cat state ;;
  create) [[ ! -e state ]] && echo READY > state ;;
  delete) rm state ;;
  ssh)
    [[ $* != *vl_ltr_jax.main* ]] && exit
    [[ -e preempted ]] && echo "exit code 0" && exit
    touch preempted
    echo PREEMPTED > state
    exit 255
    ;;
esac
"""


def test_scripts_pass_shellcheck():
    assert len(SCRIPTS) == 3
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_jobset_is_a_jobset():
    manifest = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert manifest["kind"] == "JobSet"
    (job,) = manifest["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = next(a for a in container["command"] if a.startswith("--config="))
    assert (ROOT / config.removeprefix("--config=")).is_file()
    assert pod["terminationGracePeriodSeconds"] >= 60  # a save at the next step
    [rule] = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, preemption.INTERRUPTED_CODE]


def environment_of(directory, **variables):
    path = f"{directory}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHON": sys.executable, **variables}


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "arguments", "lines"),
    [
        (
            "tpu_pod.sh",
            [],
            [f"tpu-vm {verb}" for verb in ("create", "scp", "ssh", "ssh", "delete")],
        ),
        ("slurm_gpu.sbatch", [], ["srun --kill-on-bad-exit=0"]),
        ("local.sh", ["2"], ["JAX_PROCESS_ID=0", "JAX_PROCESS_ID=1"]),
    ],
)
def test_a_dry_run_prints_its_commands_and_does_nothing(
    script, arguments, lines, tmp_path
):
    """Breaks if a command is run, or shown in a form that a shell would not read."""
    for name in ("gcloud", "srun", "sleep"):
        executable(tmp_path / name, f"#!/bin/bash\ntouch {tmp_path}/called\nexit 1\n")
    output = subprocess.run(
        [
            *("bash", LAUNCH / script, *arguments, "--dry-run"),
            *("--config.data.name=a b", "--config=configs/inat18.py"),
        ],
        env=environment_of(tmp_path, WORKDIR=str(tmp_path / "run"), TEAR_DOWN="1"),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    assert not (tmp_path / "called").exists()
    assert len(output) == len(lines)
    for line, expected in zip(output, lines, strict=True):
        assert expected in line
        subprocess.run(["bash", "-n", "-c", line], check=True)
    runs = [line for line in output if "vl_ltr_jax.main" in line]
    assert runs
    for line in runs:
        assert "--config.data.name=a" in line.replace("\\", "")
        assert re.findall(r"--config=([\w/.]+)", line) == ["configs/inat18.py"]


def test_a_preempted_slice_is_made_again_and_the_run_resumes(tmp_path):
    """Breaks if the old slice stays, the new one is bare, or the workdir changes."""
    executable(tmp_path / "gcloud", GCLOUD)
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh"],
        env=environment_of(
            tmp_path, WORKDIR="gs://bucket/run", RETRY_SECONDS="0", TEAR_DOWN="1"
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the slice is gone" in done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    first = ["describe", "create", "scp", "ssh"]
    again = ["describe", "describe", "delete", "create", "scp", "ssh"]
    names = [call.partition(" ")[0] for call in calls]
    assert names == [*first, "ssh", *again, "ssh", "delete"]
    runs = [call for call in calls if "vl_ltr_jax.main" in call]
    assert all("--workdir=gs://bucket/run" in run for run in runs)
    assert ["--take_over" in run for run in runs] == [False, True]


@pytest.mark.parametrize("code", [2, 130, 1])
def test_a_pod_stops_at_a_refusal_and_at_ctrl_c_alone(code, tmp_path):
    executable(
        tmp_path / "gcloud",
        f"#!/bin/sh\ncase $4 in describe) echo READY; exit;; esac\n"
        f"echo . >> {tmp_path}/starts\n"
        f"echo exit code 134\necho exit code {code}\nexit 1\n",
    )
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "run"],
        env=environment_of(
            tmp_path, WORKDIR="gs://bucket/run", RETRY_SECONDS="0", MAX_FAILURES="1"
        ),
        check=False,
    )
    assert done.returncode == code
    assert (tmp_path / "starts").read_text().count(".") == (2 if code == 1 else 1)


def test_slurm_queues_again_after_a_failure_that_may_pass(tmp_path):
    """Breaks if a refusal is tried again, if failures are not counted in a row, or if a
    count outlives the job.
    """
    executable(
        tmp_path / "srun",
        "#!/bin/bash\nfor code in $CODES; do\n"
        '  echo "srun: error: node7: task 3: Exited with exit code $code" >&2\n'
        "done\nexit ${CODES##* }\n",
    )
    executable(tmp_path / "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/queued\n')
    (tmp_path / "queued").touch()

    def start(codes, **variables):
        before = len((tmp_path / "queued").read_text().splitlines())
        done = subprocess.run(
            ["bash", LAUNCH / "slurm_gpu.sbatch"],
            env=environment_of(tmp_path, CODES=codes, SLURM_JOB_ID="5", **variables),
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        queued = (tmp_path / "queued").read_text().splitlines()[before:]
        assert queued in ([], ["requeue 5"])
        return done.returncode, bool(queued)

    assert start("0") == (0, False)
    assert start("2 134") == (2, False)
    for codes in ("75", "75 137", "134", "75", "1", "1", "1"):
        assert start(codes) == (int(codes.split()[-1]), True), codes
    assert start("1") == (1, False)
    assert start("75", SLURM_RESTART_COUNT="100") == (75, False)


# Plays main: fails, or waits until it is asked to stop and has "saved".
PLAYER = """#!{python}
import os, signal, sys, time
from pathlib import Path

index, here = os.environ["JAX_PROCESS_ID"], Path(__file__).parent
def stop(signum, frame):
    if "--deaf" in sys.argv:
        return
    (here / f"stopped{{index}}").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(here / f"started{{index}}").touch()
while len(list(here.glob("started*"))) < 3:
    time.sleep(0.01)
if index == "1" and "--fail" in sys.argv:
    sys.exit(7)
time.sleep(120)
"""


@pytest.mark.parametrize(
    ("flags", "code", "saved"),
    [(["--fail"], 7, "02"), ([], 75, "012"), (["--deaf"], 137, "")],
)
def test_local_processes_end_together(tmp_path, flags, code, saved):
    """One fails, and the script stops the others; or the script is asked to stop.

    It passes that on, and kills if it is asked again.
    """
    player = tmp_path / "player"
    executable(
        player,
        f'#!/bin/bash\n[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
        f'exec {sys.executable} {tmp_path}/play.py "$@"\n',
    )
    (tmp_path / "play.py").write_text(PLAYER.format(python=sys.executable))
    process = subprocess.Popen(
        ["bash", LAUNCH / "local.sh", "3", *flags],
        env=environment_of(tmp_path, PYTHON=str(player), GRACE_SECONDS="300"),
    )
    try:
        while len(list(tmp_path.glob("started*"))) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        if code != 7:
            process.send_signal(signal.SIGTERM)
        while code == 137 and process.poll() is None:
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == code
    finally:
        process.kill()
        process.wait()
    stopped = {path.name for path in tmp_path.glob("stopped*")}
    assert stopped == {f"stopped{i}" for i in saved}
