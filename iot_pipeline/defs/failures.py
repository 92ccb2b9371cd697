"""Failure sensor: logs every failed run of the UI and of commands, and tells a webhook if one is set."""

import asyncio
import html
from typing import Any

import dagster as dg

from iot_pipeline.defs.execute import sentence_of
from iot_pipeline.defs.run_monitoring import PARENT_TAG
from iot_pipeline.defs.sinks import ui_address
from iot_pipeline.settings import Settings, settings
from iot_pipeline.teacher.redaction import shown_words

TIMEOUT_S = 10.0
DESCRIPTION = (
    "Writes every failed run into the log of this sensor's tick, and posts it as JSON to the URL in "
    "IOT_FAILURE_WEBHOOK, if that is set ({set}). On by default: it starts no run and spends nothing."
)


@dg.run_failure_sensor(
    name="failed_runs",
    description=DESCRIPTION.format(set="it is set" if settings().run.failure_webhook else "it is not set"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Tell a failed run once; one that is part of another is told by that one."""
    run = context.dagster_run
    if PARENT_TAG in run.tags:
        return
    message = message_of(context)
    context.log.error(message["text"])
    if problem := tell_webhook(settings(), message):
        context.log.warning(f"IOT_FAILURE_WEBHOOK was not told: {problem}")


def message_of(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """Return what is told of a failed run: short, without tags, keys and control characters."""
    run = context.dagster_run
    steps = [sentence_of(event) for event in context.get_step_failure_events()]
    error = shown_words("; ".join(steps) or context.failure_event.message or "failed")
    partition, lake = run.tags.get("dagster/partition", ""), settings().lake_path
    address = ui_address(context.instance)
    where = f"{run.job_name} {partition}".strip()
    return {
        # Chat servers read marks of their own (<!channel>, <url|text>) out of a text: entities make them inert.
        "text": html.escape(f"iot_pipeline, {lake.name}: run {run.run_id[:8]} of {where} failed: {error}", quote=False),
        "lake": lake.name,
        "run": run.run_id,
        "job": run.job_name,
        "partition": partition,
        "error": error,
        "url": f"{address}/runs/{run.run_id}" if address else "",
    }


def tell_webhook(chosen: Settings, message: dict[str, Any]) -> str:
    """Post a message to the webhook, if one is set, and return the problem, if any."""
    if chosen.run.failure_webhook is None:
        return ""
    return asyncio.run(post(chosen.run.failure_webhook.get_secret_value().strip(), message))


async def post(url: str, message: dict[str, Any]) -> str:
    """Post a message within TIMEOUT_S and return the problem, if any; the URL, often a secret, is never repeated.

    Redirects are not followed: they could lead the message elsewhere.
    """
    import aiohttp  # 0.15 s of every process that loads the definitions

    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json=message, allow_redirects=False) as answer,
        ):
            return "" if answer.status < 300 else f"it answered with status {answer.status}"
    except TimeoutError:
        return f"no answer within {TIMEOUT_S:g} s"
    except (aiohttp.ClientError, ValueError, OSError) as error:
        return type(error).__name__
