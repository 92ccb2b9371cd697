"""Training: LoRA fine-tuning of the student's base, in processes of its own.

Nothing is imported here: importing one module loads only that module.
"""
