"""Two workdirs compared bit for bit, but for what depends on the clock."""

import collections
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

Resumed = Mapping[tuple[int, str], int]
CLOCK = ("seconds", "seconds_before", "crc32")  # keys of JSON
# Tags of event files: what a machine needed, and not what came out.
MEASURED = ("throughput/", "step_time/", "data/", "steps_per_sec", "uptime")
LEFT = ("*.partial", "*.orbax-checkpoint-tmp*", ".writable-*", "unreadable-*")


def leftovers(workdir: Path) -> list[str]:
    """What a kill left and no later start took away."""
    found = [path for pattern in LEFT for path in workdir.rglob(pattern)]
    return sorted(f"left behind: {path.relative_to(workdir)}" for path in found)


def differences(
    whole: Path, other: Path, resumed: Resumed = MappingProxyType({})
) -> Iterator[str]:
    """All that the second workdir has otherwise than the first.

    Args:
      whole: of an unbroken run.
      other: of one that was killed.
      resumed: by process and stage, the step that training went on from.
    """
    ours, theirs = _files(whole), _files(other)
    yield from (f"not there: {name}" for name in sorted(ours - theirs))
    yield from (f"not in the unbroken run: {name}" for name in sorted(theirs - ours))
    for name in sorted(ours & theirs):
        if _content(whole / name) != _content(other / name):
            yield f"differs: {name}"
    for path in sorted(whole.glob("*/checkpoints")):
        stage = path.parent.name
        yield from _checkpoints_differ(path, other / stage / "checkpoints", stage)
    for path in sorted(whole.glob("*/events.out.tfevents.*")):
        stage = path.parent.name
        yield from events_differ(whole / stage, other / stage, resumed)


def _files(workdir: Path) -> set[str]:
    """Every file but those of checkpoints, events and compiled programs."""
    paths = (p.relative_to(workdir) for p in workdir.rglob("*") if p.is_file())
    return {
        str(path)
        for path in paths
        if path.parts[0] != "compiled"
        and path.parts[1:2] != ("checkpoints",)
        and ".tfevents." not in path.name
    }


def _content(path: Path) -> Any:
    """Of a file, without what the clock says."""
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.name == "report.md":
        return re.sub(r"[\d,]+ seconds in all", "", path.read_text())
    if path.name == "report.html":  # of curves, dates and times: it is whole
        return path.read_text().rstrip().endswith("</html>")
    if path.name == ".lock":
        return None
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = (*CLOCK, "losses")  # known to the start that made the last step
        return {k: _timeless(v) for k, v in value.items() if k not in left_out}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _checkpoints_differ(whole: Path, other: Path, stage: str) -> Iterator[str]:
    """The last ones, and those of a step that both have: a SIGTERM saves at others."""
    ours, theirs = _steps(whole), _steps(other)
    if not ours or max(ours) != max(theirs, default=-1):
        yield f"{stage}: checkpoints of steps {theirs}, not {ours}"
        return
    if len(theirs) > len(ours):
        yield f"{stage}: {len(theirs)} checkpoints are kept, not {len(ours)}"
    for step in sorted(set(ours) & set(theirs)):
        first, second = (read_checkpoint(path / str(step)) for path in (whole, other))
        if first.keys() != second.keys():
            yield f"{stage}: checkpoint {step} has other arrays"
            continue
        changed = [name for name in first if not same(first[name], second[name])]
        if changed:
            yield (
                f"{stage}: {len(changed)} of {len(first)} arrays of checkpoint {step} "
                f"differ, the first is {changed[0]}"
            )


def _steps(path: Path) -> list[int]:
    return sorted(int(one.name) for one in path.iterdir() if one.name.isdigit())


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, and its meta, by name."""
    handler = ocp.StandardCheckpointHandler()
    found: dict[str, np.ndarray] = {}
    with ocp.Checkpointer(handler) as reader:
        for item in ("model", "training"):
            tree = reader.metadata(path / item).item_metadata.tree
            blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
            arrays = reader.restore(path / item, args=ocp.args.StandardRestore(blank))
            paths, _ = jax.tree_util.tree_flatten_with_path(arrays)
            found |= {item + jax.tree_util.keystr(p): a for p, a in paths}
    [meta] = (path / "meta").rglob("metadata")
    content = _timeless(json.loads(meta.read_text()))
    text = json.dumps(content, sort_keys=True)
    return {**found, "meta": np.frombuffer(text.encode(), np.uint8)}


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and bits."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and np.asarray(first).tobytes() == np.asarray(second).tobytes()
    )


def read_events(directory: Path) -> dict[str, dict[str, list[tuple[int, bytes]]]]:
    """File to tag to steps and values, in the order in which they were written."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.util import tensor_util

    files: dict[str, dict[str, list[tuple[int, bytes]]]] = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        tags = collections.defaultdict(list)
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                array = tensor_util.make_ndarray(value.tensor)
                content = repr(array.tolist()).encode()
                tags[value.tag].append((event.step, content))
        files[path.name] = dict(tags)
    return files


def events_differ(whole: Path, other: Path, resumed: Resumed) -> Iterator[str]:
    """Steps that are missing, have another value, or are there twice but made once."""
    stage, expected = whole.name, collections.defaultdict(dict)
    for tags in read_events(whole).values():
        for tag, events in tags.items():
            expected[tag] |= dict(events)
    found = collections.defaultdict(lambda: collections.defaultdict(set))
    for name, tags in read_events(other).items():
        for tag, events in tags.items():
            steps = [step for step, _ in events]
            if len(steps) != len(set(steps)):
                yield f"{stage}: {name} has a step of {tag} twice"
            first = resumed.get((int(name.split(".")[-3]), stage), -1)
            if tag.startswith("loss") and min(steps) <= first:
                yield f"{stage}: {name} has {tag} of steps before {first + 1}"
            for step, value in events:
                found[tag][step].add(value)
    yield from (f"{stage}: no event of {t}" for t in sorted(expected.keys() - found))
    yield from (f"{stage}: another event, {t}" for t in sorted(found.keys() - expected))
    missing: dict[tuple[int, ...], list[str]] = collections.defaultdict(list)
    for tag in sorted(expected.keys() & found.keys()):
        if absent := sorted(expected[tag].keys() - found[tag].keys()):
            missing[tuple(absent)].append(tag)
        if added := sorted(found[tag].keys() - expected[tag].keys()):
            yield f"{stage}: events of {tag} at other steps, {added}"
        wrong = [
            step
            for step, value in expected[tag].items()
            if found[tag][step] - {value} and not tag.startswith(MEASURED)
        ]
        if wrong:
            yield f"{stage}: {tag} has another value at steps {wrong}"
    for steps, tags in missing.items():
        yield f"{stage}: no events of {len(tags)} tags ({tags[0]}, ...) at {steps}"
