"""The text tower on sentences of Wikipedia's lengths, packed and one to a row.

    python -m vl_ltr_jax.benchmarks.sentences --backbone=ViT-B/16 --sentences=512

Two comparisons: embedding a corpus in batches of similar length, and the text side of a
training step, forward and backward, with several sentences in a row. The alternatives
pad every sentence to 77 tokens as the authors do: our own tower, and OpenAI's in
PyTorch with the same weights.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Int

from vl_ltr_jax.benchmarks import openai_clip, paired
from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.batches.packing import Packer
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import PRESETS, Clip, ClipConfig
from vl_ltr_jax.preflight.inputs import assumed_lengths
from vl_ltr_jax.run import embedding
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train.embedder import text_of


def tokens_like_wikipedia(
    rng: np.random.Generator, count: int, config: ClipConfig
) -> Int[np.ndarray, "S L"]:
    """Random sentences of about 25 tokens, log-normal; the longest are cut."""
    longest = config.text.context_length
    lengths = assumed_lengths(rng, count, longest)
    columns = np.arange(longest)[None, :]
    end = config.text.vocab_size - 1
    ids = rng.integers(1, end - 1, (count, longest))
    ids = np.where(columns == 0, end - 1, ids)  # the start of text
    ids = np.where(columns == lengths[:, None] - 1, end, ids)
    return np.where(columns < lengths[:, None], ids, 0).astype(np.int32)


def random_variables(config: ClipConfig) -> dict[str, Any]:
    """Random variables of both towers, on the host."""
    size = config.vision.image_size
    arguments = np.zeros((1, size, size, 3), np.float32), np.zeros((1, 1), np.int32)
    variables = jax.jit(Clip(config).init)(jax.random.key(0), *arguments)
    return jax.tree.map(np.asarray, dict(variables))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=PRESETS, default="ViT-B/16")
    parser.add_argument("--sentences", type=paired.count, default=512)
    parser.add_argument("--batch_size", type=paired.count, default=64)
    parser.add_argument("--rounds", type=paired.count, default=3)
    options = parser.parse_args(argv)
    towers = Towers(options.backbone, options.sentences, options.batch_size)
    lengths = np.argmax(towers.tokens, axis=1) + 1
    padded = towers.tokens.shape[1]
    print(
        f"{options.backbone}: {len(lengths)} sentences of {lengths.mean():.1f} tokens, "
        f"padded to {padded}"
    )
    machine = paired.ceilings()
    # A token costs the same matrix products wherever it stands, attention aside.
    width, layers = towers.config.text.width, towers.config.text.layers
    corpus_work = 24.0 * width**2 * layers * lengths.sum()
    for title, programs, work in (
        ("Embedding a corpus", towers.corpus(), corpus_work),
        (
            f"Text side of a training step, {options.batch_size} sentences",
            towers.training(),
            3 * corpus_work / len(lengths) * options.batch_size,
        ),
    ):
        ours, *alternatives = (np.asarray(program()) for program in programs.values())
        costs = paired.run(programs, options.rounds)
        useful = dict.fromkeys(programs, paired.Work(work))
        print(paired.table(f"{title} (GFLOP: of real tokens)", costs, machine, useful))
        error = max(np.abs(ours - other).max() for other in alternatives)
        print(f"largest difference, of the largest: {error / np.abs(ours).max():.1e}")


class Towers:
    """Our text tower and OpenAI's with the same weights, and sentences for them."""

    def __init__(self, backbone: str, num_sentences: int, batch_size: int) -> None:
        """Makes random weights and sentences."""
        self.config, self.batch_size = PRESETS[backbone], batch_size
        variables = random_variables(self.config)
        self.model, self.variables = Clip(self.config), jax.device_put(variables)
        self.theirs = openai_clip.with_our_weights(self.config, variables)
        rng = np.random.default_rng(0)
        self.tokens = tokens_like_wikipedia(rng, num_sentences, self.config)

    def corpus(self) -> dict[str, Callable[[], Any]]:
        """Programs that give the embeddings of all sentences."""
        compiled = jax.jit(functools.partial(encode.text, self.model))
        embed_batch = functools.partial(compiled, self.variables)
        mesh, tokens, size = meshes.make_mesh(), self.tokens, self.batch_size
        starts = range(0, len(tokens), size)

        def padded() -> np.ndarray:
            batches = (jnp.asarray(tokens[start : start + size]) for start in starts)
            return np.concatenate([np.asarray(embed_batch(b)) for b in batches])

        def pytorch() -> np.ndarray:
            with torch.no_grad():
                batches = torch.from_numpy(tokens).long().split(size)
                return torch.cat([self.theirs.encode_text(b) for b in batches]).numpy()

        return {
            "ours": lambda: embedding.embed_sentences(embed_batch, tokens, mesh, size),
            "ours, padded": padded,
            "PyTorch, padded": pytorch,
        }

    def training(self) -> dict[str, Callable[[], Any]]:
        """Programs that give the gradient of every weight, and show one of them."""
        rng, size = np.random.default_rng(1), self.batch_size
        weights = rng.standard_normal((size, self.config.embed_dim), np.float32)
        drawn = rng.integers(0, len(self.tokens), size)
        packed = Packer(self.tokens, size, 1, 1, lambda step: drawn).pack(0)

        @jax.jit
        def gradient(text_params: Any, variables: Any, batch: Any) -> Any:
            def loss(text_params: Any) -> jax.Array:
                params = {**variables["params"], "text": text_params}
                embedded: Any = self.model.apply(
                    {**variables, "params": params},
                    text_of(batch),
                    method="encode_text",
                )
                return jnp.sum(weights * embedded)

            return jax.grad(loss)(text_params)

        def ours(batch: Any) -> Callable[[], Any]:
            batch, trained = jax.device_put(batch), self.variables["params"]["text"]

            def run() -> Any:
                gradients = gradient(trained, self.variables, batch)
                jax.block_until_ready(gradients)
                return gradients["token_embedding"]["embedding"]

            return run

        ids = torch.from_numpy(self.tokens[drawn]).long()
        expected = torch.from_numpy(weights)

        def pytorch() -> np.ndarray:
            self.theirs.zero_grad()
            (self.theirs.encode_text(ids) * expected).sum().backward()
            return self.theirs.token_embedding.weight.grad.numpy()

        return {
            "ours": ours(packed),
            "ours, padded": ours({"tokens": self.tokens[drawn]}),
            "PyTorch, padded": pytorch,
        }


if __name__ == "__main__":
    with exits.refusing():
        main()
