"""Shared by all tests: no IOT_* setting or key of the developer leaks in; child processes share the cores well."""

import os

for name in [name for name in os.environ if name.startswith("IOT_") or name == "OPENAI_API_KEY"]:
    del os.environ[name]
# Spinning threads slow each other down tenfold when processes share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
