"""A pre-training step at full size, against the authors' step in PyTorch.

    python -m vl_ltr_jax.benchmarks.train_step --backbone=ViT-B/16 --batch_size=8

Both embed the same images and sentences with the student and with the frozen teacher.
Both take the class-wise contrastive loss and the distillation, and update every weight
with AdamW. PyTorch runs OpenAI's modules with the same weights, as the authors do:
sentences padded to 77 tokens, the teacher's text tower in every step, a ResNet in
channels-last. Each side has its own process, and both have the same allocator: by
default one heap that stays, as in the main job. `--parts` also times the parts.
"""

import argparse
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from vl_ltr_jax.benchmarks import openai_step, paired, sentences
from vl_ltr_jax.commands import exits
from vl_ltr_jax.config.settings import Pretrain
from vl_ltr_jax.data.batches.packing import Packer
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import PRESETS, Clip, ClipConfig
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import optim, pretrain
from vl_ltr_jax.train.embedder import Embedder, text_of
from vl_ltr_jax.train.stage import first_state

OPTIONS = Pretrain()


class Job(NamedTuple):
    """Inputs of both sides.

    Attributes:
      config: sizes of the towers.
      variables: weights of the student, and of its teacher, on the host.
      images: uint8 [B, H, W, 3].
      labels: class of each image.
      tokens: ids [S, 77] of a corpus.
      sentence_ids: the sentence drawn for each image.
    """

    config: ClipConfig
    variables: dict[str, Any]
    images: UInt8[np.ndarray, "B H W 3"]
    labels: Int[np.ndarray, " B"]
    tokens: Int[np.ndarray, "S L"]
    sentence_ids: Int[np.ndarray, " B"]

    @classmethod
    def random(cls, backbone: str, batch_size: int, num_sentences: int = 512) -> "Job":
        """Random images, sentences and weights."""
        rng, config = np.random.default_rng(0), PRESETS[backbone]
        size = config.vision.image_size
        return cls(
            config,
            sentences.random_variables(config),
            rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
            rng.integers(0, 365, batch_size).astype(np.int32),
            sentences.tokens_like_wikipedia(rng, num_sentences, config),
            rng.integers(0, num_sentences, batch_size),
        )


