"""Do the checks of an answer read its argument? True answers of the embedded analyst, and mutations of them.

    .venv/bin/python benchmarks/answer_gates.py --answers 2000 --mutants 10000

The class line of a mutant stays right; its prose names another class, calls an attack benign, is too short or repeated,
swaps the values of two features, says high of what is low, says that the label was given, or copies the original. The
phrases are those of iot_pipeline_tests/augmentation: "tuned" and the sets of two authors, which the checks were tuned
with; non_native, held out until the checks caught the others; and fresh, written last. Both were looked at since, so
the heads of their files in phrase_sets/ have the shares of the first look, which estimate what a new author meets.
"unlisted" is the catch rate over phrases most of whose words of content stand in no word list of the checks as they
are.
"""

import argparse
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from result import save

from iot_pipeline.augmentation.answers import parse_answer
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.augmentation.diversity import diversity
from iot_pipeline.augmentation.join import share
from iot_pipeline_tests.augmentation.mutations import (
    KINDS,
    Case,
    Mutant,
    honest,
    judged,
    mutants,
    true_answers,
    unlisted,
)  # fmt: skip
from iot_pipeline_tests.augmentation.phrases import PHRASES, SEEN_LATER, phrase_set

KINDS_OF_REASONS = {
    "other class": {"other verdict"}, "polarity": {"other verdict"}, "length": {"length"},
    "swapped values": {"ungrounded number"}, "direction synonym": {"wrong direction"}, "label given": {"label given"},
    "near copy": {"copy"},
}  # fmt: skip


PHRASED = ("other class", "polarity", "direction synonym", "label given")


def main() -> None:
    """Write benchmarks/results/answer_gates.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2_000)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument("--show", type=int, default=0, help="mutants that pass, and false alarms, to print")
    parser.add_argument("--print-only", action="store_true", help="write no result")
    chosen = parser.parse_args()
    cases = true_answers(chosen.answers, chosen.seed)
    tuned = {kind: PHRASES[kind] + SEEN_LATER[kind] for kind in PHRASES}
    sets = {"tuned": tuned} | {author: phrase_set(author) for author in ("analyst", "verbose", "non_native", "fresh")}
    alarms = [(case, reasons) for case in cases if (reasons := judged(case, case.answer, case.original))]
    near = [(mutant.phrase, judged(case, mutant.text, "")) for case, mutant in honest(cases, chosen.seed)]
    verdicts = {
        name: [
            (kind, mutant, judged(case, mutant.text, mutant.original))
            for kind, case, mutant in mutants(cases, chosen.mutants, chosen.seed, phrases)
        ]
        for name, phrases in sets.items()
    }
    for case, reasons in alarms[: chosen.show]:
        print("FALSE ALARM", reasons, "\n", case.answer, "\n")
    for kind, mutant, _ in [found for found in verdicts["tuned"] if not found[2]][: chosen.show]:
        print("PASSED", kind, mutant.phrase, "\n", mutant.text, "\n")
    result = {
        "question": "share of mutated answers that are refused by kind, and of true answers that are",
        "answers": len(cases),
        "false_alarms": told(len(alarms), len(cases)),
        "false_alarms_by_kind": Counter(reason.split(":")[0] for _, reasons in alarms for reason in reasons),
        "false_alarms_by_words": {
            words: refused(true_answers(chosen.answers, chosen.seed + words, (words,))) for words in (45, 120, 300)
        },
        "honest_sentences": len({phrase for phrase, _ in near}),
        "false_alarms_on_honest_sentences": told(sum(bool(reasons) for _, reasons in near), len(near)),
        "mutants": chosen.mutants,
        "caught": {kind: of_kind(kind, verdicts["tuned"]) for kind in KINDS},
        "caught_by_author": {
            name: {kind: of_kind(kind, found) for kind in PHRASED}
            for name, found in verdicts.items()
            if name != "tuned"
        },
        "answers_a_second": {
            f"{way}, {words} words": speed(true_answers(chosen.answers, chosen.seed, (words,)), way == "diversity")
            for way in ("checks", "diversity")
            for words in (60, 120)
        },
        "diversity": diversity([parse_answer(case.answer).analysis for case in cases], features(cases)),
    }
    save("answer_gates", result, print_only=chosen.print_only)


def refused(cases: list[Case]) -> dict[str, Any]:
    """Return the share of true answers that are refused."""
    return told(sum(bool(judged(case, case.answer, case.original)) for case in cases), len(cases))


def of_kind(kind: str, verdicts: list[tuple[str, Mutant, list[str]]]) -> dict[str, Any]:
    """Return how many mutants of a kind were refused, for its own reason, and with unlisted phrases."""
    found = [(mutant, reasons) for of, mutant, reasons in verdicts if of == kind]
    own = [any(reason.split(":")[0] in KINDS_OF_REASONS[kind] for reason in reasons) for _, reasons in found]
    new = [(mutant, reasons) for mutant, reasons in found if unlisted(mutant.phrase)]
    return {
        **told(sum(bool(reasons) for _, reasons in found), len(found)),
        "for_its_own_reason": round(sum(own) / len(found), 4),
        "unlisted": told(sum(bool(reasons) for _, reasons in new), len(new)) if new else None,
        "unlisted_phrases": len({mutant.phrase for mutant, _ in new}),
        "passed_by_phrase": Counter(mutant.phrase for mutant, reasons in found if not reasons),
    }


def told(hits: int, of: int) -> dict[str, Any]:
    """Return a share with its interval."""
    value, low, high = share(hits, of)
    return {"share": value, "low": low, "high": high, "of": of}


def features(cases: list[Case]) -> tuple[str, ...]:
    """Return the features of all cases."""
    return tuple(sorted({line.split(":")[0].split(" ")[0] for case in cases for line in case.flow.split("\n")}))


def speed(cases: list[Case], diverse: bool, processes: int = 2) -> int:
    """Return how many answers two processes judge a second, or measure the diversity of."""
    random.Random(0).shuffle(cases)
    parts = [cases[start::processes] for start in range(processes)]
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(len, parts))  # the processes have started
        seconds = max(pool.map(once, parts, [diverse] * processes))
    return round(len(cases) / seconds)


def once(cases: list[Case], diverse: bool) -> float:
    """Return the CPU seconds that one process takes for its part: other work on the machine does not count."""
    check_answer(cases[0].answer, cases[0].flow, cases[0].label, cases[0].classes)
    analyses, names = [parse_answer(case.answer).analysis for case in cases], features(cases)
    begun = time.process_time()
    if diverse:
        diversity(analyses, names)
    else:
        for case in cases:
            judged(case, case.answer, case.original)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
