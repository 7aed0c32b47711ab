"""Compute: weights, fine-tuning, serving, and the Celery tasks that drive them."""
