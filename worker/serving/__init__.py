"""An OpenAI-compatible inference server: one frozen base model in memory, many LoRA adapters beside it.

Reading order: `decoder` (the arithmetic of one step), `kv_blocks` (memory and prefix reuse), `schedule` (who
takes part in a step), `engine` (the loop), `app` (the wire). Nothing outside this package imports it: it is
reached over HTTP with an internal token, so `vllm serve --enable-lora` can stand in its place.

Shape letters used in this package:

    N  tokens of one step, all rows laid end to end (never padded)
    R  rows of one attention group       Q  queries a row, padded inside its group
    L  keys a row, padded to whole blocks
    H  key/value heads                   G  query heads sharing one key/value head
    D  size of one head                  E  hidden size            V  vocabulary
"""
