"""`iot-pipeline grammar`: the grammar of answers to one flow of a file."""

from iot_pipeline.commands.checkpoint import words_of_expressions
from iot_pipeline.commands.data_set import writer_of
from iot_pipeline.errors import UserError
from iot_pipeline.flows.unlabelled import read_unlabelled
from iot_pipeline.inference.grammar import facts_to_cite, gbnf, lark
from iot_pipeline.lake.store import Lake
from iot_pipeline.settings import Settings


def grammar_of(settings: Settings, flows: str, row: int, form: str) -> str:
    """Return the grammar of answers to one flow, as the lake's flow texts print it.

    Args:
        settings: The present settings.
        flows: Files as in IOT_SOURCE.
        row: Row of the file, from 1.
        form: `lark` or `gbnf`.

    Raises:
        UserError: The form or row does not exist, the lake has no flow texts, or a flow is invalid.
    """
    if form not in ("lark", "gbnf"):
        raise UserError(f"--form {form}: lark or gbnf")
    lake = Lake(settings.lake_path)
    lake.check_exists()
    writer = writer_of(lake, settings)
    table = read_unlabelled(writer.spec, flows, words=words_of_expressions(settings, writer.spec))
    if not 1 <= row <= len(table):
        raise UserError(f"--row {row}: {flows} has rows 1 to {len(table):,}")
    text = writer.texts(table.iloc[row - 1 : row])[0]
    found = gbnf(facts_to_cite(text, writer.spec.standardised), writer.spec.classes, settings.teacher.answer_order)
    return lark(found) if form == "lark" else found
