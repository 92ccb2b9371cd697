"""Mentions of the label as something given: by a request, by a data set, or beforehand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from iot_pipeline.augmentation.answers import plain_label
from iot_pipeline.augmentation.lexicon import GIVEN
from iot_pipeline.augmentation.prose import GENERIC
from iot_pipeline.augmentation.symbols import OWN, sentences

# Over the symbols of `lexicon.GIVEN`; C is the name of the own class.
FAULTS = re.compile(
    r"Y|[QW][Ll]|I[avz]{0,3}n|sn|Dd*x?[QL]|sd*Q(?![pyP])"  # you, the task's class, I was told, as asked, per the label
    r"|K[Ca,]{0,2}[LlA]|[;,]?KC"  # the true label
    r"|[Gg][xdaCoK]{0,2}[Ll]|(?:^|d)[Gg]C?A|kd*[Cx]?[LlA]|B.{0,4}[Ll]"  # the given class
    # The class was given, but not: the class is given by its values.
    r"|[Ll][CadpyPvxITo,;]{0,4}[Ggn](?!a*[yP](?!.{0,2}[QUIY]|d?z))|[Ll][Cadvx,;]{0,4}B|[Ll],?[vs][Gg](?:s|,)|s[Gg];"
    r"|Av?[avz]{0,3}[Gg](?:[pyP]|z|$)|A[av]{0,2}z"  # the answer was supplied with the request
    r"|[Ll][Cd,;ax]{0,2}(?:R|v[az]{0,2}h|vz)|[Ll]C?;C|L[^.,;]{0,5}[RI]"  # the label says
    r"|Q[azvC]{0,3}[RGgBn]|(?:U|Wx?)[azv]{0,3}(?:[RGgn].*[CLlAI]|[RGg]d?C)|[QW]vC|Q;C"  # the prompt says
    r"|[pyPu]d*x?Q(?:[.,;vd]|$).*[LlCI]|[LlCI].*[pyPu]d*x?Q(?:[.,;pyPz]|$)"
    r"|[py]dW(?:[.,;vd]|$).*[LlI]|[LlI].*[py]dW(?:[.,;pyz]|$)"  # from the request ... the class
    r"|I[avz]{0,3}[Gg].*[LlCQA]|I[az]{0,3}[ku].*[LlC]|[Gg][apyP]{0,2}I(?:[.,;d]|$)|[LlC].*[ku][pyP]I"
    r"|[Gn][^,;]{0,6}C|C[,;]?s[azv]{0,2}[Ggn]|Cv{1,2}[az]*G(?!a*[pyP])|B.{0,4}C"
    r"|z.*[LlC]|[LlC].*z"
    r"|(?:[IpyP]|^)[avdx]{0,3}e[avdtpyPw]{0,4}C|[In][apyP]*e|s[dv]{0,2}G[^;]{0,10}C|[Ll]I|I[avx]{0,3}Rw|I[avx]{0,2}[pyP]dL"
    r"|[pyPu]d*(?:CL|L)(?:[.,;]|$|[CIvdt])|u[pyP]?d*L"
)
SPEAKS_OF_IT = re.compile("[YLlCIQWUABDn]")


def given_faults(words: Sequence[str], label: str) -> list[str]:
    """Return a fault if an analysis says that its label was given to it."""
    if plain_label(label) in GENERIC:
        words = [OWN if word == label.lower() else word for word in words]
    symbols = GIVEN.of(words)
    for start, end in sentences(symbols):
        said = symbols[start:end]
        found = FAULTS.search(said) if SPEAKS_OF_IT.search(said) else None
        if found is not None:
            told = " ".join(words[start + found.start() : start + min(found.end(), found.start() + 8)])
            return [f"label given: {told!r}"]
    return []