class Ours:
    """The step of this package, and its parts."""

    def __init__(self, job: Job) -> None:
        """Compiles nothing yet."""
        self.job, self.mesh = job, meshes.make_mesh()
        self.model = Clip(job.config)
        self.variables = meshes.place(job.variables, meshes.replicated(self.mesh))
        packer = Packer(
            job.tokens,
            len(job.images),
            self.mesh.size,
            1,
            lambda step: job.sentence_ids,
        )
        self.batch = meshes.to_global(
            self.mesh,
            {
                "image": job.images,
                "label": job.labels,
                "sentence_id": job.sentence_ids.astype(np.int32),
                **packer.pack(0),
            },
        )
        self.schedule = optim.cosine_schedule(
            OPTIONS.learning_rate, epochs=50, steps_per_epoch=10**6
        )
        self.optimizer = optim.make_optimizer(
            job.variables["params"],
            schedule=self.schedule,
            weight_decay=OPTIONS.weight_decay,
        )

    def programs(self) -> dict[str, paired.Build]:
        """The step, and the parts of it that take time."""
        return {
            paired.STEP: self._step,
            "student's images": lambda: self._gradient(
                "encode_image", "visual", self._pixels()
            ),
            "student's sentences": lambda: self._gradient(
                "encode_text", "text", text_of(self.batch)
            ),
            "teacher's images": self._frozen,
            "AdamW": self._adamw,
        }

    def _pixels(self) -> jax.Array:
        return jax.jit(transforms.normalize)(self.batch["image"])

    def _frozen(self) -> paired.Program:
        def embed(variables: Any, pixels: jax.Array) -> jax.Array:
            return jnp.sum(encode.image(self.model, variables, pixels))

        return _compiled(jax.jit(embed), self.variables, self._pixels())

    def _step(self) -> paired.Program:
        """The step; gives its loss."""
        teacher = self._teacher()
        state, shardings = first_state(
            self.variables, self.optimizer, self.mesh, "none"
        )
        embedder = Embedder(
            self.model,
            lambda key, images, rows: transforms.normalize(images),
            0,
            self.mesh,
        )
        step = pretrain.make_step(embedder, self.optimizer, self.schedule, OPTIONS)
        compiled = (
            jax.jit(
                step,
                donate_argnums=1,
                out_shardings=(shardings, meshes.replicated(self.mesh)),
            )
            .lower(teacher, state, self.batch)
            .compile()
        )

        def run() -> Any:
            nonlocal state
            state, metrics = compiled(teacher, state, self.batch)
            return jax.block_until_ready(metrics)["loss/total"]

        return paired.Program.from_compiled(run, compiled)

    def _teacher(self) -> pretrain.Teacher:
        """The frozen CLIP, its sentences embedded before the first step."""
        encode_text = jax.jit(functools.partial(encode.text, self.model))
        texts = np.zeros((len(self.job.tokens), self.job.config.embed_dim), np.float32)
        drawn = self.job.sentence_ids
        texts[drawn] = encode_text(self.variables, self.job.tokens[drawn])
        params = dict(self.variables["params"])
        del params["text"]
        return pretrain.Teacher(
            {**self.variables, "params": params}, meshes.shard_rows(self.mesh, texts)
        )

    def _gradient(self, method: str, branch: str, inputs: Any) -> paired.Program:
        def loss(trained: Any, variables: Any, inputs: Any) -> jax.Array:
            params = {**variables["params"], branch: trained}
            variables = {**variables, "params": params}
            embedded: Any = self.model.apply(variables, inputs, method=method)
            return jnp.sum(embedded)

        trained = self.variables["params"][branch]
        step = jax.jit(jax.value_and_grad(loss))
        return _compiled(step, trained, self.variables, inputs)

    def _adamw(self) -> paired.Program:
        params = self.variables["params"]

        def update(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
            updates, state = self.optimizer.update(gradients, state, params)
            return jax.tree.map(jnp.add, params, updates), state

        held = (jax.tree.map(jnp.array, params), self.optimizer.init(params))
        compiled = jax.jit(update, donate_argnums=(0, 1)).lower(*held, params).compile()

        def run() -> Any:
            nonlocal held
            held = jax.block_until_ready(compiled(*held, params))
            return held[0]["logit_scale"]

        return paired.Program.from_compiled(run, compiled)


def _compiled(function: Any, *arguments: Any) -> paired.Program:
    """A function of constant arguments; gives the first of its results."""
    compiled = function.lower(*arguments).compile()

    def run() -> Any:
        return jax.tree.leaves(jax.block_until_ready(compiled(*arguments)))[0]

    return paired.Program.from_compiled(run, compiled)


PARTS = (
    "student's images",
    "student's sentences",
    "teacher's images",
    "teacher's sentences",
    "AdamW",
)


def side(name: str, job: Job) -> dict[str, paired.Build]:
    """The programs of 'ours' or of 'PyTorch'."""
    if name == "ours":
        return Ours(job).programs()
    tokens = job.tokens[job.sentence_ids]
    return openai_step.AuthorsStep(
        job.config, job.variables, job.images, job.labels, tokens, OPTIONS
    ).programs()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=PRESETS, default="ViT-B/16")
    parser.add_argument("--batch_size", type=paired.count, default=8)
    parser.add_argument("--rounds", type=paired.count, default=5)
    parser.add_argument("--parts", action="store_true", help="where the time goes")
    paired.add_allocator(parser)
    parser.add_argument("--side", choices=("ours", "PyTorch"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.side:
        paired.use_allocator(options.allocator)
        paired.serve(
            side(options.side, Job.random(options.backbone, options.batch_size))
        )
        return
    arguments = (
        *("-m", "vl_ltr_jax.benchmarks.train_step", f"--backbone={options.backbone}"),
        f"--batch_size={options.batch_size}",
        f"--allocator={options.allocator}",
    )
    print(f"allocator of both sides: {options.allocator}")
    machine = paired.ceilings()
    sides = {side: (*arguments, f"--side={side}") for side in ("ours", "PyTorch")}
    with paired.Sides(sides) as processes:
        for program in (paired.STEP, *(PARTS if options.parts else ())):
            costs, work, results = processes.run(program, options.rounds)
            title = f"{options.backbone}, batch {options.batch_size}: {program}"
            print(paired.table(title, costs, machine, work), flush=True)
            if program == paired.STEP:
                for step in (0, options.rounds):
                    losses = " and ".join(f"{r[step]:.6f}" for r in results.values())
                    print(f"losses of step {step + 1}: {losses}")


if __name__ == "__main__":
    with exits.refusing():
        main()
