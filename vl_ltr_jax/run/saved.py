"""The trained model of a run, read from its workdir."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.models.clip import PRESETS, Clip, ClipConfig
from vl_ltr_jax.models.layers import ACTIVATIONS
from vl_ltr_jax.models.port import clip_files, vl_ltr_files
from vl_ltr_jax.models.port.preprocessing import checked_constants
from vl_ltr_jax.models.port.tensor_files import read_tensors
from vl_ltr_jax.run import initial
from vl_ltr_jax.run.anchors import Anchors
from vl_ltr_jax.run.run import random_towers, with_tuned_tower
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import Artifact, ArtifactError
from vl_ltr_jax.train.stage import trained


class SavedRun:
    """A run's configuration, artifacts and weights, all on the host.

    Every method raises ArtifactError if a file is missing or damaged, or if its stage
    is not finished.

    Attributes:
      workdir: directory of the run.
      config: configuration of the run's last start.
    """

    def __init__(self, workdir: epath.Path) -> None:
        """Reads the configuration."""
        self.workdir = workdir
        path = workdir / "config.json"
        try:
            self.config = configs.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise errors.lack(error) or ArtifactError(
                f"{path} cannot be read ({error}); is {workdir} the --workdir of a run?"
            ) from error

    def artifact(self, stage: str) -> Artifact:
        """Returns the artifact of a finished stage."""
        artifact = Artifact(self.workdir / stage, {})
        if not artifact.finished:
            raise ArtifactError(
                f"stage {stage!r} in {self.workdir} is not finished. Start the command "
                "of the run again"
            )
        return artifact

    def class_names(self) -> tuple[str, ...]:
        """Returns the names of all classes, in the order of labels."""
        names = self._json("classes.json", "names")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise self._damage("classes.json", "its names are not a list of strings")
        return tuple(names)

    def model_facts(self) -> dict[str, Any]:
        """Returns activations and normalization, see `RunInputs.model_facts`."""
        keys = ("vision_activation", "text_activation")
        facts = {key: self._json("model.json", key) for key in keys}
        if unknown := set(map(str, facts.values())) - ACTIVATIONS.keys():
            raise self._damage("model.json", f"unknown activation {min(unknown)!r}")
        try:
            mean, std = self._json("model.json", "normalization")
            constants = checked_constants(mean, std, "normalization")
        except (ValueError, TypeError) as error:
            raise self._damage("model.json", str(error)) from error
        return {**facts, "normalization": constants}

    def clip_config(self) -> ClipConfig:
        """Returns the sizes and activations of the towers."""
        model, facts = self.config.model, self.model_facts()
        sizes = PRESETS[model.backbone].at_image_size(model.image_size)
        return sizes.with_activations(
            facts["vision_activation"], facts["text_activation"]
        )

    @functools.cached_property
    def released(self) -> vl_ltr_files.Released | None:
        """The authors' checkpoint, if the run evaluates one."""
        return initial.released(self.config) if self.config.init.vl_ltr else None

    @functools.cached_property
    def tuned(self) -> dict[str, Any]:
        """Parameters that fine-tuning trained; empty without fine-tuning."""
        if not self.config.finetune.epochs:
            return {}
        return dict(trained(self.artifact("finetune"))["params"])

    def towers(self) -> dict[str, Any]:
        """Returns the towers, the image tower as fine-tuned."""
        return with_tuned_tower(self._towers_before_tuning(), self.tuned)

    def _towers_before_tuning(self) -> dict[str, Any]:
        config = self.config
        if self.released:
            return self.released.variables
        if config.pretrain.epochs:
            return trained(self.artifact("pretrain"))
        size = config.model.image_size
        if config.init.clip:
            file = initial.find_clip(config)
            tensors = read_tensors(file.path)
            return clip_files.from_file(file, tensors, image_size=size)[1]
        sizes = PRESETS[config.model.backbone].at_image_size(size)
        return random_towers(Clip(sizes), config.seed)

    def anchors(self) -> dict[str, np.ndarray]:
        """Returns `embeddings` [C, M, D] and `padding` [C, M] of the anchors."""
        if self.released and self.released.released_head:
            head = self.released.released_head
            return {"embeddings": head.anchors, "padding": head.padding}
        anchors = Anchors.load(self.workdir)
        return {"embeddings": anchors.embeddings, "padding": anchors.padding}

    def tokenizer_directory(self) -> Path:
        """Returns the directory of the tokenizer's files."""
        return initial.tokenizer_directory(self.config)

    def _json(self, name: str, key: str) -> Any:
        try:
            return strict_json.parse((self.workdir / name).read_bytes())[key]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.lack(error) or self._damage(name, repr(error)) from error

    def _damage(self, name: str, fault: str) -> ArtifactError:
        return ArtifactError(
            f"{self.workdir / name} cannot be read ({fault}). Start the command of the "
            "run again: it writes the file, and skips finished stages"
        )
