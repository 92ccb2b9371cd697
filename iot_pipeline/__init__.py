"""iot_pipeline: IoT network flows in, a small language model out that names the attack and says why.

Only the package's own version belongs here; nothing is imported so that every entry point stays fast.
"""

__version__ = "0.1.0"
