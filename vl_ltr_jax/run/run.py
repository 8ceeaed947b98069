"""One run: a configuration, its inputs, its devices and its workdir.

The stages share it: the towers before and after training, functions that embed with
them, and the artifact of each stage.
"""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.data.text.prompts import ONE_PROMPT, PROMPTS
from vl_ltr_jax.evaluate import scores
from vl_ltr_jax.logs import console
from vl_ltr_jax.models import encode, lgr
from vl_ltr_jax.models.attention import target_of
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.models.lgr import LanguageGuidedHead
from vl_ltr_jax.models.linear import LinearHead
from vl_ltr_jax.run import embedding
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.anchors import Anchors
from vl_ltr_jax.run.depends import artifact, chunks_are_neutral, settled
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage.artifact import Artifact
from vl_ltr_jax.train.embedder import Embedder
from vl_ltr_jax.train.finetune import PlacedAnchors
from vl_ltr_jax.train.stage import trained


class Run:
    """A configuration, its inputs, its devices and its workdir."""

    def __init__(
        self,
        config: Config,
        workdir: epath.Path,
        inputs: run_inputs.RunInputs,
        mesh: jax.sharding.Mesh | None = None,
        *,
        writes: bool = True,
    ) -> None:
        """Builds the mesh, unless one is passed, and the model.

        Without `writes`, as in replay, cached arrays stay in memory.

        Raises:
          ConfigError: the mesh or a batch does not fit the devices.
        """
        if mesh is None:
            configs.check_devices(config, jax.device_count())
            mesh = meshes.make_mesh(config.mesh.data, config.mesh.model)
        platform = mesh.devices.flat[0].platform
        config = settled(config, workdir, platform)
        self.config, self.workdir, self.inputs = config, workdir, inputs
        self.mesh, self.writes = mesh, writes
        self.model = Clip(
            inputs.clip_config,
            dtype=jnp.dtype(config.model.compute_dtype),
            remat=config.model.remat,
            target=target_of(mesh),
        )

    def artifact(self, stage: str) -> Artifact:
        """Returns a stage's directory, with the settings that it depends on."""
        return artifact(self.config, self.workdir, stage, self.inputs)

    def replicate(self, tree: Any) -> Any:
        """Places a host tree on every device."""
        return meshes.place(tree, meshes.replicated(self.mesh))

    def place(self, tree: Any) -> Any:
        """Places a host tree, split as `mesh.fsdp` says of parameters."""
        axis = self.config.mesh.fsdp
        shardings = meshes.shard_largest_axis(self.mesh, tree, axis=axis)
        return meshes.place(tree, shardings)

    def initial_towers(self) -> dict[str, Any]:
        """Returns CLIP's variables, or random ones from the seed, on the host."""
        if self.inputs.clip is not None:
            return self.inputs.clip
        return random_towers(self.model, self.config.seed)

    def towers(self) -> dict[str, Any]:
        """Returns the towers before fine-tuning, on the host."""
        if not self.config.pretrain.epochs:
            return self.initial_towers()
        return trained(self.artifact("pretrain"))

    def finetuned(self) -> dict[str, Any]:
        """Returns the fine-tuned `head`, and `visual` if the tower trained."""
        return trained(self.artifact("finetune"))["params"]

    def finetuned_towers(self) -> dict[str, Any]:
        """Returns the towers after fine-tuning, on the host."""
        return with_tuned_tower(self.towers(), self.finetuned())

    @property
    def chunks(self) -> int:
        """Chunks of a training batch; 1 until they are chosen."""
        return max(self.config.mesh.accumulation_steps, 1)

    @property
    def chooses_chunks(self) -> bool:
        """True if the devices decide the chunks; never where results depend on them."""
        automatic = not self.config.mesh.accumulation_steps
        return automatic and chunks_are_neutral(self.config, self.inputs.clip_config)

    def with_chunks(self, chunks: int) -> "Run":
        """Returns the run with another number of chunks, on the same devices."""
        other = copy.copy(self)
        other.config = settings.changed(
            self.config, {"mesh.accumulation_steps": chunks}
        )
        return other

    @property
    def embedder(self) -> Embedder:
        """Embedder of training batches."""
        return Embedder(
            self.model,
            self.prepare,
            self.config.seed,
            self.mesh,
            self.chunks,
        )

    def normalize(self, images: jax.Array) -> jax.Array:
        """Normalises uint8 images for the towers."""
        return transforms.normalize(images, self.inputs.normalization)

    def prepare(self, key: jax.Array, images: jax.Array, rows: jax.Array) -> jax.Array:
        """Normalises and erases training images, see `embedder.Prepare`."""
        pixels = self.normalize(images)
        if probability := self.config.data.erase_probability:
            pixels = transforms.random_erase(key, pixels, probability, rows)
        return pixels

    def encode_image(self, variables: dict[str, Any], images: jax.Array) -> jax.Array:
        """Embeds uint8 images as features [B, D]."""
        return encode.image(self.model, variables, self.normalize(images))

    def encode_text(self, variables: dict[str, Any], tokens: jax.Array) -> jax.Array:
        """Embeds token ids as features [B, D]."""
        return encode.text(self.model, variables, tokens)

    def eval_batches(self, split: Split, what: str) -> Iterator[dict[str, np.ndarray]]:
        """Returns evaluation batches of a split, with a progress bar titled `what`."""
        each = self.config.evaluate.batch_size
        feed = run_inputs.feed(self.config, each)
        batches = feed.evaluate(split, run_inputs.eval_transform(self.config))
        return console.progress(batches, what, len(split), "images", each=each)

    def embed_sentences(self, variables: dict[str, Any], what: str) -> np.ndarray:
        """Embeds the corpus as features [S, D], on the host."""
        encode = jax.jit(self.encode_text)
        return embedding.embed_sentences(
            functools.partial(encode, variables),
            self.inputs.tokens,
            self.mesh,
            self.config.evaluate.batch_size,
            what,
        )

    def sentence_embeddings(self) -> Float[np.ndarray, "S D"]:
        """Returns the corpus as the stage `embed` has left it."""
        return self.artifact("embed").load_array("sentences")

    def head(self, towers: dict[str, Any]) -> LanguageGuidedHead | LinearHead:
        """Builds the recognition head of the configuration."""
        dtype = jnp.dtype(self.config.model.compute_dtype)
        if self.config.finetune.head == "fc" and self.inputs.released_head is None:
            return LinearHead(self.inputs.num_classes, dtype=dtype)
        return LanguageGuidedHead(
            self.inputs.num_classes,
            self.inputs.clip_config.embed_dim,
            language_logit_scale=float(towers["params"]["logit_scale"]),
            detach_norm=self.config.finetune.detach_norm,
            dtype=dtype,
            layout=self._class_layout(),
        )

    def _class_layout(self) -> lgr.ClassLayout:
        """Returns the division of the classes over the mesh."""
        config = self.config
        batch_size = max(config.finetune.global_batch_size, config.evaluate.batch_size)
        num_anchors = config.anchors.num_anchors
        if self.inputs.released_head is not None:
            num_anchors = self.inputs.released_head.padding.shape[1]
        return lgr.ClassLayout.fit(
            self.inputs.num_classes, num_anchors, batch_size, self.mesh.shape
        )

    def anchors(self) -> PlacedAnchors | None:
        """Returns the anchors of the head on the devices; None for an FC head."""
        head = self.inputs.released_head
        if head is not None:
            embeddings, padding = head.anchors.astype(np.float32), head.padding
        elif self.config.finetune.head == "fc":
            return None
        else:
            anchors = Anchors.load(self.workdir)
            embeddings, padding = anchors.embeddings, anchors.padding
        return self.place_anchors(embeddings, padding)

    def place_anchors(
        self, embeddings: Float[np.ndarray, "C M D"], padding: Bool[np.ndarray, "C M"]
    ) -> PlacedAnchors:
        """Places the anchors of the head; computes their constants on the devices."""
        # Classes without a text are added until shards and blocks divide them.
        rows = self._class_layout().padded
        placed = meshes.shard_rows(self.mesh, embeddings, "model", rows=rows)
        return PlacedAnchors(
            placed,
            meshes.shard_rows(self.mesh, padding, "model", rows=rows, fill=True),
            meshes.compute(
                lgr.anchor_constants,
                placed,
                shardings=meshes.row_sharding(self.mesh, "model"),
            ),
        )

    def class_texts(self, sentences: np.ndarray) -> np.ndarray:
        """Returns the text [C, D] of each class for zero-shot recognition."""
        choice, inputs = self.config.evaluate.zero_shot_text, self.inputs
        chosen = np.ones(len(sentences), bool)
        prompts = PROMPTS[self.config.data.prompts]
        if choice == "prompts":
            chosen = inputs.is_prompt(len(prompts))
        elif choice == "prompt":
            index = prompts.index(ONE_PROMPT)
            chosen = inputs.is_prompt(index + 1) & ~inputs.is_prompt(index)
        elif choice == "anchors":
            anchors = Anchors.load(self.workdir)
            chosen[:] = False
            chosen[anchors.indices[~anchors.padding]] = True
        return np.asarray(
            scores.class_embeddings(
                jnp.asarray(sentences[chosen]),
                jnp.asarray(inputs.corpus.labels[chosen]),
                inputs.num_classes,
            )
        )


def random_towers(model: Clip, seed: int) -> dict[str, Any]:
    """Draws the variables of a model, on the host."""
    size = model.config.vision.image_size
    variables = jax.jit(model.init)(
        jax.random.key(seed),
        np.zeros((1, size, size, 3), np.float32),
        np.zeros((1, 1), np.int32),
    )
    return jax.tree.map(np.asarray, dict(variables))


def with_tuned_tower(towers: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """Returns the towers with the image tower of :meth:`Run.finetuned`, if any."""
    visual = {name: tuned[name] for name in ("visual",) if name in tuned}
    return {**towers, "params": {**towers["params"], **visual}}
