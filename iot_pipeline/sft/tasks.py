"""Student tasks on a flow: explain (class and reasons) or classify (class alone)."""

from collections.abc import Iterator
from typing import Any, Literal

from iot_pipeline.errors import UserError
from iot_pipeline.models.tokenizer import LABEL_LINE

Task = Literal["explain", "classify"]
# `explain`: rows as the teacher wrote them. `both`: each row also as a question for the class alone, so that a class
# costs one forward pass in either answer order.
Tasks = Literal["explain", "both"]


def asked(flow: str, task: Task, tasks: Tasks) -> str:
    """Return the user text for `task`: the flow alone if there is one task only, else with the task named after it."""
    return flow if tasks == "explain" else f"{flow}\nTask: {task}"


def with_tasks(row: dict[str, Any], tasks: Tasks) -> Iterator[dict[str, Any]]:
    """Yield a chat row once for each task; for `both`, UserError if the answer has no class line."""
    user, assistant = row["messages"]
    if tasks == "explain":
        yield row
        return
    line = next((line for line in assistant["content"].splitlines() if line.startswith(LABEL_LINE)), None)
    if line is None:
        raise UserError(f"a training answer has no {LABEL_LINE} line, so no class can be asked for alone")
    for task, answer in (("explain", assistant["content"]), ("classify", line)):
        text = asked(user["content"], task, tasks)  # type: ignore[arg-type]
        yield {"messages": [{**user, "content": text}, {**assistant, "content": answer}]}
