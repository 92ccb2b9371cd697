"""Every figure is a small valid PNG, the same each time, also where there is nothing to draw."""

import base64
import inspect
import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iot_pipeline.evaluation.study import EQUIVALENT, NOTHING_SHOWN
from iot_pipeline.reporting import figures, figures_data, style
from iot_pipeline.reporting.markdown import to_html
from iot_pipeline_tests.reporting import example
from iot_pipeline_tests.reporting.example_facts import make_facts

EVALUATION = example.evaluation(0.93)["views"]["distinct"]
FACTS = make_facts()
MANY = [f"class_{n}" for n in range(12)]
FIGURES: dict[str, Callable[[], bytes]] = {
    "duplicates": lambda: figures_data.duplicates(example.duplicates()),
    "conflicts": lambda: figures.conflicts(example.conflicts()),
    "conflicts, none": lambda: figures.conflicts({"matrix": [[0]], "classes": ["Normal"]}),
    "profile": lambda: figures_data.profile(example.profile_rows()),
    "profile, none": lambda: figures_data.profile([]),
    "confusion": lambda: figures.confusion(EVALUATION["confusion"], example.CLASSES),
    "confusion, 12 classes": lambda: figures.confusion([[n + 1.0] * 12 for n in range(12)], MANY),
    "loss": lambda: figures.loss_curves({"original 10K": example.run(0).curve}),
    "loss, validation": lambda: figures.loss_curves(
        {"a": [{"step": 1, "loss": 2.0}, {"step": 1, "validation_loss": 1.0}]}
    ),
    "loss, none": lambda: figures.loss_curves({}),
    "accuracy": lambda: figures.accuracy(FACTS.track_comparison),
    "accuracy, row": lambda: figures.accuracy(FACTS.track_comparison, "row"),
    "accuracy, none": lambda: figures.accuracy({"rows": []}),
    "study": lambda: figures.study(example.study(3)),
    "study, none": lambda: figures.study(example.study(1) | {"contrasts": []}),
    "reliability": lambda: figures.reliability(EVALUATION["reliability"], EVALUATION["calibrated"]["reliability"]),
    "reliability, none": lambda: figures.reliability([]),
    "cost": lambda: figures.cost(FACTS.cost_report),
    "cost, none": lambda: figures.cost({"rows": []}),
    "token lengths": lambda: figures.token_lengths(np.array([30, 31, 40]), 64, "10K original"),
    "protocol arms": lambda: figures.protocol_arms(FACTS.paper_protocol["arms"], 0.4),
    "variants": lambda: figures.inference_benchmark(FACTS.inference_benchmark["variants"]),
    "variants, none": lambda: figures.inference_benchmark([{"name": "x", "run": False, "reason": "no GPU"}]),
    "leakage": lambda: figures_data.leakage(example.leakage()),
}


def test_a_difference_far_off_does_not_squeeze_the_others_of_a_study() -> None:
    found = example.study(3)
    far = found["contrasts"][0] | {"first": "untrained 10K", "difference": -0.82, "low": -0.84, "high": -0.8}
    axes = inspect.unwrap(figures.study)(found | {"contrasts": [*found["contrasts"], far]})
    left, right = axes.get_xlim()
    assert -0.2 < left < 0 < right < 0.2
    assert "-0.8200" in [text.get_text() for text in axes.texts]


def test_an_accuracy_on_no_row_is_no_bar_of_0() -> None:
    found = example.leakage()
    found["row_wise"]["model"]["never_seen_rows"] = None
    drawn = [text.get_text() for text in inspect.unwrap(figures_data.leakage)(found).texts]
    whole = [text.get_text() for text in inspect.unwrap(figures_data.leakage)(example.leakage()).texts]
    assert drawn.count("0.0") == whole.count("0.0") and len([text for text in drawn if text]) == len(whole) - 1


NARROW = "original 10K is better, by less than the margin"


