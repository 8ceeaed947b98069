"""One run: a configuration, its inputs, its devices and its workdir.

What the stages share: the towers at each point of the road, functions that embed with
them, and the artifact each stage reads or leaves.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.sources.dataset import Split
from vl_ltr_jax.data.text import corpus as corpora
from vl_ltr_jax.data.text.prompts import ONE_PROMPT
from vl_ltr_jax.evaluate import scores
from vl_ltr_jax.logs import console
from vl_ltr_jax.models import encode, lgr
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.models.lgr import LanguageGuidedHead
from vl_ltr_jax.models.linear import LinearHead
from vl_ltr_jax.run import embedding
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.depends import artifact
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import Artifact, ArtifactError, made_again
from vl_ltr_jax.train.stage import trained


class Run:
    """A configuration, its inputs, its devices and its workdir."""

    def __init__(
        self,
        config: Config,
        workdir: epath.Path,
        inputs: run_inputs.RunInputs,
        mesh: jax.sharding.Mesh,
        *,
        writes: bool = True,
    ) -> None:
        """Binds what all stages share.

        Args:
          config: the checked configuration.
          workdir: of the run.
          inputs: returned by `run_inputs.read`.
          mesh: the devices.
          writes: False where a run is looked at: what is computed of it stays in
            memory.
        """
        self.config, self.workdir = config, workdir
        self.inputs, self.mesh = inputs, mesh
        self.writes = writes
        self.model = Clip(
            inputs.clip_config,
            dtype=jnp.dtype(config.model.compute_dtype),
            remat=config.model.remat,
        )

    def artifact(self, stage: str) -> Artifact:
        """The stage's directory and the settings it must have been made with."""
        return artifact(self.config, self.workdir, stage, self.inputs)

    def replicate(self, tree: Any) -> Any:
        """A host tree as arrays on every device."""
        return meshes.place(tree, meshes.replicated(self.mesh))

    def place(self, tree: Any) -> Any:
        """A host tree as arrays split as the configuration says of parameters."""
        axis = self.config.mesh.fsdp
        shardings = meshes.shard_largest_axis(self.mesh, tree, axis=axis)
        return meshes.place(tree, shardings)

    def initial_towers(self) -> dict[str, Any]:
        """CLIP's variables, or random ones from the seed, on the host."""
        if self.inputs.clip is not None:
            return self.inputs.clip
        return random_towers(self.model, self.config.seed)

    def towers(self) -> dict[str, Any]:
        """The pre-trained towers on the host; the initial ones without pre-training."""
        if not self.config.pretrain.epochs:
            return self.initial_towers()
        return trained(self.artifact("pretrain"))

    def finetuned(self) -> dict[str, Any]:
        """What fine-tuning has trained: `head`, and `visual` where the tower did."""
        return trained(self.artifact("finetune"))["params"]

    def finetuned_towers(self) -> dict[str, Any]:
        """The towers after fine-tuning, on the host."""
        return with_tuned_tower(self.towers(), self.finetuned())

    def normalize(self, images: jax.Array) -> jax.Array:
        """Pixels as the towers expect them, from uint8."""
        return transforms.normalize(images, self.inputs.normalization)

    def prepare(self, key: jax.Array, images: jax.Array, rows: jax.Array) -> jax.Array:
        """Normalised training pixels, with random erasing; see `pretrain.Prepare`."""
        pixels = self.normalize(images)
        if probability := self.config.data.erase_probability:
            pixels = transforms.random_erase(key, pixels, probability, rows)
        return pixels

    def encode_image(self, variables: dict[str, Any], images: jax.Array) -> jax.Array:
        """Embeddings [B, D] of uint8 images."""
        return encode.image(self.model, variables, self.normalize(images))

    def encode_text(self, variables: dict[str, Any], tokens: jax.Array) -> jax.Array:
        """Embeddings [B, D] of token ids."""
        return encode.text(self.model, variables, tokens)

    def eval_batches(self, split: Split, what: str) -> Iterator[dict[str, np.ndarray]]:
        """Returns batches of `loader.Feed.evaluate`, and shows progress.

        Args:
          split: of its data.
          what: is done with the images.
        """
        each = self.config.evaluate.batch_size
        feed = run_inputs.feed(self.config, each)
        batches = feed.evaluate(split, run_inputs.eval_transform(self.config))
        return console.progress(batches, what, len(split), "images", each=each)

    def embed_sentences(self, variables: dict[str, Any], what: str) -> np.ndarray:
        """Embeddings [S, D] of the whole corpus, on the host.

        Args:
          variables: of the towers.
          what: begins the line of progress.
        """
        encode = jax.jit(self.encode_text)
        return embedding.embed_sentences(
            functools.partial(encode, variables),
            self.inputs.tokens,
            self.mesh,
            self.config.evaluate.batch_size,
            what,
        )

    def head(self, towers: dict[str, Any]) -> LanguageGuidedHead | LinearHead:
        """The recognition head named by the configuration."""
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

    def anchors(self) -> dict[str, Any]:
        """What the head reads of the anchors, on the devices; the FC head, nothing."""
        released = self.inputs.released_head
        if released is not None:
            embeddings, padding = released.anchors, released.padding
        elif self.config.finetune.head == "fc":
            return {}
        else:
            chosen = self.artifact("anchors")
            indices = chosen.load_array("indices")
            padding = chosen.load_array("padding")
            sentences = self.artifact("embed").load_array("sentences")
            embeddings = np.where(padding[..., None], 0, sentences[indices])
        # Classes without a text are added until shards and blocks divide them.
        added = self._class_layout().padded - len(padding)
        anchors, present = (
            meshes.shard_rows(
                self.mesh,
                np.pad(array, [(0, added)] + [(0, 0)] * (array.ndim - 1)),
                "model",
            )
            for array in (embeddings.astype(np.float32), ~padding)
        )
        return {
            "embeddings": anchors,
            "padding": ~present,
            "constants": jax.jit(lgr.anchor_constants)(anchors),
        }

    def class_texts(self, sentences: np.ndarray) -> np.ndarray:
        """The text [C, D] each class is compared with in zero-shot recognition."""
        choice, inputs = self.config.evaluate.zero_shot_text, self.inputs
        chosen = np.ones(len(sentences), bool)
        prompts = corpora.PROMPTS[self.config.data.prompts]
        if choice == "prompts":
            chosen = inputs.is_prompt(len(prompts))
        elif choice == "prompt":
            one = prompts.index(ONE_PROMPT)
            chosen = inputs.is_prompt(one + 1) & ~inputs.is_prompt(one)
        elif choice == "anchors":
            anchors = self.artifact("anchors")
            chosen[:] = False
            chosen[anchors.load_array("indices")[~anchors.load_array("padding")]] = True
        return np.asarray(
            scores.class_embeddings(
                jnp.asarray(sentences[chosen]),
                jnp.asarray(inputs.corpus.labels[chosen]),
                inputs.num_classes,
            )
        )


