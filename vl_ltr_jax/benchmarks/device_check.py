"""Check of the devices that are here, in eight minutes at most.

    python -m vl_ltr_jax.benchmarks.device_check --json=check.json

Prints a table. It has numbers beside the authors', and a run that was killed and
resumed beside an unbroken one. It has rates of training and of its data, and PyTorch's.
The exit code is 0 if numbers and bits hold, 1 if not, and 2 for a user's mistake. Each
check has a process, and so a peak of memory, of its own. A TPU has one user at a time.
"""

import argparse
import functools
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath

from vl_ltr_jax.benchmarks import device_parity, device_speed, paired
from vl_ltr_jax.benchmarks.device_parity import Row
from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import write_whole

_CHECKOUT = Path(__file__).parents[2]
_CONFIG = "configs/shapes_lt.py"
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_LATE = "the time is up"
_SHORT = {
    "pretrain.epochs": 3,
    "pretrain.global_batch_size": 64,
    "finetune.epochs": 1,
    "evaluate.knn": False,
    "evaluate.zero_shot": False,
    "log.checkpoint_every_steps": 10,
}
_SMALL = {
    "pretrain.epochs": 0,  # a head on cached features
    "finetune.epochs": 3,
    "model.image_size": 16,
    "data.context_length": 8,
}


class DeviceCheckError(UserError):
    """A checkout without golden arrays, or a check that was refused."""


class Check(NamedTuple):
    """A check of the table.

    Attributes:
      rows: from the options of the command line to rows.
      seconds: that it takes on one large GPU.
      judged: False if it measures speed alone.
    """

    rows: Callable[[argparse.Namespace], Iterator[Row]]
    seconds: float
    judged: bool = False


def parity(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the devices, and errors of their numbers."""
    devices = meshes.devices()
    kinds = f"{len(devices)} x {devices[0].device_kind}"
    yield Row("devices", kinds, f"jax {jax.__version__}")
    yield from device_parity.rows(options.checkout / "tests" / "golden")


def bits(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the differences of a killed and resumed run from an unbroken one."""
    command = [sys.executable, "-m", "vl_ltr_jax.main", "--quiet"]
    command += [f"--config={options.checkout / _CONFIG}"]
    sizes = _SHORT | (_SMALL if options.small else {})
    command += [f"--config.{key}={value}" for key, value in sizes.items()]
    with tempfile.TemporaryDirectory() as directory:
        unbroken, killed = Path(directory, "unbroken"), Path(directory, "killed")
        stage = killed / ("pretrain" if sizes["pretrain.epochs"] else "finetune")
        environment = {
            "JAX_COMPILATION_CACHE_DIR": f"{directory}/programs",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **os.environ,
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}",
        }

        def start(workdir: Path) -> subprocess.Popen[bytes]:
            words = [*command, f"--workdir={workdir}"]
            return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)

        codes = [start(unbroken).wait()]
        run = start(killed)
        while not (steps := _steps(stage)) and run.poll() is None:
            time.sleep(0.002)
        run.kill()
        run.wait()
        in_training = steps and not (stage / "artifact.json").exists()
        codes.append(start(killed).wait())
        faults = [f"exit status {code}" for code in codes if code]
        if not faults:
            faults = list(differences(unbroken, killed))
    faults += [] if in_training else ["not killed in training"]
    yield Row(
        "shapes_lt, results and last checkpoints",
        "; ".join(faults) or f"the same bits, killed after step {steps[-1]}",
        f"an unbroken run's; GPUs need XLA_FLAGS={_DETERMINISTIC}, set here",
        not faults,
        {"faults": len(faults), "killed_after_step": max(steps, default=0)},
    )


def _steps(stage: Path) -> list[int]:
    names = [path.name for path in stage.glob("checkpoints/*")]
    return sorted(int(name) for name in names if name.isdigit())


def differences(unbroken: Path, other: Path) -> Iterator[str]:
    """Yields names of results and checkpoints that differ between two workdirs.

    Parameters are compared bit for bit, states of optimizers by their checksums.
    """
    first, second = (
        _without_seconds(strict_json.parse((workdir / "results.json").read_bytes()))
        for workdir in (unbroken, other)
    )
    if first != second:
        yield "results.json differs"
    for stage in ("pretrain", "finetune"):
        if last := _steps(unbroken / stage)[-1:]:
            if last != _steps(other / stage)[-1:]:
                yield f"{stage}: no checkpoint of step {last[0]}"
            elif _state(unbroken / stage) != _state(other / stage):
                yield f"{stage}: checkpoint {last[0]} differs"


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if k != "seconds"}
    return value


def _state(stage: Path) -> tuple[Any, ...]:
    """Returns the bits of the last checkpoint's parameters, and all checksums."""
    path = stage / "checkpoints"
    leaves, _ = jax.tree_util.tree_flatten_with_path(load_params(path))
    meta = path / str(_steps(stage)[-1]) / "meta" / "metadata"
    checksums = strict_json.parse(meta.read_bytes())["checksums"]
    del checksums["meta"]  # of seconds
    return [(name, leaf.tobytes()) for name, leaf in leaves], checksums


