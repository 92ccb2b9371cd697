"""The student's base and its LoRA fine-tuning, run in processes of their own.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
