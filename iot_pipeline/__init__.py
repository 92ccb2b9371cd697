"""iot_pipeline: IoT network flows in, a small language model out that names the attack and says why.

It holds the version alone: nothing is imported, so that every entry point stays fast.
"""

__version__ = "0.1.0"