def test_an_equivalence_is_a_verdict_and_is_drawn_as_one() -> None:
    found = example.study(3)
    for verdict, told in ((EQUIVALENT, True), (NARROW, True), ("original 10K is better", True), (NOTHING_SHOWN, False)):
        axes = inspect.unwrap(figures.study)(
            found | {"contrasts": [row | {"verdict": verdict} for row in found["contrasts"]]}
        )
        assert (style.BLUE in [line.get_color() for line in axes.lines]) is told


def test_differences_of_nothing_are_drawn_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    found = example.study(3)
    same = {"difference": 0.0, "low": 0.0, "high": 0.0}
    far = {"difference": -0.82, "low": -0.84, "high": -0.8}
    rows = [row | (far if place else same) for place, row in enumerate(found["contrasts"])]
    figures.study(found | {"contrasts": rows})
    assert not [str(one.message) for one in recwarn]


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_small_png(name: str) -> None:
    data = FIGURES[name]()
    assert len(data) < 60_000
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "PNG"
        assert 300 < image.width < 2000


def test_long_names_cut_off_no_text_of_a_figure() -> None:
    from matplotlib.text import Text

    timed = {"run": True, "seconds_p50": 1.69, "seconds_p95": 1.74, "flows_per_second": 0.6}
    names = [f"explanation, fp32, batch {n}, 512 tokens, eager attention, not sdpa alone" for n in (1, 32)]
    what = "median of a_long_feature in SOME_CLASS, raw bytes: raw capture against the published median"
    finding = {"what": what, "expected": 2.0, "found": 1.0}
    for drawn in (
        figures.inference_benchmark([{"name": name, **timed} for name in names]),
        figures_data.mismatches({"disagreeing": 1, "checked": 9, "findings": [finding]}),
    ):
        (axes,) = drawn.figure.axes
        ticks = axes.get_xticklabels(which="both")  # also of values beyond the axis
        texts = [one for one in drawn.figure.findobj(Text) if one.get_text() and one not in ticks]
        for box in (text.get_window_extent() for text in texts):
            assert box.x0 >= -1 and box.x1 <= drawn.figure.bbox.x1 + 1
        assert "…" not in "".join(text.get_text() for text in texts)


def many(classes: int) -> dict[str, bytes]:
    """Every figure with a row or column a class."""
    names, sides = [f"DDoS-Some_Flood_{n:02d}" for n in range(classes)], ("train", "validation", "calibration", "test")
    square = (200 * np.eye(classes) + 30 * np.eye(classes, k=1) + np.eye(classes, k=-3)).tolist()
    share = {"duplicate_share_raw": 0.5, "duplicate_share_text": 0.6, "published_share": None}
    quartiles = {"p25": 1.0, "p75": 3.0, "std": 1.0}
    rows = [
        {"class": name, "feature": f"f{place}", "median": 2.0 + place * number, **quartiles}
        for number, name in enumerate(["(all)", *names])
        for place in range(6)
    ]
    values = [{"class": name, "feature": f"f{n}", "value": float(len(name) * n)} for name in names for n in range(8)]
    rules = [{"distinct": {"coverage": 0.5, "precision": 0.9}}]
    return {
        "confusion": figures.confusion(square, names),
        "conflicts": figures.conflicts({"matrix": square, "classes": names}),
        "duplicates": figures_data.duplicates({"by_class": dict.fromkeys(names, share)}),
        "profile": figures_data.profile(rows),
        "patterns": figures_data.patterns({"classes": {key: {"rules": rules} for key in names}, "prior_rules": []}),
        "sides": figures_data.sides({"by_class": {side: {key: {"groups": 10} for key in names} for side in sides}}),
        "samples": figures.samples(pd.DataFrame(values), names, [f"f{n}" for n in range(8)]),
    }


@pytest.mark.parametrize(("classes", "most"), [(34, 60_000), (100, 110_000)])
def test_figures_of_many_classes_fit_a_page(classes: int, most: int) -> None:
    for name, data in many(classes).items():
        with Image.open(io.BytesIO(data)) as image:
            assert len(data) < most, name
            assert 300 < image.width < 2000 and image.height < 2200, name


