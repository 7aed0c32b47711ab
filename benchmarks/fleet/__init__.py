"""Many LoRA trainings of one base model at once, to rank recipes over seeds instead of by single runs."""
