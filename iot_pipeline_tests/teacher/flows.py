"""Small flows and requests that the tests of teacher and augmentation share."""

from collections.abc import Callable

from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.teacher.request import Request

CLASSES = ["Normal", "HTTP_Flood", "Port_Scanning"]
STANDARDISED = frozenset({"resp_pkts", "orig_pkts", "resp_ip_bytes", "fwd_header_size_max", "flow_iat.avg"})
SYSTEM = """Known classes: Normal, HTTP_Flood, Port_Scanning
- resp_pkts (packets, standardised): answers
- orig_pkts (packets, standardised): sent
- resp_ip_bytes (bytes, standardised): answered bytes
- fwd_header_size_max (bytes, standardised): header
- flow_iat.avg (microseconds, standardised): gap
Answer in this form:
CLASSIFICATION: <class>
ANALYSIS: <about 40 words>
KEY_INDICATORS: <feature> <value>"""


def flow_text(number: int) -> str:
    """A flow all of whose values are unique to `number`, so that an answer to another flow is ungrounded."""
    return "\n".join(
        f"{name}: {sign}{number}.{decimals}"
        for name, sign, decimals in (
            ("orig_pkts", "", "125"),
            ("resp_pkts", "-", "501"),
            ("resp_ip_bytes", "-", "537"),
            ("fwd_header_size_max", "", "169"),
            ("flow_iat.avg", "", "004"),
            ("flow_pkts_per_sec", "", "711"),
        )
    )


def make_requests(count: int, model: str = "gpt-4o-mini", max_tokens: int = 400) -> list[Request]:
    """`count` different requests, each about its own flow."""
    return [
        Request(
            model,
            (
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"<flow>\n{flow_text(n)}\n</flow>\nTrue class: {CLASSES[n % 3]}"},
            ),
            {"temperature": 0.7, "top_p": 0.95, "max_tokens": max_tokens, "seed": 1},
            "1",
        )
        for n in range(count)
    ]


def checker(requests: list[Request]) -> Callable[[Request, str], list[str]]:
    """The real check of each request's answer against its own flow."""
    numbers = {request.messages[-1]["content"]: number for number, request in enumerate(requests)}

    def check(request: Request, text: str) -> list[str]:
        number = numbers[request.messages[-1]["content"]]
        return check_answer(text, flow_text(number), CLASSES[number % 3], CLASSES, STANDARDISED)

    return check
