"""Two workdirs compared bit for bit, without the parts that depend on the clock."""

import collections
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# Keys of JSON; losses are known to the start that made the last step.
CLOCK = ("seconds", "seconds_before", "losses", "artifact.json")
# Tags of event files that measure the machine.
MEASURED = ("throughput/", "step_time/", "data/", "steps_per_sec", "uptime")
PARTIAL = ("*.partial", "*.orbax-checkpoint-tmp*", "unreadable-*")


def leftovers(workdir: Path) -> list[str]:
    """Returns partial files and directories that no later start has deleted."""
    paths = [path for pattern in PARTIAL for path in workdir.rglob(pattern)]
    return sorted(f"left behind: {path.relative_to(workdir)}" for path in paths)


def differences(unbroken: Path, other: Path) -> Iterator[str]:
    """Yields all differences of a killed run from the unbroken one."""
    ours, theirs = _files(unbroken), _files(other)
    yield from (f"not there: {name}" for name in sorted(ours - theirs))
    yield from (f"not in the unbroken run: {name}" for name in sorted(theirs - ours))
    for name in sorted(ours & theirs):
        if _content(unbroken / name) != _content(other / name):
            yield f"differs: {name}"
    for path in sorted(unbroken.glob("*/checkpoints")):
        stage = path.parent.name
        yield from _checkpoints_differ(path, other / stage / "checkpoints", stage)
    for path in sorted(unbroken.glob("*/events.out.tfevents.*")):
        stage = path.parent.name
        ours, theirs = (_events(workdir / stage) for workdir in (unbroken, other))
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                yield f"{stage}: events of {key} differ"


def _files(workdir: Path) -> set[str]:
    """Returns names of files that are no checkpoints, events or programs."""
    paths = (p.relative_to(workdir) for p in workdir.rglob("*") if p.is_file())
    return {
        str(path)
        for path in paths
        if path.parts[0] != "compiled"
        and path.parts[1:2] != ("checkpoints",)
        and ".tfevents." not in path.name
    }


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.name == "report.md":
        return re.sub(r"[\d,]+ seconds in all", "", path.read_text())
    if path.name == "report.html":  # curves, dates and times: it is complete
        return path.read_text().rstrip().endswith("</html>")
    return None if path.name == ".lock" else path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in CLOCK}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _checkpoints_differ(unbroken: Path, other: Path, stage: str) -> Iterator[str]:
    """Compares the last ones, and common steps: a SIGTERM saves at other steps."""
    ours, theirs = (
        sorted(int(step.name) for step in path.iterdir() if step.name.isdigit())
        for path in (unbroken, other)
    )
    if ours[-1:] != theirs[-1:] or len(theirs) > len(ours):
        yield f"{stage}: checkpoints of steps {theirs}, not {ours}"
        return
    for step in sorted(set(ours) & set(theirs)):
        first, second = (_arrays(path / str(step)) for path in (unbroken, other))
        changed = sorted(
            name
            for name in first.keys() | second.keys()
            if first.get(name) != second.get(name)
        )
        if changed:
            yield (
                f"{stage}: {len(changed)} of {len(first)} arrays of checkpoint {step} "
                f"differ, the first is {changed[0]}"
            )


def _arrays(path: Path) -> dict[str, tuple[Any, ...]]:
    """Returns type, shape and bits of every array of a checkpoint, and its meta."""
    handler = ocp.StandardCheckpointHandler()
    bits: dict[str, tuple[Any, ...]] = {}
    with ocp.Checkpointer(handler) as reader:
        for item in ("model", "training"):
            tree = reader.metadata(path / item).item_metadata.tree
            blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
            arrays = reader.restore(path / item, args=ocp.args.StandardRestore(blank))
            for name, array in jax.tree_util.tree_flatten_with_path(arrays)[0]:
                key = item + jax.tree_util.keystr(name)
                bits[key] = array.dtype, array.shape, np.asarray(array).tobytes()
    [meta] = (path / "meta").rglob("metadata")
    content = json.loads(meta.read_text())
    del content["checksums"]["meta"]
    return {**bits, "meta": (json.dumps(_timeless(content), sort_keys=True),)}


def _events(directory: Path) -> dict[tuple[str, int], set[str]]:
    """Returns the values by tag and step; those that measure the machine are empty."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.util import tensor_util

    values: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                content = repr(tensor_util.make_ndarray(value.tensor).tolist())
                measured = value.tag.startswith(MEASURED)
                values[value.tag, event.step] |= set() if measured else {content}
    return values
