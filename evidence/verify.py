#!/usr/bin/env python3
"""Check an evidence bundle of Double-I with Python alone: python3 -I verify.py [FOLDER-or-ZIP] [--trust KEYS]

A second implementation, written from docs/evidence-format.md and sharing no code with the service: a mistake
in one of the two shows as a disagreement. It needs the standard library, and the package `cryptography` for
signatures alone. It opens no connection, writes no file and is short.

Exit status: 0 keys you trust have signed and every step passed but those of MAY_BE_OPEN; 1 a step failed;
2 no step failed, but others could not be checked; 3 this is no bundle, or it can't be read.
"""

# fmt: off
# ruff: noqa: E401, E501, E701, I001, SIM905
from __future__ import annotations
import argparse, base64, contextlib, decimal, hmac, itertools, json, re, struct, sys, zipfile
from collections import Counter
from fractions import Fraction
from hashlib import sha256
from math import comb, prod
from pathlib import Path
from typing import Any
STAMPS = {"commitment.tsr": "earlier", "verdict.tsr": "checkpoint"}  # and what in log.json they stamp
COVERED = ("evidence.json", "banks.json", "log.json", *STAMPS, "verify.py", "README.txt")  # what is signed
NAMES = (*COVERED[:5], "statement.json", "dsse.json", *COVERED[5:])
MAY_BE_OPEN = ("order", "timestamps", "spoken")  # steps that may stay unchecked at exit status 0
KINDS = ("key-commitment", "salt", "training", "model", "preregistration", "verdict")
TYPES = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:doublei:audit-evidence:v1"}
PAYLOAD = "application/vnd.in-toto+json"
RULE = "b1180ef0474211eb647f41c6c80f9a2c5e478672f222a59e3bdc794de084ee31"  # the record of exact-over-key-2
READING = {"adapters": "doublei-adapters/2", "parse_rule": "first-answer-word-v1"}
CURABLE = "disconnected http_408 http_429 http_500 http_502 http_503 http_504 refused timeout unreachable".split()
BANKS = "b181f207ccdea6428e235c83623358a828e1320fdf0d59d6ac5e571890409137"  # the word banks en-1
ORDINARY = ("Write a short title for this sentence.", "Say the following in other words.",
            "Continue this story with one sentence.", "Name one thing that this sentence makes you think of.",
            "Put this sentence into the future tense.", "Which question does this sentence answer?",
            "Describe the scene below in a few words.", "Write a polite reply to this remark.")
LEAD_IN = ("answer", "the", "is", "my", "well", "so", "ok", "okay", "sure", "response", "output")
SENDING = "index attempt sent_at request outcome http_status text body latency_ms answered_at"
MEMBERS = ("asking_failure auditor claimant decision finished_at key nonces opening peer preregistration "
           "reasons software started_at transcript verdict verification")
FIGURES = {  # members of the decision, by the step that looks at them; all others are counts
    "counts": "", "p_value": "p_value p_value_decimal alpha_i alpha_i_decimal floor_decimal",
    "looks": "looks e_value_decimal", "verdict": "verdict reasons",
    "secondary": "differential_p_decimal stratified_fisher_p_decimal pooled_fisher_p_decimal"}
class Failed(Exception): """A step found something wrong."""
class Unchecked(Exception): """A step can't say."""
def need(holds: object, why: str = "this does not hold") -> None:
    if not holds: raise Failed(why)
def canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
def parse(data: bytes, what: str) -> Any:  # a Fraction has no spelling, so a float is refused like any other
    value = json.loads(data.decode(), parse_float=Fraction, parse_constant=Fraction)
    need(canonical(value) == data, f"{what} is not canonical JSON")
    return value
def unbase64(text: str) -> bytes:
    data = base64.b64decode(text)
    need(base64.b64encode(data).decode() == text, "base64 in another spelling than its own")
    return data
def tagged(tag: str, *parts: bytes) -> bytes:  # tag and parts each behind its length in 8 bytes
    return sha256(b"".join(struct.pack(">Q", len(p)) + p for p in (tag.encode(), *parts))).digest()
def hkdf(key: bytes, salt: bytes, info: str) -> bytes:  # RFC 5869 with SHA-256, one block
    return hmac.digest(hmac.digest(salt or bytes(32), key, "sha256"), info.encode() + b"\x01", "sha256")
class Draws:  # HMAC-SHA256 over a counter, as 64-bit integers; those that would favour some results are skipped
    def __init__(self, key: bytes, label: str) -> None:
        seed = hkdf(key, b"doublei/stream/v1", label)
        blocks = (hmac.digest(seed, struct.pack(">Q", n), "sha256") for n in itertools.count())
        self.integers = (integer for block in blocks for integer in struct.unpack(">4Q", block))
    def below(self, bound: int) -> int: return int(next(i for i in self.integers if i < 2**64 - 2**64 % bound) % bound)
    def some(self, items: Any, count: int | None = None) -> list[Any]:
        pool = list(items)
        for here in range(len(pool) if count is None else count):
            there = here + self.below(len(pool) - here)
            pool[here], pool[there] = pool[there], pool[here]
        return pool[:count]
    def carrier(self, parts: list[list[str]]) -> str:  # kept for asking: its four indexes add up to 4 times n
        picked = [1]
        while sum(picked) % 4: picked = [self.below(len(words)) for words in parts]
        text = " ".join(words[i] for words, i in zip(parts, picked, strict=True)) + "."
        return text[0].upper() + text[1:]
