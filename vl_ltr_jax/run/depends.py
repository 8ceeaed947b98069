"""Keys of the configuration that artifacts depend on.

All other keys may change from start to start.
"""

from collections.abc import Sequence

from etils import epath

from vl_ltr_jax.config import methods, settings
from vl_ltr_jax.config.settings import KEYS, Config
from vl_ltr_jax.run.inputs import RunInputs
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


def artifact(
    config: Config, workdir: epath.Path, stage: str, inputs: RunInputs
) -> Artifact:
    """Returns a stage's artifact, with the settings and inputs that it depends on."""
    always: tuple[str, ...] = ()
    if config.pretrain.train_batch_norm and not inputs.clip_config.vision.patch_size:
        # Each chunk has statistics of its own.
        always = ("mesh.accumulation_steps",)
    sections = DEPENDS.get(stage, EVERYTHING)
    flat = settings.flatten(methods.as_read_by(config, stage))
    relevant = {
        key: value
        for key, value in flat.items()
        if key in always or matters(key, sections)
    }
    relevant["inputs"] = inputs.digest
    return Artifact(workdir / stage, relevant, DEFAULTS)
