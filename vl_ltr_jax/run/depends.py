"""Keys of the configuration that artifacts depend on, and those that none does.

The one place that says what may change from start to start.
"""

from collections.abc import Sequence

from etils import epath

from vl_ltr_jax.config import methods, settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.storage.artifact import Artifact

# What each stage's artifact depends on, directly or through the artifacts it reads.
TOWERS = ("data", "model", "init", "pretrain", "seed")
FINETUNE = (*TOWERS, "anchors", "method", "rebalance", "finetune")
DEPENDS = {
    "pretrain": TOWERS,
    "embed": (*TOWERS, "anchors.images", "anchors.max_images_per_class"),
    "anchors": (*TOWERS, "anchors"),
    "finetune": FINETUNE,
    "classifier": (*FINETUNE, "classifier"),
}
# What a stage of a method of its own, and evaluation, may read.
EVERYTHING = (*FINETUNE, "classifier", "evaluate")
# These change the speed of a run or when it stops, not its result.
NEUTRAL = (
    "data.num_threads",
    "data.num_workers",
    "data.bad_image_limit",
    "data.cache",
    "model.remat",
    "pretrain.loss_form",
)
# Values of keys that did not exist when an artifact was written.
DEFAULTS = settings.flatten(Config())


def matters(key: str, sections: Sequence[str] = EVERYTHING) -> bool:
    """Returns True if a key is one that results depend on.

    Args:
      key: of the configuration, `section.key` or a key without a section.
      sections: sections and keys that count; by default those of any stage.
    """
    return key not in NEUTRAL and any(
        key == section or key.startswith(f"{section}.") for section in sections
    )


def artifact(
    config: Config, workdir: epath.Path, stage: str, inputs: run_inputs.RunInputs
) -> Artifact:
    """A stage's artifact with the configuration and the inputs it depends on."""
    always: tuple[str, ...] = ()
    if config.pretrain.train_batch_norm and not inputs.clip_config.vision.patch_size:
        # Each chunk has statistics of its own.
        always = ("mesh.accumulation_steps",)
    sections = DEPENDS.get(stage, EVERYTHING)
    flat = settings.flatten(methods.as_read_by(config, stage))
    kept = {
        key: value
        for key, value in flat.items()
        if key in always or matters(key, sections)
    }
    return Artifact(
        workdir / stage,
        {**kept, "inputs": inputs.digest},
        defaults=DEFAULTS,
        matters=matters,
    )
