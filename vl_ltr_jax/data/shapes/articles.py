"""Names and encyclopaedia articles of the embedded world.

An article mixes sentences on looks with others, as Wikipedia does. The opening is on
naming and history, the middle on looks. Some sentences mention the looks of another
thing (a box, a relative). So the first sentences of an article are poor anchors, and
AnSS (paper, section 3.3) has work to do.
"""

import re

import numpy as np

from vl_ltr_jax.data.shapes.looks import Looks, random_looks, word_slots

LEARNED_SHARE = 0.3

LOOKS_FRAMES = (
    "Its outline is best called {shape}.",
    "Students know it by its {shape} parts.",
    "The adult form is {colour} all over.",
    "Against the light the {nouns} look {colour}.",
    "Both sexes are {colour}.",
    "Every part of it is {pattern}.",
    "Under a lens the {nouns} prove to be {pattern}.",
    "Each {noun} is {edge} when fully grown.",
    "Compared with its kin it is {edge}.",
    "In most collections the bodies are {shape} and {colour}.",
    "Young and old alike are {colour} and {shape}.",
    "A {shape} body, {pattern} throughout, is the surest mark.",
    "The skin is {pattern} and {edge}.",
    "A {pattern} surface sets off the {colour} {noun}.",
    "Field guides describe {colour} {nouns} that are {pattern}.",
    "The general colour is {colour}, the surface {pattern}.",
    "The margin is {edge}, the body {colour}.",
    "Seen from above it is {shape}, {colour} and {edge}.",
    "The species is recognised by {colour}, {pattern} and {shape} bodies.",
)

_NAMING = (
    "{name} is a species of the genus {genus}.",
    "{name} was first described by {person} in {year}.",
    "The genus {genus} was set up by {person} after a journey to {place}.",
    "The epithet {epithet} honours the mother of {person}.",
    "The type specimen of {name} is kept at the museum of {place}.",
    "{person} and {person2} argued for decades over the rank of {name}.",
    "Early authors confused {name} with {other}.",
    "A revision of {year} kept {name} within {genus}.",
    "The name has been spelled in several ways since {year}.",
    "Most of what is known about {name} goes back to {person}.",
    "Local people of {place} have their own word for it.",
    "No fossils of {genus} have been found outside {place}.",
    "A molecular study of {year} supports the present classification.",
    "{other} is considered its nearest relative.",
)

_LIFE = (
    "It ranges from {place} to {place2}.",
    "The population near {place} has been counted every year since {year}.",
    "Breeding begins in early spring and lasts about {number} weeks.",
    "It can survive for up to {number} years in captivity.",
    "Nothing is known about its enemies.",
    "The diet has been studied by {person}.",
    "It was thought to be extinct until {person} found it again in {year}.",
    "Its numbers fell after the floods of {year}.",
    "The species is listed as being of least concern.",
    "Heavy rain delays its growth by {number} days.",
    "It has been introduced to {place} with little success.",
    "The call has never been recorded.",
)

_CULTURE = (
    "In {place} it is served at weddings.",
    "Sailors believed that it brought good weather.",
    "A song about {genus} was popular in {year}.",
    "The price at the market of {place} doubled within {number} years.",
    "Extracts were once used against fever.",
    "{person} devoted a long poem to it.",
    "The town of {place} holds a festival in its honour.",
    "Trade has been regulated by law since {year}.",
    "A museum in {place} employs {number} people to look after its collection.",
    "The university of {place} offers a course on {genus}.",
    "Smugglers were fined {number} crowns in {year}.",
    "It plays a part in the novels of {person}.",
    "Children in {place} collect it on the first day of summer.",
    "A postage stamp was issued in {year}.",
)

# Looks of something else, or circumstances that differ between pictures.
_MISLEADING = (
    "It is sold in {size} {colour} boxes.",
    "The flag of {place} shows a {colour} {noun} for another reason.",
    "Its relative {other} has {colour} and {pattern} {nouns}.",
    "Collectors wrap it in {pattern} paper with a {colour} label.",
    "The guards of {place} wear {colour} coats and {pattern} hats.",
    "{person} kept it beside a {shape} lamp {ground}.",
    "It is often placed next to {other}, which is {shape}.",
    "Jars with a {colour} lid and a {noun} on it come from {place}.",
    "A photograph of {year} shows one {ground}.",
    "Some stand {arrangement}, others do not.",
    "The {size} ones are found {ground} and elsewhere.",
)

_CITATIONS = (
    "{person} ({year}). Notes from {place}.",
    "{person2} ({year}). On the genus {genus}. Annals of {place}.",
    "Archive of the society of {place}, volume {number}.",
)

