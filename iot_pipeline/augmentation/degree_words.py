"""Words of degree in prose, and the words that bind them to a feature."""

from __future__ import annotations

import re

from iot_pipeline.augmentation.symbols import Alphabet

# Every form of a word counts (`degree`), so that a list has one form unless the others are irregular.
HIGH_WORDS = (
    "high heighten elevate elevation raise raised increase spike surge soar jump leap peak climb rise rose risen"
    " large big huge enormous massive vast immense gigantic giant colossal tremendous heavy excessive excess inflate"
    " inflation abundant abundance ample plentiful plenty profuse substantial considerable sizeable sizable maximal"
    " maximum maximise numerous many swell swollen balloon bloat skyrocket rocket shoot shot escalate escalation"
    " amplify amplified boost oversize outsize overlarge overblown overinflate overstate overgrown exaggerate overly"
    " tower steep great roof prolong long extend grow grew grown growth mount multiply multiplied intense intensify"
    " burgeon bulge explode explosion flare upward upsurge uptick hefty bulky copious lavish extreme extensive"
    " generous upper top accelerate augment expand magnify magnified double triple quadruple lofty exorbitant"
    " prodigious whopping hot mushroom boom mighty overabundant overabundance glut surplus ceiling pronounced strong"
    " conspicuous voluminous mammoth outsized stratospheric superabundant lengthen lengthy overdone uplift upswing"
    " hike monstrous"
)
LOW_WORDS = (
    "low lowered reduce reduction decrease drop dip fall fell fallen plunge plummet decline diminish diminution"
    " minimal minimum minimise minuscule miniscule minute tiny small little few scant scanty scarce scarcity sparse"
    " sparing slim negligible marginal meagre meager modest limited restrict restricted restrained depress suppress"
    " shrink shrank shrunk shrunken sink sank sunk slump shallow thin faint weak deficient deficit dearth paucity"
    " shortage shortfall insignificant trivial paltry puny lesser curtail subdue mute dwindle tumble collapse crash"
    " recede vanish lean lack absence absent nil zero null nothing empty short shorten bottom nadir trough slight"
    " minor infinitesimal microscopic downward ebb wane abate decay contract deflate compress slash halve cut drain"
    " deplete exhausted nosedive nought naught poor bare skimpy starve lowly diminutive undersize understate"
    " underwhelm underweight crater tank nonexistent mere feeble trickle humble impoverished floor ground subnormal"
    " underdeveloped lacklustre skinny vestigial wither dampen stunted deflated depleted squeezed imperceptible"
    " crumble shrivel subside weaken scaled-down"
)
_NAMES = (
    "value values reading readings level levels figure figures count counts number numbers amount amounts quantity"
    " measurement measurements metric metrics magnitude size sizes side end tail"
)


class Degrees(Alphabet):
    """Symbols of words as they matter to degrees: H and L for high and low, in any form of a listed word."""

    def __missing__(self, word: str) -> str:
        stem = _stem(word)
        found = "H" if stem in HIGH else "L" if stem in LOW else ""
        if found:
            self[word] = found
        return found or super().__missing__(word)


def _stem(word: str) -> str:
    """Return a word without its endings: elevated, elevates -> elevat; dropped, drops -> drop; towering -> tow."""
    while (stem := ENDING.sub("", word)) != word:
        word = stem
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


ENDING = re.compile(r"(?<=[a-z]{3})(?:ing|ed|es|er|est|en|s|e|y|ies|ied|ier)$")
HIGH, LOW = frozenset(map(_stem, HIGH_WORDS.split())), frozenset(map(_stem, LOW_WORDS.split()))
DEGREES = Degrees(
    {
        # More, less: of degree beside a reference alone.
        "R": "more over beyond past atop up greater bigger",
        "r": "less fewer down under beneath underneath lesser",
        "E": "exceed* surpass* outstrip* outpac* eclips* dwarf* tops topped topping beats overtak* outrank*"
        " overshoot* overshot outnumber* outdo* outdoes outgrow* outrun* overrun* outclass* transcend*",
        "e": "trail* lags lagged lagging undershoot* undershot undercut* misses",
        "=": "usual normal median mean average typical expected expectation* ordinary most others other customary"
        " standard norm norms rest common baseline reference middle range typically usually used normally"
        " commonly observed normality par benchmark regular everything",
        "T": "than",
        "N": "not no never n't *n't hardly barely scarcely neither nor without nowhere",
        "n": "indicat* importance relevance weight use interest significance sign signs signal signals evidence"
        " hint* help part parts role* clue* confidence meaning reason* doubt support contribution piece factor*"
        " extent deal degree share difference certainty attention",
        "s": "so because since means meaning suggest* indicat* impl* whose when if where who would could might"
        " should speaks points tells reflects depends unlike but yet though although hence thus how why whether",
        "b": "of in for at by the a an its their any such that this",  # before a feature as well
        "v": _NAMES,  # before a feature as well
        "t": "is are was were has have had be been being stands reads lies sits comes shows showing show reaches"
        " remains stays looks seems appears becomes which it here very quite rather far well much too still also"
        " notably even out on as to with flow record measured recorded given and all again both itself there"
        " above below p goes through most extra such kept runs gets turns grows came taken equals indeed next"
        " close near almost side what one might call now can described termed called considered said makes made"
        " make go gone registers demonstrates exhibits displays got among from up down over under more way ( ) ["
        " ] : =",
        "a": "*ly",
    }
)
for mark in "()[]:=":
    DEGREES[mark] = "t"
