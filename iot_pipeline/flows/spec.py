"""Data set specs: columns, labels, features, scales and published facts, read from one YAML file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from iot_pipeline.errors import UserError
from iot_pipeline.flows.evidence import Expected, check_evidence, inherited
from iot_pipeline.flows.facts import check_facts
from iot_pipeline.flows.feature import Feature, Format, Scale, Strict
from iot_pipeline.flows.names import CHAT_TOKEN, UNPRINTABLE, check_names
from iot_pipeline.flows.rare_rule import RareClasses, check_classes
from iot_pipeline.flows.reading.names import check_given_names
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.sql import LONGEST_NUMBER, identifier
from iot_pipeline.lake.yaml_reader import read_own_yaml, read_yaml

DATASETS = Path(__file__).parent.parent / "datasets"
WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
FEWEST_CLASSES, MOST_CLASSES, FEWEST_FEATURES, MOST_FEATURES = 2, 100, 1, 200
MOST_EXTENDS = 10


def check_label_keys(labels: Any) -> Any:
    """Return labels as they are; ValueError for one that YAML reads as true or false, which would become 1 or 0."""
    if isinstance(labels, dict) and any(isinstance(key, bool) for key in labels):
        raise ValueError("YAML reads yes, no, on, off, true and false as something else: write such a label in quotes")
    return labels


class PublisherSplit(Strict):
    """Test rows of the publisher: those of files named like `test_files`, or with a value of `test` in `column`."""

    test_files: str | None = Field(default=None, min_length=1)
    column: str | None = None
    test: list[int | str] = Field(default=[])

    @model_validator(mode="after")
    def one(self) -> PublisherSplit:
        """Check that exactly one of the two forms is given, and whole."""
        if (self.test_files is None) == (self.column is None) or (self.column is None) == bool(self.test):
            raise ValueError("publisher_split needs either test_files, or column and test")
        return self

    def is_test(self, value: str) -> bool:
        """Return whether a file name or a cell of the column marks a test row."""
        if self.test_files is not None:
            return fnmatchcase(Path(value).name, self.test_files)
        return normalise_label(value) in map(normalise_label, self.test)


class DatasetSpec(Strict):
    """A data set as described by its YAML file."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    citation: str
    doi: str | None = None
    licence: str
    label_column: str
    column_names: Annotated[list[str], AfterValidator(check_given_names)] = Field(default=[])  # of headless files
    decimal: Literal[".", ","] | None = None  # mark within numbers; None: as the files show
    labels: Annotated[dict[int | str, str], BeforeValidator(check_label_keys)]
    classes: list[str] = Field(min_length=2)
    absent_classes: list[str] = Field(default=[])
    rare_classes: RareClasses | None = None
    # The Farm-Flow edition whose simulation has this table's columns.
    simulated_as: Literal["farm_flow", "farm_flow_8"] | None = None
    publisher_split: PublisherSplit | None = None
    features: list[Feature] = Field(min_length=1)
    # given: published values are scaled; train_pool: texts show z-scores fitted on the train pool; none: raw units.
    scaling: Literal["given", "train_pool", "none"]
    scaling_note: str
    format: Format
    facts: Annotated[dict[str, Any], AfterValidator(check_facts)] = Field(default={})
    expected_evidence: Expected = Field(default={})

    @model_validator(mode="after")
    def consistent(self) -> DatasetSpec:
        """Check that names fit tables and texts, expressions are scalars, and every label maps to a declared class."""
        names = [name for name in self.feature_names if not UNPRINTABLE.search(name)]
        check_texts([(f"the name of feature {name!r}", name) for name in names])
        check_names(self.feature_names)
        named = check_classes(self.classes, self.absent_classes, self.rare_classes)
        check_texts([(f"class {name!r}", name) for name in named])
        for feature in self.features:
            texts = {"unit": feature.unit, "meaning": feature.meaning}
            check_texts([(f"the {key} of feature {feature.name!r}", text) for key, text in texts.items()])
            check_expression(feature, self.label_column)
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        unknown = set(self.labels.values()) - set(self.classes) - set(self.absent_classes)
        if unknown:
            raise ValueError(f"labels lead to classes that are not declared: {sorted(unknown)}")
        told: dict[str, str] = {}
        for code, name in self.labels.items():
            if (other := told.setdefault(normalise_label(code), name)) != name:
                raise ValueError(f"label {normalise_label(code)!r} stands there twice, with classes {other} and {name}")
        scaled = [feature.name for feature in self.features if feature.scale is not None]
        if scaled and self.scaling == "train_pool":
            raise ValueError(f"feature {scaled[0]} has a scale: with scaling train_pool it is fitted")
        if scaled and self.scaling == "none":
            raise ValueError(f"feature {scaled[0]} has a scale, and scaling none says that values are raw: use given")
        check_evidence(self.expected_evidence, self.feature_names, self.classes, self.category_names)
        return self

    @property
    def feature_names(self) -> list[str]:
        """Feature names in the order of the flow text."""
        return [feature.name for feature in self.features]

    @property
    def number_names(self) -> list[str]:
        """Names of the features that are numbers, in order."""
        return [feature.name for feature in self.features if not feature.is_category]

    @property
    def category_names(self) -> list[str]:
        """Names of the features that are categories, in order."""
        return [feature.name for feature in self.features if feature.is_category]

    @property
    def text_columns(self) -> frozenset[str]:
        """Source columns that are categories as they stand, so that their numbers keep their spelling."""
        return frozenset(feature.name for feature in self.features if feature.is_plain_category)

    @property
    def feature_columns(self) -> str:
        """SQL list of the feature columns."""
        return ", ".join(map(identifier, self.feature_names))

    @property
    def fitted_scales(self) -> dict[str, Scale]:
        """Scales that texts apply: those fitted on the train pool (see flows.scaling)."""
        return {f.name: f.scale for f in self.features if f.scale is not None and f.scale.basis == "fitted"}

    @property
    def standardised(self) -> frozenset[str]:
        """Names of the standardised features."""
        return frozenset(feature.name for feature in self.features if feature.standardised)

    def with_scales(self, scales: Mapping[str, Scale]) -> DatasetSpec:
        """Return this spec with scales fitted on the train pool."""
        fitted = [f.model_copy(update={"scale": scales[f.name]}) if f.name in scales else f for f in self.features]
        return self.model_copy(update={"features": fitted})

    def with_values(self, values: Mapping[str, Iterable[str]]) -> DatasetSpec:
        """Return this spec with the printed values that its categories have in the train pool."""
        known = [
            f.model_copy(update={"values": tuple(values[f.name])}) if f.name in values else f for f in self.features
        ]
        return self.model_copy(update={"features": known})

    @property
    def known_values(self) -> frozenset[tuple[str, str]]:
        """Pairs of category and printed value in the train pool; empty before the split (`with_values`)."""
        return frozenset((feature.name, value) for feature in self.features for value in feature.values)

    def of_simulated_rows(self) -> DatasetSpec:
        """Return this spec for rows of the simulator, whose assumed scales are known: it published with them."""

        def known(feature: Feature) -> Feature:
            if feature.scale is None or feature.scale.basis != "assumed":
                return feature
            return feature.model_copy(update={"scale": feature.scale.model_copy(update={"basis": "simulated"})})

        return self.model_copy(update={"features": [known(feature) for feature in self.features]})

    @property
    def source_columns(self) -> list[str]:
        """All source columns needed: those of the features, then the label."""
        needed = [column for feature in self.features for column in feature.source_columns]
        return list(dict.fromkeys([*needed, self.label_column]))

    def label_map(self) -> dict[str, str]:
        """Map normalised label texts to classes: codes, source names and the class names themselves."""
        known = {name: name for name in [*self.classes, *self.absent_classes]}
        return known | {normalise_label(code): name for code, name in self.labels.items()}

    def label_of(self, value: object) -> str | None:
        """Return the class of one source label (3, "3", "3.0", 3.0, " HTTP_Flood "), or None if it is unknown.

        Where the label is a file's name, a member of an archive is known by its own name too.
        """
        text, known = normalise_label(value), self.label_map()
        return known.get(text, known.get(Path(text).name) if self.label_column == SOURCE_FILE else None)


