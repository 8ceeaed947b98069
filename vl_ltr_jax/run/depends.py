"""Keys of the configuration that artifacts depend on.

All other keys may change from start to start.
"""

from collections.abc import Sequence

import jax
from etils import epath

from vl_ltr_jax.config import methods, settings
from vl_ltr_jax.config.settings import KEYS, Config
from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.run.inputs import RunInputs
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import Artifact

# Sections and keys that each stage depends on, directly or through earlier stages.
TOWERS = ("data", "model", "init", "pretrain", "seed")
FINETUNE = (*TOWERS, "anchors", "method", "rebalance", "finetune")
DEPENDS = {
    "pretrain": TOWERS,
    "embed": (*TOWERS, "anchors.images", "anchors.max_images_per_class"),
    "anchors": (*TOWERS, "anchors"),
    "finetune": FINETUNE,
    "classifier": (*FINETUNE, "classifier"),
}
# Sections that evaluation and a system's own stages may read.
EVERYTHING = (*FINETUNE, "classifier", "evaluate")
DEFAULTS = settings.flatten(Config())


def matters(key: str, sections: Sequence[str] = EVERYTHING) -> bool:
    """Returns True if results depend on a key; by default, those of any stage."""
    declared = KEYS.get(key)
    return not (declared and declared.neutral) and any(
        key == section or key.startswith(f"{section}.") for section in sections
    )


def settled(
    config: Config, workdir: epath.Path | None, platform: str | None = None
) -> Config:
    """Returns the configuration with a compute dtype in place of `auto`.

    It is that of the run's first start; else bfloat16 on TPU and GPU, and float32 on
    the CPU.

    Args:
      config: of the run.
      workdir: of the run; None for none.
      platform: of the devices; by default that of this process.
    """
    if config.model.compute_dtype != "auto":
        return config
    dtype = _recorded_dtype(workdir) if workdir else ""
    if not dtype:
        cpu = (platform or jax.default_backend()) == "cpu"
        dtype = "float32" if cpu else "bfloat16"
    return settings.changed(config, {"model.compute_dtype": dtype})


def _recorded_dtype(workdir: epath.Path) -> str:
    path = workdir / "config.json"
    try:
        dtype = strict_json.parse(path.read_bytes())["model"]["compute_dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # a run that has not begun; a damaged file is refused elsewhere
    return dtype if dtype in ("float32", "bfloat16") else ""


def chunks_are_neutral(config: Config, sizes: ClipConfig) -> bool:
    """Returns False if each chunk of a batch has BatchNorm statistics of its own."""
    return not config.pretrain.train_batch_norm or bool(sizes.vision.patch_size)


def artifact(
    config: Config, workdir: epath.Path, stage: str, inputs: RunInputs
) -> Artifact:
    """Returns a stage's artifact, with the settings and inputs that it depends on."""
    config = settled(config, workdir)
    sections = DEPENDS.get(stage, EVERYTHING)
    flat = settings.flatten(methods.as_read_by(config, stage))
    relevant = {key: value for key, value in flat.items() if matters(key, sections)}
    if not chunks_are_neutral(config, inputs.clip_config):
        relevant["mesh.accumulation_steps"] = max(config.mesh.accumulation_steps, 1)
    relevant["inputs"] = inputs.digest
    return Artifact(workdir / stage, relevant, DEFAULTS)
