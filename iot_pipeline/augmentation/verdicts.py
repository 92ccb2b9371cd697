"""Verdict of the prose: it must be that of the class line.

A mention of another class, of another family of attacks, or of the opposite of benign or attack is a verdict unless its
clause denies it, compares with it, or speaks of such traffic in general. The own class, and its being benign or an
attack, must not be denied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from iot_pipeline.augmentation.answers import plain_label
from iot_pipeline.augmentation.lexicon import VERDICT
from iot_pipeline.augmentation.symbols import sentences

BENIGN_CLASS = re.compile(r"normal|benign|legit|background|thing_speak|mqtt_publish|wipro_bulb|amazon_alexa")
ATTACK_CLASS = re.compile(
    r"attack|flood|dos|scan|spoof|poi|brute|slowloris|bot|mirai|malware|malicious|inject|xss|sql|exploit|hijack|backdoor"
    r"|ransom|theft|recon|fuzz|worm|shellcode|nmap|detection|hping|infiltrat|exfil|keylog|password|cracking|probe|r2l|u2r"
)
# A flow of one family of attacks is not called by the name of another.
FAMILIES = (
    (re.compile(r"flood|dos|slowloris|hping|syn"), frozenset({"flood", "flooder", "slowloris"})),
    (re.compile(r"scan|recon|probe|nmap|detection"), frozenset({"scan", "scanning", "scanner", "fingerprinting"})),
    (re.compile(r"spoof|poi|mitm"), frozenset({"spoof", "spoofing", "spoofer", "poisoning"})),
)
# An attack may well not do what these say: "it stays unnoticed because it does not disrupt the service".
EFFECT = re.compile("disrupt|crash|exhaust|overwhelm|overload|crippl|paraly|damag|destroy|swamp|hammer|smother")
DO_NOT = re.compile(r"(?:^| )(?:(?:do|does|did|will|would|can|could) not|cannot)$")
OF_A_FEATURE = re.compile("h[adx]{0,2}va*[Nn][aEd]*$")  # "the sizes are not suspicious"
ENDS = re.compile("[,;j]")
LISTED = re.compile("[,odpaq]*")  # between the members of a list
_BETWEEN = "[dEpvatTgBMmqbon]{0,8}"  # between a negation and what it denies
DENIED = re.compile(rf"[Nnz]{_BETWEEN}(?:[SfHZ](?:[tTr]a?)?v{_BETWEEN})?$|[Nn]p[dtT]*[SfHZ][tTr]?v{_BETWEEN}$")
LEFT = re.compile(rf"[Nncz]{_BETWEEN}$")
LACK = re.compile("zp[dqbaEBMm]*$")
SUPPOSED = re.compile("[Tr]a?w(?!a?v)")
DENIED_AFTER = re.compile("[ES]?[vw][avw]{0,3}n|a*n")
# "A scan would be shorter", but not "a scan would be my answer", "would explain it" or "could it be?".
IN_GENERAL = re.compile("w(?!t)(?!a*v?[dta]{0,3}A)(?!a*e(?!p?N))|g")
CONCEDED = re.compile(",?j.*[Nnc>CMFO]")
NOUN = re.compile("[bqaBMoxd]{0,2}[SfHZ]")
USE = re.compile("[bqaBMoxd]{0,2}[SHZ]")
PLURAL = re.compile("[bqBM]*Z")
OF_ATTACKS = re.compile("[SfHZ]?p[dqa]*[CMPFO]")
# "This flow is, as it seems, ...": what follows is said of the flow.
SAID_OF_FLOW = re.compile(r"(?:^|[tTSfHZ])[^|h]*v[avdptTEo]*$|^[ad]*(?:[Ef]p[ad]*)?$")
NOT_SUBJECT = re.compile("v|[tT][ax]*x")
BEFORE_PREDICATE = re.compile("[poatrkwNc>]|$")


def verdict_faults(words: Sequence[str], label: str) -> list[str]:
    """Return the faults of the verdict of an analysis, given as the words of `prose.words_of`."""
    symbols = VERDICT.of(words)
    kinds, foreign = _kinds(label)
    faults = []
    for start, end in sentences(symbols):
        if not kinds.isdisjoint(symbols[start:end]):
            faults += [
                f"other verdict: {'it denies ' if denied else ''}{_told(words, start + place)!r}"
                for place, denied in _in_sentence(symbols[start:end], words[start:end], kinds, foreign)
            ]
    return list(dict.fromkeys(faults))


@lru_cache(maxsize=256)
def _kinds(label: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the symbols that a label's verdict depends on, and the words of other families of attacks."""
    name = plain_label(label)
    foreign = [words for pattern, words in FAMILIES if not pattern.search(name)]
    if BENIGN_CLASS.search(name):
        return frozenset("OCFBbMmPV") | {"benign"}, frozenset()
    if ATTACK_CLASS.search(name):
        known = frozenset().union(*foreign) if len(foreign) < len(FAMILIES) else frozenset()
        return frozenset("OCFBbqMm"), known
    return frozenset("OC"), frozenset()


