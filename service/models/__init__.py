"""Base models from the catalogue, and the fine-tuned models that jobs publish."""
