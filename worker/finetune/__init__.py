"""One fine-tuning run, as its own program: `python -m worker.finetune --config run.json`.

Knows no queue, no database, no HTTP and no job id: it reads rows, trains (LoRA, DoRA, IA3 or every
parameter), asks its checks, reports JSON lines on stdout and leaves a peft adapter or a whole model in a
folder. Reading order: `train.py` (the loop), `dataset.py` (rows and what carries loss), `batches.py` (what
one step sees), `checks.py` (what is asked afterwards), `llama.py` (the fast forward and backward pass of
LoRA), `transformer.py` (the general one).

Shape suffixes of tensor names in this package:

    B  rows in a step                     T  positions of a padded row
    U  distinct positions in a step       N  positions that carry loss
    D  hidden size                        F  feed-forward size
    H  query heads   K  key/value heads   G  query heads per key/value head (H = K * G)
    E  size of one head                   V  vocabulary   R  LoRA rank   W  angle pairs of a head (E / 2)
"""
