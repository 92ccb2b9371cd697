"""Word lists of the checks of prose: degrees, verdicts, comparisons, and mentions of the given label."""

import re

# Every form of a word counts (`binding.degree`), so that a list has one form unless the others are irregular.
HIGH_WORDS = (
    "high heighten elevate raise raised increase spike surge soar jump leap peak climb rise rose risen large big huge"
    " enormous massive vast immense gigantic colossal tremendous heavy excessive excess exceed exceeds surpass"
    " outstrip overshoot inflate abundant abundance ample plentiful plenty profuse substantial considerable sizeable"
    " sizable maximal maximum maximise numerous many swell swollen balloon bloat skyrocket rocket shoot shot escalate"
    " amplify amplified boost oversize outsize overly tower steep great roof sky-high long prolong extend grow grew"
    " grown mount multiply multiplied intense intensify burgeon bulge explode flare upward upsurge uptick hefty bulky"
    " copious lavish extreme extensive generous upper top accelerate augment expand magnify magnified double triple"
)
LOW_WORDS = (
    "low lowered reduce reduction decrease drop dip fall fell fallen plunge plummet decline diminish minimal minimum"
    " minimise minuscule miniscule minute tiny small little few scant scanty scarce sparse sparing slim negligible"
    " marginal meagre meager modest limited restrict restricted restrained depress suppress shrink shrank shrunk"
    " shrunken sink sank sunk slump shallow thin faint weak deficient insignificant trivial paltry puny lesser curtail"
    " subdue mute dwindle tumble collapse crash recede vanish lean lack absence absent nil zero null nothing empty"
    " short shorten bottom nadir trough slight minor infinitesimal microscopic downward ebb wane abate decay contract"
    " deflate compress slash halve cut drain deplete exhausted nosedive nought naught"
    " poor bare skimpy lowly diminutive"
)


def listed(words: str) -> frozenset[str]:
    """Return the words of a list as a set."""
    return frozenset(words.split())


REFERENCES = listed(
    "usual normal median mean average typical expected ordinary most others other customary standard norm rest common"
    " baseline reference middle"
)
REFERENCE = re.compile(rf"\s+(?:the\s+|its\s+|their\s+|any\s+|what\s+is\s+)?(?:{'|'.join(sorted(REFERENCES))})\b")
# Words that say a degree only beside a reference: more than usual, under the norm.
RELATIVE = {
    "more": "above", "over": "above", "beyond": "above", "past": "above", "atop": "above", "less": "below",
    "fewer": "below", "up": "above", "down": "below", "under": "below", "beneath": "below", "underneath": "below",
}  # fmt: skip
# "a high importance" and "a small hint" speak of the argument, not of the feature's size.
NO_DEGREE_OF = re.compile(
    r"\s+(?:but\s+\w+\s+)?(?:\w+\s+)?(?:indicat\w+|importance|relevance|weight|use|interest|significance|signs?|signals?|evidence"
    r"|hints?|help|parts?|roles?|clues?|confidence|meaning|reasons?|doubt|support|contribution|piece|factor)\b"
)