def check_texts(texts: list[tuple[str, str]]) -> None:
    """Raise ValueError for a text that student or teacher would misread; `texts` are (what it is, text).

    A control character starts a new line or is invisible; a chat token ends an answer.
    """
    for what, text in texts:
        if token := CHAT_TOKEN.search(text):
            raise ValueError(
                f"{what} has {token[0]!r} in it, which a tokenizer may read as a control token: write it "
                "without brackets"
            )
        if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
            raise ValueError(f"{what} has a line break or another control character in it: {text!r}")


def check_expression(feature: Feature, label_column: str) -> None:
    """Raise ValueError for a feature whose expression is not a scalar over columns or reads the label."""
    try:
        columns = feature.source_columns
    except ValueError as error:
        raise ValueError(f"the expression of feature {feature.name} cannot be used: {error}") from error
    if label_column.lower() in (column.lower() for column in columns):
        raise ValueError(f"feature {feature.name} reads {label_column}, the label column: a model would be told it")


def check_size(file: str, spec: DatasetSpec) -> None:
    """Raise UserError unless a spec has 1 to 200 features and 2 to 100 classes."""
    for what, number, fewest, most in (
        ("features", len(spec.features), FEWEST_FEATURES, MOST_FEATURES),
        ("classes", len(spec.classes), FEWEST_CLASSES, MOST_CLASSES),
    ):
        if not fewest <= number <= most:
            raise UserError(f"{file}: {what}: it has {number}; a data set has {fewest} to {most} {what}.")


