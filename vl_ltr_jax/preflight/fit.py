"""The smallest change of a configuration under which its training steps fit."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.preflight import figures, programs
from vl_ltr_jax.preflight.figures import Figures
from vl_ltr_jax.preflight.inputs import PlannedRun
from vl_ltr_jax.preflight.topology import Topology
from vl_ltr_jax.run import layout
from vl_ltr_jax.run.inputs import RunInputs
from vl_ltr_jax.runtime import mesh as meshes

_CHUNKS = "mesh.accumulation_steps"


class Measured(NamedTuple):
    """A program of a stage, with its figures under some changes of the run's keys.

    A run makes no change but that of automatic chunks.
    """

    stage: str
    program: str
    changes: Mapping[str, Any]
    accumulation_steps: int
    figures: Figures

    def fits(self, config: Config) -> bool:
        """Returns True if it fits without a user's change of the configuration."""
        automatic = set() if config.mesh.accumulation_steps else {_CHUNKS}
        return self.figures.fits and set(self.changes) <= automatic


def stage(
    config: Config,
    inputs: RunInputs,
    mesh: jax.sharding.Mesh,
    topology: Topology,
    name: str,
    *,
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[Measured]:
    """Yields the programs of a stage; training steps by the smallest change that fits.

    If no change does, the steps are those of the configuration as it stands.
    """
    first: list[Measured] = []
    for changes in _changes(config, name, mesh.size):
        tried: list[Measured] = []
        changed = settings.changed(config, changes)
        with meshes.describing():
            run = PlannedRun(changed, inputs, mesh)
            for program in programs.of_stage(run, name):
                if changes and not program.trains:
                    continue  # it was measured before, and does not change
                say(f"{name}: {program.name}{_words(changes)}")
                measured = Measured(
                    name,
                    program.name,
                    changes,
                    max(changed.mesh.accumulation_steps, 1) if program.trains else 1,
                    figures.measure(program, topology),
                )
                if not program.trains:
                    yield measured
                    continue
                tried.append(measured)
                if figures.lacks_memory(measured.figures):
                    break  # the largest comes first
        first = first or tried
        if not tried or not figures.lacks_memory(tried[-1].figures):
            yield from tried
            return
    yield from first


def _changes(config: Config, name: str, devices: int) -> Iterator[dict[str, Any]]:
    """Yields changes of keys, the cheapest first: none, chunks, remat, fsdp."""
    size = getattr(getattr(config, name, None), "global_batch_size", 0)
    chunks: list[dict[str, Any]] = [
        {_CHUNKS: count}
        for count in layout.chunk_counts(size, devices)
        if count > max(config.mesh.accumulation_steps, 1)
    ]
    most = chunks[-1] if chunks else {}
    saving = {"model.remat": "full"} if config.model.remat != "full" else {}
    split = {"mesh.fsdp": "data"} if config.mesh.fsdp in ("auto", "none") else {}
    options = [
        *({}, *chunks, saving, {**most, **saving}, split),
        *({**split, **count} for count in chunks),
        {**split, **most, **saving},
    ]
    tried: list[dict[str, Any]] = []
    for option in options:
        if option not in tried:
            tried.append(option)
            yield option


def _words(changes: Mapping[str, Any]) -> str:
    return "".join(f", {key}={value}" for key, value in changes.items())
