"""One LoRA fine-tuning run, as its own program: `python -m worker.finetune --config run.json`.

Knows no queue, no database, no HTTP and no job id: it reads rows, trains, reports JSON lines on stdout
and leaves a peft adapter in a folder. Reading order: `train.py` (the loop), `dataset.py` (rows and what
carries loss), `batches.py` (what one step sees), `llama.py` (the fast forward and backward pass),
`transformer.py` (the general one).

Shape suffixes of tensor names in this package:

    B  rows in a step                     T  positions of a padded row
    U  distinct positions in a step       N  positions that carry loss
    D  hidden size                        F  feed-forward size
    H  query heads   K  key/value heads   G  query heads per key/value head (H = K * G)
    E  size of one head                   V  vocabulary   R  LoRA rank   W  angle pairs of a head (E / 2)
"""
