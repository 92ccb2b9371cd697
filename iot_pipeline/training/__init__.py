"""Training: LoRA fine-tuning of the student's base, in processes of its own."""
