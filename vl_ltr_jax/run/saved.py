"""The configuration, artifacts and weights of a finished run."""

from typing import Any

from etils import epath

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.models.layers import ACTIVATIONS
from vl_ltr_jax.models.port import clip_files, vl_ltr_files
from vl_ltr_jax.models.port.preprocessing import checked_constants
from vl_ltr_jax.models.port.tensor_files import read_tensors
from vl_ltr_jax.run import initial
from vl_ltr_jax.run.run import random_towers
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import Artifact, ArtifactError
from vl_ltr_jax.train.stage import trained


def config_of(workdir: epath.Path) -> Config:
    """The configuration that a run was last started with.

    Args:
      workdir: of the run, finished or not.

    Raises:
      ArtifactError: if there is none, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        return configs.from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be read ({error}); is {workdir} the --workdir of a run?"
        ) from error


def model_facts(workdir: epath.Path) -> dict[str, Any]:
    """Facts of a run's towers, as `Inputs.model_facts` wrote them.

    Raises:
      ArtifactError: if the file is absent or damaged.
    """
    path = workdir / "model.json"
    try:
        facts = strict_json.parse(path.read_bytes())
        mean, std = facts["normalization"]
        activations = {
            key: facts[key] for key in ("vision_activation", "text_activation")
        }
        if unknown := set(activations.values()) - ACTIVATIONS.keys():
            raise ValueError(f"an activation is {sorted(unknown)[0]!r}")
        return {
            **activations,
            "normalization": checked_constants(mean, std, "normalization"),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}). Start the run's command again, which "
            "writes it; a run of an earlier version needs another workdir"
        ) from error


def finished(workdir: epath.Path, stage: str) -> Artifact:
    """The artifact of a stage.

    Raises:
      ArtifactError: if it is not finished.
    """
    artifact = Artifact(workdir / stage, {})
    if not artifact.finished:
        raise ArtifactError(
            f"stage {stage!r} in {workdir} is not finished; the command that started "
            "the run goes on with it"
        )
    return artifact


def towers_of(workdir: epath.Path, config: Config) -> dict[str, Any]:
    """The towers of a run before fine-tuning, on the host.

    Raises:
      ArtifactError: if the run has not come so far.
    """
    if config.pretrain.epochs:
        return trained(finished(workdir, "pretrain"))
    size = config.model.image_size
    if config.init.clip:
        file = initial.find_clip(config)
        tensors = read_tensors(file.path)
        return clip_files.from_file(file, tensors, image_size=size)[1]
    sizes = PRESETS[config.model.backbone].at_image_size(size)
    return random_towers(Clip(sizes), config.seed)


def released(config: Config) -> vl_ltr_files.Released | None:
    """The authors' checkpoint that the run evaluated, if it did.

    Raises:
      UserError: its file is gone or broken.
    """
    return initial.released(config) if config.init.vl_ltr else None
