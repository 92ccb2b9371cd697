"""Asset group augmentation."""