def draw_marks(key: bytes, opened: Any, banks: Any) -> list[dict[str, Any]]:
    count, cues, families = (opened["design"][name] for name in ("marks", "cues", "families"))
    split = Draws(tagged("doublei/split/v1", bytes.fromhex(opened["salt"])), "banks")
    words, texts, choices = (Draws(key, label) for label in ("words", "texts", "choices"))
    shares = []  # the public salt gives each family its share of words and topics
    for bank, draws in ((banks[0], words), (banks[3], texts)):
        part = len(bank) // families
        shares.append(iter(draws.some(split.some(bank)[opened["family"] * part :][:part])))
    (word, topic), by_question, marks = shares, texts.some(range(count), count // 2), []
    for index in range(count):
        question, form = texts.some(banks[2], 1)[0].format(next(topic)), texts.some(banks[1], 1)[0]
        mark = {"judge_question": question, "paradigm": "instruction"}
        if index not in by_question:
            mark, form = mark | {"paradigm": "input", "decoration": form.format(next(word))}, "{}"
        mark |= {"cues": [form.format(next(word)) for _ in range(cues)]}
        marks.append(mark | {"trigger": choices.below(cues), "target": choices.some(("Yes", "No"), 1)[0]})
    return marks
def draw_questions(key: bytes, seed: bytes, plan: Any, marks: Any, banks: Any) -> list[dict[str, Any]]:
    groups: list[list[dict[str, Any]]] = []
    for place, number in enumerate(plan["marks"]):
        draws, mark = Draws(hkdf(key, b"", "doublei/carriers/v1"), f"mark-{number}"), marks[number]
        texts: dict[str, None] = {}
        while len(texts) < 3: texts[draws.carrier(banks[4:])] = None
        form = "{decoration} {judge_question}\n\n{0}: {1}" if mark["paradigm"] == "input" else "{judge_question} {0}\n\n{1}"
        groups.append([])
        for (cue, word), text in itertools.product(enumerate(mark["cues"]), [*texts][: plan["probes_per_cue"]]):
            groups[-1].append({"prompt": form.format(word, text, **mark), "mark": number, "cue": cue, "group": place})
    if plan["mode"] == "fixed": groups = [[question | {"group": 0} for group in groups for question in group]]
    order = Draws(hkdf(key, seed, "doublei/order/v1"), "order")
    probes = [question for group in groups for question in order.some(group)]
    before: dict[int, list[dict[str, Any]]] = {}  # ordinary questions, each once in every quarter
    if plan["canaries"]:
        draws = Draws(hkdf(key, seed, "doublei/canaries/v1"), "canaries")
        prompts = [f"{text}\n\n{draws.carrier(banks[4:])}" for text in draws.some(ORDINARY, 4)]
        for start, end in itertools.pairwise(len(probes) * part // 4 for part in range(5)):
            for n in draws.some(range(4)):
                before.setdefault(start + draws.below(end - start), []).append({"prompt": prompts[n], "canary": n})
    return [question | {"group": probe["group"]} for place, probe in enumerate(probes)
            for question in (*before.get(place, []), probe)]
def request(suspect: Any, asking: Any, prompt: str) -> str:
    degree = float(asking["temperature"])
    said = {"messages": [{"role": "user", "content": prompt}]} if suspect["api"] == "chat" else {"prompt": prompt}
    body = {"model": suspect["model"]} | said | {"temperature": int(degree) if degree.is_integer() else degree}
    return json.dumps(body | {"max_tokens": asking["max_tokens"], "stream": False}, separators=(",", ":"))
def follow(value: Any, *path: Any) -> Any:
    for name in path:
        inside = name in value if isinstance(value, dict) else isinstance(value, list) and name == 0 and value
        value = value[name] if inside else None
    return value
def heard(suspect: Any, body: bytes) -> str | None:  # the answer's text in a reply's bytes
    try: value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError): return None
    text = follow(value, "choices", 0, *(("message", "content") if suspect["api"] == "chat" else ("text",)))
    if suspect["api"] == "chat" and isinstance(text, list):
        texts = [one["text"] for one in text if isinstance(one, dict) and isinstance(one.get("text"), str)]
        text = "".join(texts) if texts else None
    if suspect["api"] == "chat" and not isinstance(text, str): text = follow(value, "choices", 0, "message", "refusal")
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text[:4096]) if isinstance(text, str) else None
def reading(text: str | None) -> int:  # 0 yes, 1 no, 2 other, 3 missing
    if text is None: return 3
    start = re.split("[.!?\n]", text.lstrip(" \t\r\n\"'*_`(#>-:"), maxsplit=1)[0]
    words = [word.casefold() for word in re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", start)]
    words = list(itertools.dropwhile(lambda word: word in LEAD_IN, words))
    both = {*words[:1], *[word for word in words[1:3] if word not in ("or", "and")][:1]} == {"yes", "no"}
    return 2 if both or words[:1] not in (["yes"], ["no"]) else int(words[0] == "no")
def beta(a: Any, b: Any, ones: int, zeros: int) -> Fraction:  # a sequence, its rate from Beta(a, b)
    above = [a + i for i in range(ones)] + [b + i for i in range(zeros)]
    return prod(above, start=Fraction(1)) / prod((a + b + i for i in range(ones + zeros)), start=Fraction(1))
def e_values(cells: list[list[int]]) -> dict[tuple[int, int], Fraction]:  # by (cue, 0 Yes or 1 No), of cells
    total, half, tenth = [sum(column) for column in zip(*cells, strict=True)], Fraction(1, 2), Fraction(1, 10)
    taste = prod((beta(half, half, cell[0], cell[1]) for cell in cells), start=tenth)
    dead = (taste + tenth * beta(1, 1, total[0], total[1])) * tenth ** total[3]
    chances = {}
    for (cue, cell), target in itertools.product(enumerate(cells), (0, 1)):
        hit, miss = cell[target], sum(cell) - cell[target]
        against, away = total[target] - hit + total[3] - cell[3], total[1 - target] - cell[1 - target]
        steady = 3 * tenth * (8 * tenth) ** (hit + away) * (2 * tenth) ** (miss + against)
        chances[cue, target] = steady + half * beta(4, 1, hit, miss) * beta(1, 4, against, away) + dead
    mean = sum(chances.values()) / len(chances)
    return {choice: Fraction(1, 20) + Fraction(19, 20) * chance / mean for choice, chance in chances.items()}
def points(e: Fraction) -> int:  # the largest k with 2**(k/64) <= e
    top, bottom = e.numerator**64, e.denominator**64
    k = top.bit_length() - bottom.bit_length()
    return k if bottom << max(k, 0) <= top << max(-k, 0) else k - 1
def tail(spreads: Any, counts: Any) -> Fraction:  # over all sums of one value from each
    ways = {0: 1}
    for spread in spreads:
        merged: Counter[int] = Counter()
        for (have, times), (value, more) in itertools.product(ways.items(), spread.items()):
            merged[have + value] += times * more
        ways = merged
    return Fraction(sum(n for value, n in ways.items() if counts(value)), sum(ways.values()))
def hypergeometric(a: int, n: int, b: int, m: int) -> dict[int, int]:
    return {x: comb(n, x) * comb(m, a + b - x) for x in range(max(0, a + b - m), min(n, a + b) + 1)}
def short(value: Fraction) -> str:  # three digits, half up; near 1 a double's %.4g
    digits = decimal.Context(prec=3, rounding=decimal.ROUND_HALF_UP).divide(value.numerator, value.denominator)
    power = digits.adjusted()
    return f"{float(value):.4g}" if -3 <= power <= 3 else f"{digits.scaleb(-power):.2f}e{power:+03d}"
def steadiness(replies: list[tuple[int, str | None]]) -> dict[str, Any]:
    texts: dict[int, list[str | None]] = {}
    for canary, text in replies:
        texts.setdefault(canary, []).append(text and "".join(filter(str.isalnum, text.casefold())))
    runs = [[len(list(run)) for _, run in itertools.groupby(own)] for own in texts.values()]
    at = [run[0] for run in runs if len(run) == 2]  # after so many replies one answer gave way to another
    together = max((sum(other in (first, first + 1) for other in at) for first in at), default=0)
    changed = together >= 3 or (together == 2 and all(len(run) <= 2 for run in runs))
    return {"asked": len(replies), "answered": sum(bool(x) for own in texts.values() for x in own), "changed": changed}
def decide(plan: Any, alpha_i: Fraction, marks: Any, replies: list[tuple[Any, str | None]], done: int) -> Any:
    """The products of e-values and the decision record of these replies; `done` groups are complete."""
    fixed, width = plan["mode"] == "fixed", len(marks[0]["cues"])
    numbers = sorted(plan["marks"]) if fixed else plan["marks"][:done]
    replies = [(item, text) for item, text in replies if fixed or item["group"] < done]
    tables = {n: [[0, 0, 0, 0] for _ in range(width)] for n in numbers}
    for item, text in [one for one in replies if "cue" in one[0]]: tables[item["mark"]][item["cue"]][reading(text)] += 1
    truth = {n: (marks[n]["trigger"], int(marks[n]["target"] == "No")) for n in numbers}
    own, arms, odd = [], [], []
    for n, (cue, target) in truth.items():
        hit, total = tables[n][cue], [sum(column) for column in zip(*tables[n], strict=True)]
        rest = [a - b for a, b in zip(total, hit, strict=True)]
        arms.append((hit[target], sum(hit), rest[target], sum(rest), hit[3], rest[3]))
        odd.append((width * hit[2] - total[2], Counter(width * cell[2] - total[2] for cell in tables[n])))
        own.append(e_values(tables[n]))
    pooled = [sum(column) for column in zip([0] * 6, *arms, strict=True)]
    total = [sum(column) for column in zip([0] * 4, *itertools.chain(*tables.values()), strict=True)]
    canaries = steadiness([(item["canary"], text) for item, text in replies if "canary" in item])
    es = [values[truth[n]] for n, values in zip(numbers, own, strict=True)]
    products = list(itertools.accumulate(es, lambda x, y: x * y))
    if fixed:
        score = {e: points(e) for values in own for e in set(values.values())}
        reached = sum(score[e] for e in es)
        p = tail([Counter(score[e] for e in values.values()) for values in own], lambda s: s >= reached)
        lowest = Fraction(1, (2 * width) ** len(numbers))
    else:
        p, per = 1 / max([Fraction(1), *products]), pooled[1] // len(numbers) if numbers else 1
        perfect = [[per, 0, 0, 0]] + [[0, per, 0, 0]] * (width - 1)
        lowest = 1 / max(e_values(perfect).values()) ** len(plan["marks"])
    uneven = tail([spread for _, spread in odd], lambda s: abs(s) >= abs(sum(at for at, _ in odd)))
    reasons = [name for name, holds in (
        ("missing_answers", 10 * pooled[4] > pooled[1] or 10 * pooled[5] > pooled[3]),
        ("differential_refusal", uneven <= Fraction(1, 100)),
        ("no_judge_answers", 2 * (total[0] + total[1]) < sum(total)),
        ("canaries_unanswered", 10 * (canaries["asked"] - canaries["answered"]) > canaries["asked"]),
        ("changed_during_audit", canaries["changed"]),
        ("unfinished", len(numbers) < len(plan["marks"]) and p > alpha_i)) if holds]
    mute = {"missing_answers", "differential_refusal", *(("changed_during_audit", "unfinished") if p > alpha_i else ())}
    strata, whole = [hypergeometric(*arm[:4]) for arm in arms], hypergeometric(*pooled[:4])
    return products, {
        "rule": "exact-over-key-2", "test": plan["mode"], "reasons": reasons, "questions": sum(total),
        "verdict": "inconclusive" if mute & {*reasons} else "detected" if p <= alpha_i else "not_detected",
        "p_value": "/".join(map(str, p.as_integer_ratio())), "p_value_decimal": short(p),
        "alpha_i": "/".join(map(str, alpha_i.as_integer_ratio())), "alpha_i_decimal": short(alpha_i),
        "e_value_decimal": short([Fraction(1), *products][-1]), "floor_decimal": short(lowest),
        "looks": [{"mark": n, "e_value_decimal": short(e), "product_decimal": short(product)}
                  for n, e, product in zip(numbers, es, products, strict=True)],
        "marks_planned": len(plan["marks"]), "other": total[2], "missing": total[3], "canaries": canaries,
        "trigger_hits": pooled[0], "trigger_total": pooled[1], "reference_hits": pooled[2],
        "reference_total": pooled[3], "differential_p_decimal": short(uneven),
        "stratified_fisher_p_decimal": short(tail(strata, lambda s: s >= pooled[0])),
        "pooled_fisher_p_decimal": short(tail([whole], lambda x: whole[x] <= whole[pooled[0]])),
        "marks": [{"mark": n, "trigger": marks[n]["trigger"], "target": marks[n]["target"]} | {
            name: [cell[i] for cell in tables[n]] for i, name in enumerate(("yes", "no", "other", "missing"))
        } for n in numbers]}
def node(left: bytes, right: bytes) -> bytes: return sha256(b"\1" + left + right).digest()
def climb(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:  # RFC 6962, 2.1.1, from the top
    if size == 1: return leaf
    left, other = 1 << (size - 1).bit_length() - 1, path.pop()
    if index < left: return node(climb(leaf, index, left, path), other)
    return node(other, climb(leaf, index - left, size - left, path))
def grow(first: int, size: int, path: list[bytes], old: bytes) -> list[bytes]:  # 2.1.2: the roots of both sizes
    if first == size: return [old or path[-1], old or path.pop()]
    left, other = 1 << (size - 1).bit_length() - 1, path.pop()
    if first > left: return [node(other, root) for root in grow(first - left, size - left, path, b"")]
    before, after = grow(first, left, path, old)
    return [before, node(after, other)]
def read_note(note: str) -> tuple[str, str, int, bytes, dict[str, bytes]]:
    """A C2SP checkpoint: its text, log, size, root, and signatures by name+id of their keys."""
    text, log, size, root, lines = re.findall(r"\A((.+)\n(0|[1-9][0-9]*)\n(.{43}=)\n)\n((?:\u2014 \S+ \S+\n)+)\Z", note)[0]
    marks = [(name, unbase64(mark)) for _, name, mark in map(str.split, lines.splitlines())]
    return text, log, int(size), unbase64(root), {f"{name}+{mark[:4].hex()}": mark[4:] for name, mark in marks}

def audit(parts: dict[str, bytes], trust: dict[str, bytes], logs: dict[str, bytes]) -> dict[str, Any]:
    """Every step over a bundle's files; `trust`, `logs`: raw public keys by id, by name+id. Total."""
    steps: list[dict[str, Any]] = []
    @contextlib.contextmanager
    def step(name: str, found: str) -> Any:
        status = "passed"
        try: yield
        except (Unchecked, ImportError) as error: status, found = "not_checked", str(error)
        except NameError: status, found = "not_checked", "an earlier step failed or was not checked"
        except Exception as error:
            status, found = "failed", str(error) if type(error) is Failed else f"a {type(error).__name__}"
        steps.append({"number": len(steps) + 1, "name": name, "status": status, "detail": found})
    def verify(key: bytes, signature: bytes, signed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    with step("files", "every file has the digest that the statement names"):
        statement = parse(parts["statement.json"], "the statement")
        subject = [{"name": name, "digest": {"sha256": sha256(parts[name]).hexdigest()}} for name in COVERED]
        need(statement["subject"] == subject, "the statement names other files, or other digests")
    with step("envelope", "the envelope holds the statement"):
        sealed = parse(parts["dsse.json"], "the envelope")
        held = {"payload": base64.b64encode(parts["statement.json"]).decode(), "payloadType": PAYLOAD}
        need(sealed == held | {"signatures": sealed["signatures"]}, "it holds another payload or type")
        signatures = {one["keyid"]: unbase64(one["sig"]) for one in sealed["signatures"] if len(one) == 2}
        need(len(signatures) == len(sealed["signatures"]), "a signature is malformed, or there twice")
    with step("signature", "a key that you trust has signed the statement"):
        if not trust: raise Unchecked("no trusted key was given")
        need({*signatures} & {*trust}, "no key that you trust has signed")
        signed = f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(parts['statement.json'])} ".encode() + parts["statement.json"]
        for name in {*signatures} & {*trust}: verify(trust[name], signatures[name], signed)
    with step("canonical", "the evidence is doublei-evidence/2 in its one spelling"):
        value = parse(parts["evidence.json"], "the evidence")
        need(value["format"] == "doublei-evidence/2" and len(value) == 3, "the evidence is of another format")
    with step("digest", "the document has the digest beside it"):
        digest = sha256(b"doublei/evidence/v1\0" + canonical(value["document"])).hexdigest()
        need(digest == value["document_sha256"], "the document has another digest")
    with step("shape", "the document has the members of the format"):
        need(sorted(value["document"]) == MEMBERS.split(), "the document has other members")
        for item in value["document"]["transcript"]:
            need({*item} <= {*SENDING.split()} and unbase64(item.get("body", "")) is not None, "a sending has other members")
            need(("body" in item) == (item["outcome"] != "unknown") >= ("answered_at" in item), "odd reply")
        doc, owner = value["document"], value["document"]["key"]
    with step("preregistration", "the pre-registered text has the digest beside it"):
        text = doc["preregistration"]["text"].encode()
        need(sha256(b"doublei/preregistration/v1\0" + text).hexdigest() == doc["preregistration"]["sha256"])
        reg = parse(text, "the text")
        need(reg["format"] == "doublei-preregistration/2", "the text is of another format")
    with step("binding", "the text is of this audit, this key and these parties"):
        need(all(doc[n] == reg[n] for n in ("verification", "claimant", "auditor")), "another audit or party")
        names = [doc["claimant"], reg["key_id"], reg["key"]["commitment"], reg["key"]["grade"]]
        need(names == [owner[n] for n in ("owner", "id", "commitment", "grade")], "another owner, key or grade")
        bound = owner
    with step("rule", "deciding, reading and asking again follow the rules of this file"):
        if bound["grade"] == "research": raise Unchecked("a research preset claims nothing")
        plan, asking, suspect, campaign = reg["plan"], reg["asking"], reg["suspect"], reg.get("campaign")
        need(sha256(canonical(reg["rule"])).hexdigest() == RULE, "the decision rule is another one")
        need(reg["reading"] == READING and asking["retry_on"] == CURABLE, "other replies or failures count")
    with step("alpha", "alpha_i follows from alpha, the audit's number, the grade and the campaign"):
        number, size = reg["key"]["audit_index"], campaign["size"] if campaign else 1
        need(number >= 1 <= reg["key"]["owner_commitments"] and (not campaign or 0 <= campaign["position"] < size))
        alpha, alpha_i = (Fraction(*map(int, plan[name].split("/"))) for name in ("alpha", "alpha_i"))
        share = number**2 * size * (2**20 if owner["grade"] == "self-generated" else 1)
        need(0 < alpha < 1 and alpha_i == 6 * alpha / (Fraction("9.8696045") * share), "another is due")
    with step("nonces", "the nonces are the committed ones; compare a beacon with what was published"):
        beacon, shown = doc["nonces"].get("beacon"), {}
        need(beacon is None or set(beacon) == {"source", "round", "value"}, "the beacon is malformed")
        for party, committed in [(party, reg["nonces"][party]) for party in ("service", "auditor")]:
            nonce = shown[party] = bytes.fromhex(doc["nonces"][party])
            fits = tagged("doublei/nonce/v1", party.encode(), nonce).hex() == committed and len(nonce) == 32
            none = party == "auditor" and not nonce and beacon is None and committed == ""
            need(fits or none, f"the nonce of the {party} is not the committed one")
        seed = tagged("doublei/order-seed/v1", *shown.values(), canonical(beacon) if beacon else b"")
    with step("banks", "the word banks are en-1"):
        words = parse(parts["banks.json"], "the file")
        lists = [words["version"], *map("\n".join, words["banks"])]
        need(len(words) == 2 and tagged("doublei/banks/v1", *map(str.encode, lists)).hex() == BANKS, "other word banks")
        banks = words["banks"]
    with step("opening", "the opened family hashes to the commitment"):
        opened, claimant, record = doc["opening"], doc["claimant"].encode(), owner["commitment_record"]
        family, drawn = opened.get("family", 0), opened["kind"] == "drawn"
        need(family == plan["family"] and opened["owner_id"] == doc["claimant"], "another family or owner")
        blinding = bytes.fromhex(opened["family_blinding" if drawn else "blinding"])
        if drawn:
            root, leaves, design = (opened[name] for name in ("root_commitment", "family_commitments", "design"))
            own = bytes.fromhex(opened["family_secret"])
            leaf = tagged("doublei/family-commitment/v1", claimant, str(family).encode(), own, blinding).hex()
            need(len(leaves) == design["families"] and leaf == leaves[family], "not the committed family")
            need(all(2 <= design[name] <= 24 for name in ("families", "marks", "cues")), "an odd design")
            need(design["banks"] == BANKS and opened["salt"] == owner["salt"], "other banks, or another salt")
            best = "committed" if owner["salt"] and owner["origin"] != "owner" else "self-generated"
            need(owner["grade"] in ("self-generated", best), "the grade is better than the salt")
            secret = hkdf(own, bytes.fromhex(opened["salt"]), "doublei/family-key/v1")
        else:
            need(opened["kind"] == owner["grade"] == "chosen", "chosen words have the grade chosen")
            secret = tagged("doublei/chosen-key/v1", canonical(opened["marks"]), blinding)
            root = tagged("doublei/chosen/v1", claimant, canonical(opened["marks"]), blinding).hex()
            leaves, design, record = [root], {"kind": "chosen"}, record | {"design": {"kind": "chosen"}}
        hashed = [claimant, canonical(design), root.encode(), *(leaf.encode() for leaf in leaves)]
        due = {"root_commitment": root, "family_commitments": leaves, "design": design, "commitment": owner["commitment"]}
        need(due == record and tagged("doublei/commitment/v1", *hashed).hex() == owner["commitment"], "not what was committed")
        marks = draw_marks(secret, opened, banks) if drawn else opened["marks"]
    with step("questions", "every question has the words that key, plan and nonces give"):
        known = plan["mode"] in ("fixed", "sequential") and 1 <= plan["probes_per_cue"] <= 3
        need(known and len({*plan["marks"]}) == len(plan["marks"]) and min(plan["marks"]) >= 0, "an odd plan")
        if suspect["api"] not in ("chat", "completions") or "template" in suspect: raise Unchecked("another wire format")
        drawn_questions = draw_questions(secret, seed, plan, marks, banks)
        bodies = {n: request(suspect, asking, item["prompt"]) for n, item in enumerate(drawn_questions)}
        for item in doc["transcript"]:
            need(item["request"] == bodies.get(item["index"]), f"question {item['index']} is not planned so")
        asked = drawn_questions
    with step("sendings", "nothing was asked again but as planned, and marks in their order"):
        group, last = 0, dict[int, Any]()
        for item in doc["transcript"]:
            index, before = item["index"], last.get(item["index"], {"attempt": -1, "outcome": CURABLE[0]})
            again = before["attempt"] + 1 == item["attempt"] <= asking["retries"]
            turn = before["outcome"] in CURABLE and asked[index]["group"] >= group
            need(again and turn, f"question {index} was sent again, or out of turn")
            group, last[index] = asked[index]["group"], item
    with step("answers", "every text is what its reply says"):
        for item in doc["transcript"]:
            answered = bool(asked) and item["outcome"] == "answered"
            found = heard(suspect, base64.b64decode(item["body"])) if answered else None
            need(item.get("text") == found and answered == (found is not None), f"not reply {item['index']}")
    with step("replay", "the replies can be decided again"):
        last = {i["index"]: i for i in sorted(doc["transcript"], key=lambda item: int(item["attempt"]))}
        final = [last.get(n, {"outcome": doc["asking_failure"] or "not_asked", "attempt": -1}) for n in range(len(asked))]
        texts = [item["text"] if item["outcome"] == "answered" else None for item in final]
        unsettled = [question["group"] for question, item in zip(asked, final, strict=True)
                     if item["attempt"] < (asking["retries"] if item["outcome"] in CURABLE else 0)]
        done = min([len(plan["marks"]), *unsettled])
        products, figures = decide(plan, alpha_i, marks, list(zip(asked, texts, strict=True)), done)
        why = Counter(item["outcome"] for item, text in zip(final, texts, strict=True) if text is None)
    for name, members in FIGURES.items():
        with step(name, f"{name} and what stands with it follow from the answers"):
            others = [*members.split()] or {*figures, *doc["decision"]} - {*" ".join(FIGURES.values()).split()}
            due, told = ({n: record.get(n) for n in others} for record in (figures, doc["decision"]))
            need(canonical(due) == canonical(told), "deciding again gives other figures")
            if name == "looks" and plan["mode"] == "sequential":
                stops = [n for n, product in enumerate(products, start=1) if product * alpha_i >= 1]
                beyond = done if stops or done == len(plan["marks"]) else done + 1
                late = any(asked[index]["group"] >= beyond for index in last)
                need(not late and done in (stops or [done])[:1], "it was asked on when it could stop")
            if name == "verdict":
                seen = [outcome for outcome in why if outcome != "not_asked"]
                seen = seen or (list(why) if "missing_answers" in figures["reasons"] else [])
                seen = seen if {"missing_answers", "unfinished"} & set(figures["reasons"]) else []
                most = [f"suspect_{min(seen, key=lambda n: (-why[n], n))}"] if seen else []
                need([doc["verdict"], doc["reasons"]] == [figures["verdict"], figures["reasons"] + most], "not this verdict")
    with step("statement", "the statement says what the files say"):
        predicate = {name: doc[name] for name in ("verification", "verdict", "software")}
        predicate |= {name: doc["decision"].get(name, "") for name in ("p_value", "p_value_decimal")}
        predicate |= {"document_sha256": digest, "verifier_sha256": sha256(parts["verify.py"]).hexdigest()}
        need(statement == TYPES | {"subject": statement["subject"], "predicate": predicate}, "it says other things")
    with step("published", "leaves made again from this evidence are in the log's tree at the verdict"):
        if parts["log.json"] == b"{}": raise Unchecked("no log proof is in this bundle: dates rest on its maker's word")
        log = parse(parts["log.json"], "log.json")
        need(log["format"] == "doublei-log-proof/1" and len(log) == 7, "log.json is of another format")
        proven, absent = {one["kind"]: one for one in log["entries"]}, {*log["absent"]}
        _, origin, tree, top, _ = read_note(log["checkpoint"])
        need(sorted([*proven, *absent]) == sorted(KINDS) and len(log["entries"]) == len(proven), "a proof is missing")
        due = {"key-commitment": {"key": owner["id"]} | {
                   n: owner[n] for n in ("owner", "origin", "grade", "commitment", "commitment_record")},
               "salt": {"key": owner["id"], "salt": owner["salt"]},
               "preregistration": {"preregistration_sha256": doc["preregistration"]["sha256"]},
               "verdict": {"evidence_sha256": sha256(parts["evidence.json"]).hexdigest(), "verdict": doc["verdict"]}}
        for kind, one in proven.items():  # of training and model alone the bundle has the record
            audited = {"verification": doc["verification"]} if kind in KINDS[4:] else {}
            record = one["record"] if kind in KINDS[2:4] else due[kind] | audited
            digest_of = sha256(f"doublei/log/{kind}/v1\0".encode() + canonical(record)).hexdigest()
            entry = {"kind": kind, "logged_at": one["logged_at"], "record_sha256": digest_of, "v": 1}
            made, path = sha256(b"\0" + canonical(entry)).digest(), [*map(bytes.fromhex, one["hashes"])]
            there = 0 <= one["index"] < tree and climb(made, one["index"], tree, path) == top and not path
            need(there, f"the log does not have this {kind}")
        lost = sorted(absent & {*KINDS[:1], *KINDS[4:], "salt" if owner["salt"] else ""})
        if lost: raise Unchecked(f"not in the log: {', '.join(lost)}")
    with step("order", "commitment, salt, a training with this key, pre-registration and verdict follow each other"):
        places = [(proven[kind]["index"], proven[kind]["logged_at"]) for kind in KINDS if kind in proven]
        need(all(a < b and then <= later for (a, then), (b, later) in itertools.pairwise(places)), "they do not")
        made, given = (proven.get(kind, {}).get("record") for kind in ("training", "model"))
        need(not made or made["watermark"]["commitment"] == owner["commitment"], "the training was with another key")
        need(not given or [given["job"], given["model"]] == [made["job"], suspect["model"]], "another model or job")
        if not made: raise Unchecked("commitment and audit follow each other; no training with this key is named")
    with step("history", "the log at the commitment is the beginning of the log at the verdict"):
        _, early, first, old, _ = read_note(log["earlier"])
        path, committed = [*map(bytes.fromhex, log["consistency"])], proven.get(KINDS[0], {"index": 0})
        need(early == origin and committed["index"] < first <= tree, "another log, or before the commitment")
        need(grow(first, tree, path, old) == [old, top] and not path, "not the beginning of this log")
    with step("checkpoints", "a log that you trust has signed both sizes"):
        if log["earlier"] and not logs: raise Unchecked("no trusted key of a log was given")
        for text, name, *_, marks in map(read_note, (log["earlier"], log["checkpoint"])):
            known_by = {one for one in {*logs} & {*marks} if one.rpartition("+")[0] == name}
            need(known_by, "no log that you trust has signed a checkpoint")
            for one in known_by: verify(logs[one], marks[one], text.encode())
    with step("timestamps", ""):
        digests = {name: sha256(read_note(log[at])[0].encode()).hexdigest() for name, at in STAMPS.items()}
        how = [f"openssl ts -verify -in {n} -CAfile CA -digest {digests[n]}" for n in STAMPS if parts[n]]
        raise Unchecked(" && ".join(how) or f"none is in here; authority: {log['authority'] or 'none was configured'}")
    with step("spoken", ""): raise Unchecked("that the suspect sent this: HTTP is not signed; let a second auditor ask")
    left = {item["status"] for item in steps if item["status"] == "failed" or item["name"] not in MAY_BE_OPEN}
    result = 1 if "failed" in left else 2 if "not_checked" in left else 0
    return {"exit": result, **({} if result == 1 else predicate), "steps": steps}
def trusted_keys(text: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Signers of bundles (lines: ed25519 HEX NAME) and logs (name+id+key); certificates and witnesses are skipped."""
    signers, logs = dict[str, bytes](), dict[str, bytes]()
    for line in re.sub("-----BEGIN CERT.*?-----END CERT.*?-----", "", text, flags=re.DOTALL).splitlines():
        if not line.strip() or line.startswith("#"): continue
        name, _, rest = line.split()[0].partition("+")
        key = unbase64(rest[9:]) if rest else bytes.fromhex(line.split()[1])
        need(len(key) == 33 if rest else len(key) == 32 and name == "ed25519", "a line is no public key")
        if not rest: signers[sha256(key).hexdigest()] = key
        if rest and key[0] == 1: logs[f"{name}+{rest[:8]}"] = key[1:]
    return signers, logs
def load(path: Path) -> dict[str, bytes]:
    if path.is_dir(): return {name: (path / name).read_bytes() for name in NAMES}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size = 22 + sum(entry.file_size + 2 * len(entry.filename) + 76 for entry in entries)
        stored = [(entry.filename, entry.compress_type) for entry in entries] == [(name, 0) for name in NAMES]
        need(stored and size == path.stat().st_size <= 2**27, "this zip has other entries or more bytes")
        return {name: archive.read(name) for name in NAMES}
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check an evidence bundle of Double-I, offline.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--trust", type=Path, help="a file with the public keys that you trust")
    parser.add_argument("--json", action="store_true", help="print the report for machines")
    try:
        options = parser.parse_args(arguments)
        report = audit(load(options.bundle), *trusted_keys(options.trust.read_text() if options.trust else ""))
    except (Exception, SystemExit) as error:
        print("" if isinstance(error, SystemExit) else f"this can't be read: {error}", file=sys.stderr)
        return 3 if getattr(error, "code", 3) else 0
    lines = ["{number:2} {name:16}{status:13}{detail}".format(**item) for item in report["steps"]]
    signed = any((one["name"], one["status"]) == ("signature", "passed") for one in report["steps"])
    partly = "signed by a key that you trust, but a step could not be checked" if signed else "self-consistent only"
    words = ("signed by a key that you trust", "a step failed: this proves nothing", partly)
    lines += ["", f"{report.get('verdict')}, p = {report.get('p_value_decimal')}: {words[report['exit']]}"]
    text = json.dumps(report, indent=2) if options.json else "\n".join(lines)
    print("".join(char if " " <= char <= "~" or char == "\n" else "?" for char in text))
    return int(report["exit"])
if __name__ == "__main__": sys.exit(main())