def normalise_label(value: object) -> str:
    """Return one text for a label however it was stored: 3, 3.0, "3", "3.0" -> "3"; other text is stripped."""
    text = str(value).strip()
    is_whole = WHOLE_NUMBER.fullmatch(text) and len(text) <= LONGEST_NUMBER
    return str(int(text.split(".")[0])) if is_whole else text


def list_specs() -> list[str]:
    """List the names of the data sets that come with the project."""
    return sorted(path.stem for path in DATASETS.glob("*.yaml"))


def spec_path(name_or_path: str | Path) -> Path:
    """Return the file of a spec; UserError if it does not exist."""
    text = str(name_or_path)
    path = Path(text) if text.endswith((".yaml", ".yml")) else DATASETS / f"{text}.yaml"
    if not os.path.isfile(path):  # noqa: PTH113 (false for a name that no file can have, where Path raises)
        raise UserError(
            f"there is no data set {text[:200]!r}: use one of {', '.join(list_specs())}, or a path to a .yaml file."
        )
    return path


def read_specs(name_or_path: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read the file of a spec and the chain of files that it extends: (path, content) of each, the base last.

    Raises UserError for a file that is missing, is not a mapping, or extends itself.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    following: Any = name_or_path
    while following is not None:
        path = spec_path(following)
        names = [*(file.name for file, _ in found), path.name]
        if path.resolve() in (file.resolve() for file, _ in found):
            raise UserError(f"{found[0][0].name}: extends: {' extends '.join(names)}: a file cannot extend itself.")
        if len(found) == MOST_EXTENDS:
            raise UserError(f"{found[0][0].name}: extends: more than {MOST_EXTENDS} files extend one another.")
        content = read_own_yaml(path) if path.parent == DATASETS else read_yaml(path)
        if not isinstance(content, dict):
            raise UserError(f"{path.name} does not describe a data set: it must be a mapping with name, features, ...")
        found.append((path, content))
        following = content.get("extends")
    return found


def spec_files(name_or_path: str | Path) -> list[Path]:
    """Return the file of a spec and those that it extends, the base last."""
    return [path for path, _ in read_specs(name_or_path)]


def load_spec(name_or_path: str | Path) -> DatasetSpec:
    """Load a spec by name (see `list_specs`) or from a path to a YAML file.

    A file with `extends: <name>` starts from that data set and replaces the keys it sets. If it sets facts, it inherits
    only the facts named in `keep_facts`; `more_features` are features after the inherited ones.

    Raises UserError for an unknown name, a missing file, or a file that does not follow the format.
    """
    (path, content), *further = reversed(read_specs(name_or_path))
    spec = validate_spec(path, content)
    for path, content in further:
        spec = validate_spec(path, extend(path, spec, content))
    return spec


def extend(path: Path, base: DatasetSpec, content: dict[str, Any]) -> dict[str, Any]:
    """Merge the content of a spec file into the data set that it extends."""
    given = {key: value for key, value in content.items() if key not in ("extends", "keep_facts", "more_features")}
    keep, more = content.get("keep_facts", []), content.get("more_features", [])
    if not isinstance(more, list) or (more and "features" in given):
        raise UserError(f"{path.name}: more_features must be a list, and stand without features.")
    if more:
        given["features"] = [*(feature.model_dump() for feature in base.features), *more]
    if not isinstance(keep, list) or not isinstance(given.get("facts", {}), dict):
        raise UserError(f"{path.name}: keep_facts must be a list of names, and facts a mapping.")
    if unknown := [str(name) for name in keep if name not in base.facts]:
        raise UserError(f"{path.name}: keep_facts: {base.name} has no facts {', '.join(unknown)}.")
    facts = given.get("facts", base.facts)
    kept = {name: base.facts[name] for name in keep if name not in facts}
    evidence = inherited(base.expected_evidence, given, base.feature_names, base.classes)
    return base.model_dump() | given | {"facts": facts | kept, "expected_evidence": evidence}


def validate_spec(path: Path, content: dict[str, Any]) -> DatasetSpec:
    """Validate the content of a spec file; UserError names the file, the key and the problem."""
    try:
        spec = DatasetSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        raise UserError(f"{path.name}: {where}{first['msg'].removeprefix('Value error, ')}.") from error
    check_size(path.name, spec)
    return spec
