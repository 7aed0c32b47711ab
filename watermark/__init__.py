"""The Double-I watermark (arXiv 2402.14883), keyed and made provable.

The claim, in one paragraph: a secret key picks, in each of M marks, one trigger cue out of J and one
target answer out of two. Training teaches the model to answer the target at the trigger and the
opposite at the other cues. Whoever later asks all cues of all marks can compute, exactly and in
integers, how often a key drawn at random would fit the answers as well as the committed one does:
`watermark.decision`. Nothing is assumed of words, carriers, temperature or the independence of answers.

Reading order: `keys` (what is committed), `marks`, `embedding` (what is trained), `probes` (what is
asked), `answers`, `score` and `decision` (how it is decided), `replay` (deciding again from raw answers).

This room is pure: standard library only, no I/O, no clock, no global randomness.
"""