def _in_sentence(
    said: str, words: Sequence[str], kinds: frozenset[str], foreign: frozenset[str]
) -> Iterator[tuple[int, bool]]:
    """Yield (place, denied) of each word that contradicts the label."""
    benign = "benign" in kinds
    last, passed = -1, False  # the last mention, and if it was no verdict
    for place, kind in enumerate(said):
        if kind not in kinds:
            continue
        if kind == "F":
            kind = "O" if words[place] in foreign else "M"
            if kind == "M" and not benign and said[max(0, place - 1) : place] not in ("d", "N"):
                continue  # one flood was considered for another
        begin = max((end.end() for end in ENDS.finditer(said, 0, place) if not _degree(said, words, end)), default=0)
        before = said[max(begin, said.rfind("C", 0, place) + 1) : place]
        own = kind == "C" or kind in ("Bb" if benign else "Mm")
        if own:
            if EFFECT.match(words[place]) and DO_NOT.search(" ".join(words[max(0, place - 2) : place])):
                continue
            pattern = LEFT if kind == "C" else DENIED
            after = said[place + 1 :]
            if after.startswith("l") or OF_A_FEATURE.search(before):  # not malicious in itself
                continue
            if (_odd(before) and pattern.search(before)) or (
                (
                    kind == "C"
                    or (not before.strip("dapt") and words[place].startswith(("attack", "malic", "hostil", "intru")))
                )
                and DENIED_AFTER.match(after)
            ):
                yield place, True
            continue
        if kind in "OMBPV" and last >= 0 and passed and LISTED.fullmatch(said, last + 1, place):
            last = place
            continue
        passed = not _is_verdict(kind, before, said, place, words)
        last = place
        if not passed:
            yield place, False


def _degree(said: str, words: Sequence[str], end: re.Match[str]) -> bool:
    """Return True for the `so` of "not so extreme that", which ends no clause."""
    return words[end.start()] == "so" and end.start() > 0 and said[end.start() - 1] not in ",;"


def _is_verdict(kind: str, before: str, said: str, place: int, words: Sequence[str]) -> bool:
    """Return False if a mention is denied, compared, supposed or general, or if it is not said of the flow."""
    stop = next((end.start() for end in re.finditer("[,;C]|o(?![dqa]*[OFMPB])", said[place + 1 :])), len(said))
    after = said[place + 1 : place + 1 + stop]
    if not before.strip("dp") and said[place + 1 + len(after) :][:1] == "," and "p" in before:  # in a scan, ...
        after += said[place + 1 + len(after) + 1 :].split(",")[0]
    if _odd(before) or "k" in before or SUPPOSED.search(before) or DENIED_AFTER.match(after):
        return False
    if words[place + 1 : place + 2] == ["against"]:  # a flood against the broker
        after = after[1:]
    subject = not NOT_SUBJECT.search(before.rsplit("T", 1)[-1])
    if subject and (IN_GENERAL.search(after) or _odd(after[:14])):
        return False
    if kind == "O":
        return words[place] != "" and (said[place] != "F" or SAID_OF_FLOW.search(before) is not None)
    rest = said[place + 1 + len(after) :]
    if kind in "Bbq" and ("l" in after or CONCEDED.match(said[place + 1 :].lstrip("dpxhtal")) or CONCEDED.match(rest)):
        return False
    if kind == "B" and "|" in before:
        return False
    if PLURAL.match(said, place) and (not before.strip("adbq") or words[place - 1] == "for"):  # for legitimate users
        return False
    if kind == "b" and "v" not in said:
        return True
    if kind in "bq":
        if OF_ATTACKS.match(after.lstrip("xbqo")):
            return False
        attributive = (NOUN if kind == "b" else USE).match(after)
        predicate = kind == "b" and BEFORE_PREDICATE.match(after) and SAID_OF_FLOW.search(before)
        return bool(attributive or predicate)
    if kind == "P":
        return bool(re.search("[tSfHZ].{0,6}v|E", before)) or after[:1] in ("d", "t")
    if kind == "m":
        return SAID_OF_FLOW.search(before) is not None and "v" in before
    return not re.search("[^,;]?(?:that|which|whom) an?$", " ".join(words[max(0, place - 3) : place]))


def _odd(said: str) -> bool:
    """Return True for an odd number of negations; comparisons count as one, and a lack beside what is lacking."""
    negations = sum(map(said.count, "Nn")) + ("c" in said or ">" in said) + (LACK.search(said) is not None)
    return negations % 2 == 1


def _told(words: Sequence[str], place: int) -> str:
    return " ".join(words[max(0, place - 2) : place + 2])
