"""The anchor sentences of each class, as the stages `embed` and `anchors` left them."""

from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32, Int

from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import strict_json
from vl_ltr_jax.storage.artifact import Artifact, ArtifactError, redo_advice


class Anchors(NamedTuple):
    """Anchors on the host.

    Attributes:
      indices: of sentences in the corpus, best first; any number for padding.
      padding: True for an absent anchor.
      sentences: embeddings of the corpus; a memory map on a local disk.
      texts: sentences of each class, without padding.
    """

    indices: Int[np.ndarray, "C M"]
    padding: Bool[np.ndarray, "C M"]
    sentences: Float[np.ndarray, "S D"]
    texts: list[list[str]]

    @classmethod
    def load(cls, workdir: epath.Path) -> "Anchors":
        """Reads the anchors of a run.

        Raises:
          ArtifactError: a file is missing or damaged.
        """
        anchors, texts = Artifact(workdir / "anchors", {}), load_texts(workdir)
        padding = np.array(anchors.load_array("padding"))
        if [len(row) for row in texts] != np.sum(~padding, axis=1).tolist():
            raise ArtifactError(
                f"{_texts_path(workdir)} lists other anchors than padding.npy. "
                f"{redo_advice(anchors.directory)}"
            )
        return cls(
            np.array(anchors.load_array("indices")),
            padding,
            Artifact(workdir / "embed", {}).load_array("sentences"),
            texts,
        )

    @property
    def embeddings(self) -> Float32[np.ndarray, "C M D"]:
        """Embeddings of the anchors, zero for padding."""
        rows = self.sentences[self.indices]
        return np.where(self.padding[..., None], 0, rows).astype(np.float32, copy=False)


def load_texts(workdir: epath.Path) -> list[list[str]]:
    """Returns the anchor sentences of each class, best first; empty without anchors.

    Raises:
      ArtifactError: the file is damaged.
    """
    path = _texts_path(workdir)
    if not path.exists():
        return []
    try:
        content = strict_json.parse(path.read_bytes())
        if not isinstance(content, list) or not all(map(_is_texts, content)):
            raise ValueError("it holds no list of sentences for each class")
    except (OSError, ValueError) as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be read ({error}). {redo_advice(path.parent)}"
        ) from error
    return content


def _texts_path(workdir: epath.Path) -> epath.Path:
    return workdir / "anchors" / "sentences.json"


def _is_texts(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(text, str) for text in content)
