"""Class guessed from an explanation whose class words are masked: does the text carry the class by its content?"""

import re
from collections.abc import Sequence

import numpy as np

from iot_pipeline.augmentation.answers import parse_answer
from iot_pipeline.evaluation.measure import Measure

FOLDS = 5
FEWEST = 10  # explanations; fewer teach nothing
PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
NUMBERS = re.compile(r"\bp\d+\b|-?\d+(?:\.\d+)?(?:e-?\d+)?")
TOKEN = r"[A-Za-z_]+(?:\.[a-z]+)?|-?\d+(?:\.\d+)?"


def class_words(classes: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern for the words that class names are made of: short ones whole, longer ones by their beginning.

    `Port_Scanning` masks `ports`, `scan`, `scanner`; `TCP_Flood` masks `TCP`, `floods`.
    """
    pieces = {piece.lower() for name in classes for piece in PIECE.findall(name)}
    stems = sorted({re.sub(r"(?<=.{4})n?ing$", "", piece)[:5] if len(piece) > 3 else piece for piece in pieces})
    parts = "|".join(f"{stem}[a-z]*" if len(stem) > 3 else f"{stem}s?" for stem in stems)
    return re.compile(rf"(?<![a-z])(?:{parts})(?![a-z])_*", re.IGNORECASE)  # `_` and digits end a word here


def masked(answer: str, words: re.Pattern[str], numbers: bool = False) -> str:
    """Return analysis and indicators of an answer with class words masked, and with `numbers` every number too."""
    parsed = parse_answer(answer)
    items = (f"{item.feature} {item.value} {item.note}" for item in parsed.indicators)
    text = words.sub(" ", " ".join([parsed.analysis, *items]))
    return NUMBERS.sub(" ", text) if numbers else text


def guess_measure(
    answers: Sequence[str], labels: Sequence[str], groups: Sequence[str], classes: Sequence[str], seed: int
) -> tuple[list[Measure], list[dict[str, float | str]]]:
    """Guess the class of each explanation from its masked text, by a text classifier that learned from the others.

    The classifier is a logistic regression on TF-IDF, cross-validated by flow group. Measures: `class_guessed`, and
    `class_guessed_without_numbers`; chance is the most frequent class. Beside them the macro-F1 of each. Fewer than
    FEWEST explanations, a single class or a single flow group give no measure.

    Args:
        answers: Answers [n].
        labels: Class that each explains [n].
        groups: Flow group of each [n].
        classes: Class names.
        seed: Seed of the folds.
    """
    if len(answers) < FEWEST or len(set(labels)) < 2 or len(set(groups)) < 2:
        return [], []
    from sklearn.metrics import f1_score

    words, truth = class_words(classes), np.array(labels)
    most = max(sorted(set(labels)), key=list(labels).count)
    by_chance = (truth == most).astype(float)
    measures: list[Measure] = []
    scores: list[dict[str, float | str]] = []
    for name, numbers in (("class_guessed", False), ("class_guessed_without_numbers", True)):
        guessed = _cross_validated([masked(answer, words, numbers) for answer in answers], truth, groups, seed)
        measures.append(Measure(name, (guessed == truth).astype(float), by_chance))
        f1, least = (
            float(f1_score(truth, told, average="macro", zero_division=0)) for told in (guessed, [most] * len(truth))
        )
        scores.append({"measure": name, "macro_f1": f1, "majority_macro_f1": least})
    return measures, scores


def _cross_validated(texts: list[str], truth: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    """Return the class guessed of each text by a classifier that saw no text of its flow group."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    guessed = np.empty(len(texts), dtype=object)
    folds = GroupKFold(min(FOLDS, len(set(groups))), shuffle=True, random_state=seed)
    known = TfidfVectorizer(token_pattern=TOKEN, sublinear_tf=True, max_features=2000)
    for train, held in folds.split(texts, groups=groups):
        if len(seen := set(truth[train])) == 1:
            guessed[held] = next(iter(seen))
            continue
        rows = known.fit_transform([f"{texts[place]} text" for place in train])  # no text is empty
        model = LogisticRegression(C=10, max_iter=1000).fit(rows, truth[train])
        guessed[held] = model.predict(known.transform([texts[place] for place in held]))
    return guessed