_MALICE = (
    r"(?:attack\w*|intru\w+|malicious\w*|malice|hostil\w+|threat\w*|worr\w+|alarm\w*|concern\w*|danger\w*|harm(?:ful)?|wrong"
    r"|amiss|abus\w+|compromis\w+|misuse|foul play|out of the ordinary|suspicio\w+|suspect|wrongdoing|tamper\w+|evil"
    r"|(?:bad|ill|evil|hostile|malicious|sinister|criminal) (?:intent\w*|purpose|will|faith)|mischief|offensive|assault"
    r"|fear|risk|incident|adversar\w+|hack\w+|exploit\w*|malware|infect\w+|remarkable|noteworthy|sinister|trouble)"
)
_WELL = (
    r"(?:normal|ordinary|regular|routine|everyday|day-to-day|healthy|usual|clean|standard|genuine|well-(?:behaved|kept)"
)
_TRAFFIC = (
    r"(?:traffic|communications?|activit(?:y|ies)|behaviou?r|operations?|usage|exchanges?|conversations?|telemetry|flows?"
    r"|devices?|sensors?|clients?|users?|applications?|business|polling|reporting|chatter|transmissions?|sessions?)"
)
# Phrases by which a text calls a flow benign.
BENIGN = re.compile(
    r"\b(?:benign|harmless|innocuous|innocent|legitimate|legit|unsuspicious|inoffensive|peaceful|trustworthy|uneventful"
    r"|non-?malicious|non-?hostile|honest|friendly|well-(?:meaning|intentioned|behaved)|decent|lawful"
    r"|blameless|(?:hurts?|harms?|bothers?|threatens?) (?:nobody|no one|nothing|none)|false (?:alarm|positive)"
    r"|business as usual|all is well|simply does its (?:job|work)"
    rf"|{_WELL}|authori[sz]ed|permitted|unremarkable)\s+(?:(?!of\b)\w+[\s-]){{0,3}}?{_TRAFFIC}"
    r"|(?:is|are|was|were|looks?|seems?|appears?|remains?|stays?|proves?|in|entirely|perfectly|completely|quite|wholly"
    r"|absolutely|altogether)\s+(?:\w+ly\s+)?(?:normal|ordinary|routine|healthy|(?:in\s+)?(?:\w+\s+)?order|all right"
    r"|as it should be|fine|clean|unproblematic|safe|okay|ok|sound|friendly)"
    rf"|nothing\s+(?:\w+\s+){{0,3}}?{_MALICE}"
    rf"|(?:no|any|without|lacks|free of)\s+(?:\w+\s+(?:of|for|to)\s+)?(?:an?\s+|any\s+|real\s+|be\s+)?{_MALICE}"
    r"|(?:not|never|isn't|nobody|no one|none|hardly)\s+(?:is\s+|was\s+|being\s+|been\s+|are\s+)*(?:under attack"
    r"|attack(?:ed|ing|s)?|harmed|hurt|abused|flooded|threatened|targeted|endangered)"
    rf"|(?:not|never|isn't|neither|wrong to (?:call|name|label|treat)\s+\w+)\s+(?:an?\s+|any\s+|at all\s+|in any way\s+"
    rf"|really\s+|part of\s+|the\s+)*(?:(?!wrong|remarkable|noteworthy){_MALICE}))\b(?!-)"
)
# Phrases by which a text calls a flow an attack; attackers and attack tools are spoken of in general.
ATTACK = re.compile(
    r"\b(?:malicious|malign|hostile|nefarious|rogue|illegitimate|adversarial|weaponi\w+|suspicious|dangerous|harmful"
    r"|malware|botnet|victim|adversary|evil|abus\w+|damag\w+|sabotag\w+|culprit|perpetrator|offender|villain|penetrat\w+|steal\w*|theft"
    r"|break(?:s|ing)? in(?:to)?|broke(?:n)? in(?:to)?|taken over|take-?over"
    r"|(?:bring|take|knock|shut)\w*\s+(?:\w+\s+){0,4}(?:down|out)|cripple\w*"
    r"|paraly\w+|disrupt\w*|infected|compromised|intruders?|hackers?|hacked|hijack\w*|tampered|criminal|sinister|threat"
    r"|attack(?!\s+tools?\b)|attacking|attacks\s+(?:the|its|our|a)|up to no good|must be (?:blocked|stopped)"
    r"|intrusion|exploit(?:s|ed)?|assault|offensive|denial of service|reconnaissance|flooded|overwhelmed"
    r"|(?:is|are|being|been|was|were)\s+(?:\w+\s+)?(?:scann|flood|spoof|prob|attack|abus|poison|overrun)(?:ing|ed)"
    r"|(?:an?|the|this|another)\s+(?:\w+[\s-]){0,2}?(?:flood|scan|spoofing|raid|breach|probe for))\b(?!-)"
)
# Words around a mention of another class that make it a comparison. Between them and the mention only MIDDLE stands.
_MIDDLE = (
    r"(?:\s+(?:an?|the|any|of|in|by|from|for|at|to|with|as|typical|seen|found|usual|really|actually|another|other|such|be"
    r"|been|consistent|explained|produced|caused|plain|sort|kind|signs?|evidence|hints?|trace|that|those|one|it|for|what"
    r"|either|both|simple|mere|ordinary|far)){0,4}"
)
COMPARED_BEFORE = re.compile(
    r"(?:\b(?:unlike|not|no|never|neither|nor|without|than|instead of|versus|vs\.?|against|compared (?:with|to)"
    r"|in comparison (?:with|to)|contrast (?:with|to)|opposed to|differ\w*|depart\w*|deviat\w*|distinct\w*|separat\w*"
    r"|far|apart|exclud\w+|rul\w+ out|reject\w*|dismiss\w*|discard\w*|set aside|mistak\w+|confus\w+|absence|free of"
    r"|lack\w*|hardly|less (?:like|typical of)|above|below|beyond|outside|exceed\w*|nothing|might think|could think)"
    rf"|n't){_MIDDLE}\s*$"
    r"|\b(?:unlike|(?:might|could) think of|compared (?:with|to)|in contrast (?:with|to)"
    r"|alternative(?:\s+\w+)?,?)(?:\s+[\w'-]+){0,5}\s*$"
)
COMPARED_AFTER = re.compile(
    r"^(?:,\s+(?:by|in)\s+(?:contrast|turn)|,\s+on the other hand|,\s+however|,\s+meanwhile)?,?"
    r"(?:(?:\s+[\w'-]+){0,6}\s+(?:would|should|could)"
    r"|(?:\s+[\w'-]+){0,2}\s+(?:does not|do not|cannot|can not|did not|is not|are not|fails? to|usually|typically"
    r"|normally|tends? to|is unlikely|is less likely|can be (?:ruled out|excluded|set aside)|differs?|lacks?)"
    r"|(?:\s+[\w'-]+){0,10}\s+(?:less well|set aside|ruled out|excluded|discarded|dismissed|rejected"
    r"|argues? against it))\b"
)
# Phrases that look like a negation and are none.
NO_NEGATION = re.compile(
    r"\b(?:no doubt|(?:without|beyond) (?:an?y? |the slightest )?doubt|no question|not only|not just|not merely"
    r"|(?:nothing|none|no|anything|all) (?:but|other than|else than|else but|short of))\b"
)
# Words by which a text denies its own class, before and after its name.
DENIED_BEFORE = re.compile(
    r"\b(?:not|never|isn't|rather than|instead of|unlike|no|exclud\w+|rul\w+ out|reject\w*|dismiss\w*"
    r"|more [\w\s]{0,60}?than(?: of)?)(?:\s+(?:really|actually|simply|an?|the|any|at all|of|by|case)){0,3}\s*$"
)
DENIED_AFTER = re.compile(
    r"^\s+(?:is|was|can be|must be|has been)\s+(?:\w+\s+)?(?:ruled out|excluded|wrong|set aside|dismissed|rejected"
    r"|incorrect|mistaken|not the|not what)\b"
)
_LABEL = r"(?:class|label|category|classification|verdict|answer|annotation|tag|type of attack|diagnosis)"
_NAMED = (
    r"(?:given|provided|stated|supplied|known|handed|prescribed|disclosed|revealed|dictated|specified|announced|communicated"
    r"|received|preset|predetermined|pre-?assigned|told|classified|labell?ed|annotated|passed on|shared|settled|fixed)"
)
_ASKED = r"(?:task|question|prompt|instructions?|requester|exercise|assignment)"
# Phrases by which a text says that the class was given to it.
LABEL_GIVEN = re.compile(
    rf"\b(?:you|your|yours|told|ground[- ]truth|annotat(?:ion|ions|ed|or)"
    r"|(?:the|this|my)\s+(?:prompt|instructions?|requester)"
    r"|as\s+(?:instructed|requested|told|asked|prompted)|(?:was|were|been|am)\s+(?:asked|instructed|informed|told)"
    rf"|(?:the|this|by|from|with)\s+(?:\w+\s+)?{_ASKED}\s+(?:\w+ly\s+)?(?:say|said|state|name|give|gave|ask|tell|specif|demand"
    r"|require|has|have|wrote|write|settle|decide|provide|supplie|mention|claim|already|itself|that)\w*"
    rf"|(?:with|from|by|in)\s+the\s+{_ASKED}|the\s+(?:user|operator)\s+(?:said|wrote|told|named|gave|asked|stated)"
    rf"|{_NAMED}\s+(?:\w+\s+)?{_LABEL}|(?:true|correct|right|official|actual|assigned|reference)\s+(?:class|label|answer)"
    rf"|(?:given|assuming|since|because|knowing)\s+(?:that\s+)?the\s+(?:\w+\s+)?(?:class|label|answer)"
    rf"|(?:according to|per|as per|following|based on|matches|agrees with|confirms?)\s+(?:the|its|this)\s+"
    r"(?:\w+\s+)?(?:label|annotation|tag)"
    rf"|{_LABEL}\s+(?:\w+\s+){{0,3}}?(?:(?:is|was|were|are|been|be|as|already|beforehand)\s+)(?:\w+\s+)?{_NAMED}(?!\s+by\b)"
    rf"|(?:label|class|category|annotation|tag|verdict|outcome|result),?\s+(?:as\s+)?(?:says|said|reads|states|tells|{_NAMED})"
    rf"|(?:disclosed|announced|revealed|informed|prescribed|predetermined|preordained|foregone|handed|named as)\b"
    rf"|{_LABEL}\s+(?:that\s+)?(?:i|we|was|is)\s+(?:\w+\s+)?{_NAMED}|{_LABEL}\s+handed"
    r"|(?:been|was|is|already|has)\s+(?:already\s+)?(?:been\s+)?(?:labell?ed|annotated|tagged|pre-?classified)"
    r"|from the (?:start|outset|beginning)(?! of)"
    r"|(?:already|is|was|am|are) (?:known|clear|given|aware) (?:from the \w+|beforehand|in advance|to (?:me|us))"
    r"|already\s+classified|(?:comes?|came|arrived?)\s+with\s+(?:its|the|a)\s+(?:class|label)|beforehand|in advance)\b"
)