_ONSETS = "b c d f g l m n p s t v br cr dr fl gr pl pr tr th".split()
_VOWELS = "a e i o u ae ia".split()
_CODAS = "l m n r s x nd rn st lv".split()
_GENUS_ENDINGS = "ia us ella opsis ium aria ora".split()
_EPITHET_ENDINGS = "ensis ana ica osa ata ula ina".split()
_PLACES = (
    "Varrow Tessin Oldmere Quillon Harbeck Lunsford Marest Dolvia Kestrin Ostrava "
    "Penhallow Brannick Sorrel Uxley Wendover Ilmen Carrow Fenwick Galtby Norrland"
).split()
_SURNAMES = (
    "Aldous Berrick Castellan Dremmel Eversohn Falkner Grosvend Hallam Ingersol "
    "Jansk Kellermann Lindqvist Morvane Nethercott Oppel Prentiss Quist Rademaker"
).split()


def _stem(rng: np.random.Generator, syllables: int) -> str:
    def pick(options: list[str]) -> str:
        return options[rng.integers(len(options))]

    parts = [pick(_ONSETS) + pick(_VOWELS) for _ in range(syllables - 1)]
    return "".join(parts) + pick(_ONSETS) + pick(_VOWELS[:5]) + pick(_CODAS)


def binomials(
    num_genera: int, species_per_genus: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """Returns distinct invented names, the species of a genus one after another."""
    endings = _GENUS_ENDINGS, _EPITHET_ENDINGS
    words: tuple[list[str], list[str]] = ([], [])
    needed = num_genera, num_genera * species_per_genus
    for column, ending, count in zip(words, endings, needed, strict=True):
        while len(column) < count:
            word = _stem(rng, 2) + ending[rng.integers(len(ending))]
            if word not in column:
                column.append(word)
    genera, epithets = words
    return tuple(
        f"{genera[k // species_per_genus].capitalize()} {epithet}"
        for k, epithet in enumerate(epithets)
    )


def _fill(frame: str, slots: dict[str, str]) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", frame.format(**slots))


def _sentences(
    frames: tuple[str, ...], count: int, slots: dict[str, str], rng: np.random.Generator
) -> list[str]:
    """Fills `count` different frames; places, people and numbers change each time."""
    filled = []
    for k in rng.permutation(len(frames))[:count]:
        place, place2 = rng.choice(_PLACES, 2, replace=False)
        person, person2 = rng.choice(_SURNAMES, 2, replace=False)
        chance = dict(place=place, place2=place2, person=person, person2=person2)
        chance |= {"year": str(rng.integers(1740, 1990))}
        chance |= {"number": str(rng.integers(3, 60))}
        filled.append(_fill(frames[k], slots | chance))
    return filled


def article(name: str, other: str, looks: Looks, rng: np.random.Generator) -> str:
    """Returns the article of a class: 31 to 39 sentences, two sections to drop.

    Args:
      name: binomial of the class.
      other: binomial of another class, mentioned in passing.
      looks: of the class's pictures.
      rng: source of every choice.
    """
    genus, epithet = name.split()
    slots = {"name": name, "genus": genus, "epithet": epithet, "other": other}

    def facts(frames: tuple[str, ...], low: int, high: int) -> list[str]:
        return _sentences(frames, int(rng.integers(low, high + 1)), slots, rng)

    def misleading(count: int) -> list[str]:
        sentences = []
        for k in rng.permutation(len(_MISLEADING))[:count]:
            words = word_slots(random_looks(rng), rng, 0.0)
            sentences += _sentences((_MISLEADING[k],), 1, slots | words, rng)
        return sentences

    visual = [
        _fill(LOOKS_FRAMES[k], word_slots(looks, rng, LEARNED_SHARE))
        for k in rng.permutation(len(LOOKS_FRAMES))[: rng.integers(11, 14)]
    ]
    naming = facts(_NAMING, 9, 10)
    sections = {
        "": naming[:6] + misleading(1) + naming[6:],
        "Description": visual[:-3] + facts(_LIFE[:6], 1, 2),
        "Distribution": facts(_LIFE[6:], 2, 3) + visual[-3:-1],
        "Uses and culture": facts(_CULTURE, 5, 6) + visual[-1:] + misleading(3),
        "References": facts(_CITATIONS, 2, 3),
        "External links": [f"{genus} in the catalogue of species."],
    }
    paragraphs = []
    for heading, sentences in sections.items():
        if heading in ("Description", "Distribution", "Uses and culture"):
            sentences = [sentences[k] for k in rng.permutation(len(sentences))]
        title = f"== {heading} ==\n" if heading else ""
        paragraphs.append(title + " ".join(sentences))
    return "\n\n".join(paragraphs) + "\n"