def speed(full: str, small: str, options: argparse.Namespace) -> Iterator[Row]:
    """Yields rates and memory of pre-training by a backbone, or by a small one."""
    return device_speed.rows(small if options.small else full, small=options.small)


def beside_torch(options: argparse.Namespace) -> Iterator[Row]:
    """Yields times of AnSS and LGR, ours and PyTorch's, in exact float32."""
    if importlib.util.find_spec("torch") is None:
        yield Row("AnSS and LGR beside PyTorch", "skipped", "torch is not installed")
        return
    import torch

    from vl_ltr_jax.benchmarks import anss, lgr

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with jax.default_matmul_precision("highest"):
        sizes = (40, 60, 8, 3) if options.small else (20_000, 20_000, 512, 365)
        programs, _ = anss.sides(*sizes, device)
        if device == "cpu":  # it would take minutes
            del programs["PyTorch, one by one"]
        yield _compared("AnSS", sizes, programs, device)
        sizes = (5, 3, 8, 4) if options.small else (1000, 64, 512, 64)
        step, arguments, _, plain = lgr.sides(*sizes)
        programs = {"ours": lambda: step(*arguments), "PyTorch": plain(device)}
        yield _compared("LGR", sizes, programs, device)


def _compared(
    title: str,
    sizes: Sequence[int],
    programs: dict[str, Callable[[], Any]],
    device: str,
) -> Row:
    costs = paired.run(programs, rounds=3)
    medians = {name: statistics.median(cost.seconds) for name, cost in costs.items()}
    figures = [f"{name} {seconds:.2g} s" for name, seconds in medians.items()]
    name = f"{title}, {' x '.join(map(str, sizes))}"
    limit = f"PyTorch on {device}, float32 on both sides"
    return Row(name, ", ".join(figures), limit, None, medians)


CHECKS = {
    "parity": Check(parity, 60, judged=True),
    "bits": Check(bits, 120, judged=True),
    "vit": Check(functools.partial(speed, "ViT-B/16", "ViT-tiny"), 120),
    "resnet": Check(functools.partial(speed, "RN50", "RN-tiny"), 120),
    "torch": Check(beside_torch, 40),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=epath.Path, help="file for all figures")
    parser.add_argument("--seconds", type=paired.count, default=480, help="at most")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--checkout", type=Path, default=_CHECKOUT)
    parser.add_argument(
        "--check", choices=CHECKS, action="append", help="this one, here"
    )
    options = parser.parse_args(argv)
    for place in ("tests/golden", _CONFIG):
        if not (options.checkout / place).exists():
            raise DeviceCheckError(
                f"--checkout={options.checkout}: {place} is not there. Name a checkout "
                "of the repository."
            )
    checks, rows = options.check or list(CHECKS), list[Row]()
    source = CHECKS[checks[0]].rows(options)
    print("| check | figure | expected | ok |\n|---|---|---|---|", flush=True)
    for row in source if len(checks) == 1 else _in_turn(checks, options):
        ok = {True: "yes", False: "**no**", None: ""}[row.ok]
        print(f"| {row.check} | {row.figure} | {row.limit} | {ok} |", flush=True)
        rows.append(row)
        _write(options.json, rows)
    _write(options.json, rows, complete=True)
    return 1 if any(row.ok is False for row in rows) else 0


def _write(path: epath.Path | None, rows: list[Row], *, complete: bool = False) -> None:
    if path:
        content = {"complete": complete, "rows": [row._asdict() for row in rows]}
        write_whole(path, strict_json.to_json(content))


def _in_turn(checks: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """Yields rows of checks in processes of their own, while there is time."""
    end = time.monotonic() + options.seconds
    for name in checks:
        check, seconds = CHECKS[name], end - time.monotonic()
        if seconds < check.seconds:
            limit = f"{check.seconds:.0f} s, and {max(seconds, 0):.0f} s remain"
            yield Row(name, "not run", limit, False if check.judged else None)
            continue
        rows, fault = _in_process(name, options, seconds)
        yield from rows
        if fault:
            stopped = fault == _LATE and not check.judged
            yield Row(name, "not finished", fault, None if stopped else False)


def _in_process(
    name: str, options: argparse.Namespace, seconds: float
) -> tuple[list[Row], str]:
    """Returns rows of a check, and a fault if it did not end well."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "rows.json")
        command = [sys.executable, "-m", "vl_ltr_jax.benchmarks.device_check"]
        command += [f"--check={name}", f"--json={path}"]
        command += [f"--checkout={options.checkout.absolute()}"]
        command += ["--small"] if options.small else []
        null = subprocess.DEVNULL
        child = subprocess.Popen(command, stdout=null, start_new_session=True)
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if child.poll() is None:  # and the runs that it has started
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        content: dict[str, Any] = {"complete": False, "rows": []}
        if path.exists():
            content = strict_json.parse(path.read_bytes())
    rows = [Row(**row) for row in content["rows"]]
    if code == DeviceCheckError.exit_code:
        raise DeviceCheckError(f"--check={name}: refused, as it says above. Mend that.")
    fault = _LATE if code is None else f"exit status {code}"
    return rows, "" if content["complete"] else fault


if __name__ == "__main__":
    process.prepare()
    sys.exit(exits.with_codes(main)(sys.argv[1:]))
