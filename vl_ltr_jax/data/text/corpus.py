"""Texts of classes -> labelled sentences: the language side of the training set.

VL-LTR, Section 3.1: the text of a class is cut into sentences, and prompts made from
its name are added. Sections of mere references are left out first.

Two rules build a corpus. `mended` (the default) takes each prompt and each section
separately. `vl_ltr` is the rule of the authors' code, for comparison with its results.
It joins prompts and text without a separator before it cuts them. So:

- The last prompt can merge with the first sentence.
- A class name with a full stop breaks its prompts.
- A section without a final stop runs into the next.
- Of sections with the same heading only the last survives.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.text.prompts import PROMPTS, fill_prompts
from vl_ltr_jax.logs.messages import unknown_name
from vl_ltr_jax.runtime.errors import UserError

CORPUS_RULES = ("mended", "vl_ltr")
DROPPED_HEADINGS = frozenset(
    {"External links", "References", "Further reading", "Bibliography"}
)

# A boundary follows "." or "?" before blank space or a capital. Exceptions: after one
# capital ("J. Brown"), or inside an abbreviation ("e.g. this", "1.2.Next"). The
# condition that fails most often comes first.
_BOUNDARY = re.compile(r"(?<=[.?])(?=\s|[A-Z])(?<![A-Z]\.)(?<!\w\.\w.)")


class CorpusError(UserError):
    """Names and texts of classes that make no corpus."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sentences and their classes.

    Attributes:
      sentences: S sentences; those of a class are consecutive, prompts first.
      labels: class of each sentence, ascending.
      class_names: C names, in label order.
    """

    sentences: tuple[str, ...]
    labels: Int[np.ndarray, "S"]
    class_names: tuple[str, ...]

    @property
    def counts(self) -> Int[np.ndarray, "C"]:
        """Number of sentences of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))


def parse_sections(text: str) -> tuple[tuple[str, str], ...]:
    """Returns the sections of a text, cut at every line that starts with `==`.

    As in VL-LTR, only the start of such a line matters. Its heading is the line without
    the `=` and spaces at both ends.

    Returns:
      (heading, body) in order, the part before the first heading as `summary`. Lines of
      a body are stripped, and empty lines left out.
    """
    sections: list[tuple[str, list[str]]] = [("summary", [])]
    for line in map(str.strip, text.split("\n")):
        if line.startswith("=="):
            sections.append((line.strip("= "), []))
        elif line:
            sections[-1][1].append(line)
    return tuple((heading, "\n".join(body)) for heading, body in sections)


def drop_sections(
    sections: Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Returns the sections without those of `DROPPED_HEADINGS`.

    The match is exact, and a subsection has a heading of its own, as in VL-LTR.
    """
    return tuple(s for s in sections if s[0] not in DROPPED_HEADINGS)


def split_sentences(text: str) -> tuple[str, ...]:
    """Cuts a text into sentences after `.` and `?`, stripped, without empty ones.

    As in VL-LTR, and kept because published results rest on it: `Dr.` ends a sentence,
    while `!`, an end of line and the stops of Chinese do not.
    """
    return tuple(s for part in _BOUNDARY.split(text) if (s := part.strip()))


def build_corpus(
    class_names: Sequence[str],
    texts: Sequence[str],
    prompts: str | Sequence[str] = "imagenet80",
    *,
    rule: str = "mended",
) -> Corpus:
    """Returns the sentences of every class: its prompts, then its text.

    Args:
      class_names: C names.
      texts: C texts; any may be empty.
      prompts: a key of `PROMPTS`, or templates with `{}` for the name.
      rule: `mended` or `vl_ltr`; see the module.

    Raises:
      UnknownNameError: the name of a rule or of prompts is unknown.
      CorpusError: the lengths differ, or a class has no sentence.
    """
    if isinstance(prompts, str):
        if prompts not in PROMPTS:
            raise unknown_name("the set of prompts", prompts, PROMPTS)
        prompts = PROMPTS[prompts]
    if rule not in CORPUS_RULES:
        raise unknown_name("the corpus rule", rule, CORPUS_RULES)
    if len(class_names) != len(texts):
        raise CorpusError(f"{len(class_names)} class names, but {len(texts)} texts")
    sentences_of = _vl_ltr_sentences if rule == "vl_ltr" else _mended_sentences
    per_class = [
        sentences_of(fill_prompts(prompts, name), parse_sections(text))
        for name, text in zip(class_names, texts, strict=True)
    ]
    counts = np.array([len(sentences) for sentences in per_class], np.int32)
    if not counts.all():
        first = int(counts.argmin())
        raise CorpusError(
            f"data.prompts: {(counts == 0).sum()} of {len(texts)} classes have no "
            f"sentence, first {class_names[first]!r} (label {first}, "
            f"wiki/desc_{first}.txt). Write one, or take prompts other than 'none'."
        )
    return Corpus(
        sentences=tuple(s for sentences in per_class for s in sentences),
        labels=np.repeat(np.arange(len(texts), dtype=np.int32), counts),
        class_names=tuple(class_names),
    )


def _mended_sentences(
    prompts: Sequence[str], sections: Iterable[tuple[str, str]]
) -> list[str]:
    bodies = (body for _, body in drop_sections(sections))
    sentences = [*prompts, *(s for body in bodies for s in split_sentences(body))]
    return [" ".join(sentence.split()) for sentence in sentences]


def vl_ltr_text(sections: Iterable[tuple[str, str]]) -> str:
    """Returns the text of a class as VL-LTR joins it; the last of equal headings."""
    last_of_each_heading = tuple(dict(sections).items())
    summary, *bodies = (body for _, body in drop_sections(last_of_each_heading))
    return f"{summary}\n" + "\n".join(bodies)


def _vl_ltr_sentences(
    prompts: Sequence[str], sections: Iterable[tuple[str, str]]
) -> tuple[str, ...]:
    return split_sentences("\n".join(prompts) + vl_ltr_text(sections))