def test_same_data_gives_the_same_bytes() -> None:
    assert figures_data.duplicates(example.duplicates()) == figures_data.duplicates(example.duplicates())


def test_vector_formats_have_no_date_and_the_pdf_has_fonts_that_publishers_take() -> None:
    first, second = (figures.reliability([{"weight": 1.0, "confidence": 0.5, "accuracy": 0.4}]) for _ in range(2))
    assert first.svg() == second.svg() and first.pdf() == second.pdf()
    pdf = first.pdf()
    assert pdf.startswith(b"%PDF-") and b"/Subtype /Type3" not in pdf and b"/FontFile2" in pdf
    for told in (b"CreationDate", b"Creator", b"Producer"):
        assert told not in pdf
    assert b"<dc:date>" not in first.svg()


def test_no_global_state_is_left() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.reliability(EVALUATION["reliability"])
    assert dict(matplotlib.rcParams) == before


def test_embedding_escapes_the_alternative_text() -> None:
    data = figures.cost({"rows": []})
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    assert style.embed(data, "a ](b) <i>") == f"![a )(b) &lt;i&gt;]({uri})"
    page = to_html(style.embed(data, 'x" onload="y'))
    assert page.startswith(f'<p><img src="{uri}" alt="x&quot; onload=&quot;y" width="614" height="125">')


def test_telling_features_are_those_whose_medians_differ_most() -> None:
    rows = [
        {"class": "(all)", "feature": name, "median": 0.0, "std": std}
        for name, std in (("a", 1.0), ("b", 1.0), ("c", 0.0))
    ] + [
        {"class": label, "feature": name, "median": median, "std": 1.0}
        for name, label, median in (
            ("a", "x", 0),
            ("a", "y", 1),
            ("b", "x", 0),
            ("b", "y", 5),
            ("c", "x", 0),
            ("c", "y", 9),
        )
    ]
    assert figures_data.telling_features(rows) == ["b", "a"]


def test_running_mean_keeps_length_and_constants() -> None:
    line = [(float(n), 3.0) for n in range(400)]
    assert figures.running_mean(line) == line
    assert figures.running_mean([(1.0, 2.0), (2.0, 4.0)]) == [(1.0, 2.0), (2.0, 4.0)]


def test_cells_never_round_to_all_or_none() -> None:
    assert [figures.share_text(value) for value in (0.0, 0.04, 12.34, 99.96, 100.0)] == [
        "0",
        "<0.1",
        "12.3",
        ">99.9",
        "100",
    ]
    assert [figures.short(value) for value in (7, 950, 9_540, 48_210, 1_200_000)] == ["7", "950", "9.5k", "48k", "1.2M"]


@pytest.mark.parametrize("name", ["$\\foo$", "$a$", "a_$x^"])
def test_a_name_between_dollars_is_no_formula(name: str) -> None:
    made = figures.confusion([[1, 0], [0, 1]], [name, "b"]).figure
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == [name, "b"]
    assert not any(label.get_parse_math() for label in made.axes[0].get_yticklabels())


def test_labels_of_a_log_axis_are_plain_numbers() -> None:
    variants = [{"name": name, "run": True, "seconds_p50": s} for name, s in (("a", 0.002), ("b", 0.007))]
    made = figures.inference_benchmark(variants).figure
    told = [label.get_text() for label in made.axes[0].get_xticklabels(which="both")]
    assert any(told) and not any("$" in text for text in told)


def test_mismatches_that_are_no_shares_are_not_called_agreement() -> None:
    report = {"findings": [{"what": "rows of X", "expected": None, "found": 0}], "checked": 5, "disagreeing": 1}
    made = figures_data.mismatches(report).figure.axes[0]
    assert made.get_title(loc="left") == "1 of 5 published facts disagree" and "agree" not in made.texts[0].get_text()
    agreed = figures_data.mismatches({"findings": [], "checked": 5, "disagreeing": 0}).figure.axes[0]
    assert agreed.texts[0].get_text() == "all 5 facts checked agree"