def random_towers(model: Clip, seed: int) -> dict[str, Any]:
    """Variables of a model that has learned nothing, on the host."""
    size = model.config.vision.image_size
    variables = jax.jit(model.init)(
        jax.random.key(seed),
        np.zeros((1, size, size, 3), np.float32),
        np.zeros((1, 1), np.int32),
    )
    return jax.tree.map(np.asarray, dict(variables))


def anchor_sentences(workdir: epath.Path) -> list[list[str]]:
    """The anchor sentences of each class, best first; none where a run chose none.

    Raises:
      ArtifactError: if the file cannot be read, or holds something else.
    """
    path = workdir / "anchors" / "sentences.json"
    if not path.exists():
        return []
    try:
        content = strict_json.parse(path.read_bytes())
        for given in content if isinstance(content, list) else [content]:
            if not isinstance(given, list) or {type(one) for one in given} - {str}:
                raise ValueError("it holds no list of sentences for each class")
    except (OSError, ValueError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be read ({error}). {made_again(path.parent)}"
        ) from error
    return content


def with_tuned_tower(towers: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    """The towers with the image tower that fine-tuning has trained, if it has.

    Args:
      towers: variables of both.
      tuned: what :meth:`Run.finetuned` returned.
    """
    visual = {name: tuned[name] for name in ("visual",) if name in tuned}
    return {**towers, "params": {**towers["params"], **visual}}
