"""Prompt files: what is read, and the sentence for each mistake a user can make in one."""

from pathlib import Path

import pytest

from iot_pipeline.augmentation import prompts
from iot_pipeline.augmentation.prompts import load_prompt, parse_prompt
from iot_pipeline.errors import UserError

GOOD = "---\nmodel: m\ntemperature: 0.5\ntop_p: 1\nmax_tokens: 64\n---\n{{ label }} {{ flow }}\n"


@pytest.mark.parametrize("track", ["original", "paraphrased", "feature_varied"])
def test_the_projects_prompts_load_as_they_are(track: str) -> None:
    found = load_prompt(Path(prompts.__file__).parent.parent / "prompts" / f"{track}.md", model="other")
    assert (found.model, found.params()["top_p"], len(found.sha256)) == ("other", 0.95, 64)


def test_a_prompt_is_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(GOOD.replace("{{ label }}", "[system]\nBe brief.\n[user]\n{{ label }}"))
    assert load_prompt(path).render(label="Normal", flow="x: 1") == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Normal x: 1"},
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("---\nmodel", "model", "front matter"),
        ("temperature: 0.5", "temperature: 5", "temperature"),
        ("top_p", "topp", "topp"),
        ("{{ flow }}", "{{ flw }}", "unknown variable 'flw'"),
        ("{{ flow }}", "{{ flow", "line"),
        ("{{ flow }}", "", "neither"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.md"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError, match=r"mine\.md") as error:
        load_prompt(path)
    assert said in str(error.value)


def test_a_variable_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text(GOOD)
    with pytest.raises(UserError, match=r"mine\.md.*'flow' is undefined"):
        load_prompt(path).render(label="Normal")


@pytest.mark.parametrize("front", ["model: " + "[" * 3000, "a: &a [x, x]\nmodel: [*a, *a", "model: 2026-13-45"])
def test_front_matter_that_is_no_plain_yaml_is_one_sentence(front: str) -> None:
    with pytest.raises(UserError, match=r"^p\.md: the front matter"):
        parse_prompt(f"---\n{front}\n---\n{{{{ flow }}}}", "p.md")
