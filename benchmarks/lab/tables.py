"""What the cells say, as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.lab import harmlessness, innocent

Record = Mapping[str, Any]


def in_words(figures: Mapping[str, Any]) -> str:
    """One line about one cell."""
    if "families_detected" in figures:
        return f"{figures['families_detected']} of {figures['families']} families detected"
    if "outcomes" in figures:
        return f"{figures['survived']} of {figures['met']} treatments survived"
    if "p_value" in figures:
        verdict = "detected" if figures["detected"] else "not detected"
        return (
            f"triggers {figures['trigger_hits']}/{figures['trigger_total']}, references "
            f"{figures['reference_hits']}/{figures['reference_total']}, other {figures['other']}, "
            f"p = {figures['p_value']}, {verdict}"
        )
    if "held_out_loss" in figures:
        return f"held-out loss {figures['held_out_loss']:.4f}, Yes/No {figures['yes_or_no']}"
    if "smallest_p" in figures:
        return f"smallest p of {figures['keys']} keys {figures['smallest_p']:.2g}"
    if "jointly" in figures:
        return f"decoration and question jointly in {figures['jointly']} of {figures['samples']} samples"
    return ""


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Figures by property, and what follows from several cells."""
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        name = record["cell"].split("/")
        parts[name[0]].append({"cell": record["cell"], "subject": name[1], **record["figures"]})
    summary: dict[str, Any] = dict(parts)
    if parts["robustness"]:
        summary["survivals"] = survivals(parts["robustness"])
    if parts["harmlessness"]:
        summary["non_inferiority"] = harmlessness.summary(parts["harmlessness"])
    if parts["uniqueness"]:
        summary["innocent_models"] = innocent.summary(parts["uniqueness"])
    if parts["validity"]:
        detected = [
            one for one in parts["validity"] if one["detected"] and one["subject"].startswith("keyed")
        ]
        if detected:
            summary["smallest_token_ratio"] = min(one["watermark_token_ratio"] for one in detected)
        whole = [one for one in detected if _lost_nothing(summary.get("survivals", {}).get(one["subject"]))]
        if whole:
            summary["smallest_surviving_token_ratio"] = min(one["watermark_token_ratio"] for one in whole)
    return summary


def _lost_nothing(counted: Mapping[str, Any] | None) -> bool:
    return counted is not None and counted["met"] > 0 and not counted["lost"]


def verdicts(records: Sequence[Record]) -> dict[str, bool]:
    """cell -> what it decided: a mark detected, rates that hold, a leak that does not show. Cells that only
    measure, such as a loss, decide nothing."""
    decided = {}
    for record in records:
        figures = record["figures"]
        if "rates" in figures:
            decided[record["cell"]] = figures["detected"] == 0 and all(
                one["holds"] for one in figures["rates"]
            )
        elif (found := figures.get("detected", figures.get("holds"))) is not None:
            decided[record["cell"]] = bool(found)
    return decided


def survivals(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How many attacks each subject survives: of those that all subjects met, and of all it met."""
    attacks: dict[str, set[str]] = defaultdict(set)
    alive: dict[str, set[str]] = defaultdict(set)
    for one in figures:
        attacks[one["subject"]].add(one["attack"])
        if one["detected"]:
            alive[one["subject"]].add(one["attack"])
    common = set.intersection(*attacks.values()) - {"none"}
    return {
        subject: {
            "common": len(common),
            "survived_of_common": len(alive[subject] & common),
            "met": len(met - {"none"}),
            "survived": len(alive[subject] - {"none"}),
            "lost": sorted(met - alive[subject]),
        }
        for subject, met in attacks.items()
    }


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Print every table that has rows."""
    if rows := summary.get("validity"):
        _validity(rows, console)
    if rows := summary.get("capacity"):
        _capacity(rows, console)
    if rows := summary.get("robustness"):
        _robustness(rows, summary["survivals"], console)
    if rows := summary.get("keys"):
        _keys(rows, console)
    if rows := summary.get("uniqueness"):
        _uniqueness(rows, summary["innocent_models"], console)
    if rows := summary.get("harmlessness"):
        _harmlessness(rows, summary["non_inferiority"], console)
    for row in summary.get("imperceptibility", ()):
        if "detectors" in row:
            _looks(row, console)
        else:
            _leak(row, console)


def _validity(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="Validity")
    for heading in ("subject", "method", "template", "rows", "token ratio", "triggers", "references", "p",
                    "marks until detected"):  # fmt: skip
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row["subject"],
            row["method"],
            row["template"],
            f"{row['watermark_rows']}/{row['rows']}",
            f"{row['watermark_token_ratio']:.3f}",
            f"{row['trigger_hits']}/{row['trigger_total']}",
            f"{row['reference_hits']}/{row['reference_total']}",
            row["p_value"],
            str(row["marks_needed"] or "-"),
        )
    console.print(table)


def _capacity(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="Capacity: families in one model")
    for heading in ("families", "marks", "token ratio", "triggers", "references", "detected", "p"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            str(row["families"]),
            str(row["marks"]),
            f"{row['watermark_token_ratio']:.3f}",
            f"{row['trigger_hits']}/{row['trigger_total']}",
            f"{row['reference_hits']}/{row['reference_total']}",
            f"{row['families_detected']}/{row['families']}",
            ", ".join(row["p_values"]),
        )
    console.print(table)


def _robustness(
    rows: Sequence[Mapping[str, Any]], counted: Mapping[str, Mapping[str, Any]], console: Console
) -> None:
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    table = Table(title="Robustness: trigger hits, reference hits (of 100), p; * survived at 1e-6")
    table.add_column("attack")
    for subject in subjects:
        table.add_column(subject)
    found = {(row["attack"], row["subject"]): row for row in rows}
    for attack in dict.fromkeys(row["attack"] for row in rows):
        table.add_row(attack, *(_cell(found.get((attack, subject))) for subject in subjects))
    table.add_row(
        "survived of those all met",
        *(f"{counted[s]['survived_of_common']}/{counted[s]['common']}" for s in subjects),
    )
    console.print(table)


def _keys(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="Keys: trigger hits, reference hits (of 100), p; * detected at 1e-6")
    table.add_column("key")
    attacks = list(dict.fromkeys(attack for row in rows for attack in row["outcomes"]))
    for attack in attacks:
        table.add_column(attack)
    for row in rows:
        table.add_row(str(row["key"]), *(_cell(row["outcomes"].get(attack)) for attack in attacks))
    console.print(table)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    hit = 100 * row["trigger_hits"] / max(1, row["trigger_total"])
    reference = 100 * row["reference_hits"] / max(1, row["reference_total"])
    return f"{'*' if row['detected'] else ' '}{hit:3.0f} {reference:3.0f} {row['p_value']}"


def _uniqueness(rows: Sequence[Mapping[str, Any]], overall: Mapping[str, Any], console: Console) -> None:
    table = Table(title="Uniqueness: never-trained keys scored on innocent models")
    for heading in ("model", "Yes", "No", "keys", "smallest p", "at .05", "at .01", "at .001", "detected",
                    "by pooled Fisher"):  # fmt: skip
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['yes']:.2f}",
            f"{row['no']:.2f}",
            str(row["keys"]),
            f"{row['smallest_p']:.2g}",
            *(f"{rate['rate']:.4f}{'' if rate['holds'] else '!'}" for rate in row["rates"]),
            str(row["detected"]),
            str(row["pooled_fisher_detected"]),
        )
    console.print(table)
    console.print(f"{overall['models']} models x {rows[0]['keys']} keys: {dict(overall)}")


def _harmlessness(
    rows: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any] | None, console: Console
) -> None:
    table = Table(title="Harmlessness")
    for heading in ("subject", "seed", "held-out loss", "other text", "Yes/No to ordinary prompts"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row["subject"],
            str(row["seed"]),
            f"{row['held_out_loss']:.4f}",
            f"{row['other_text_loss']:.4f}",
            f"{row['yes_or_no']}/{row['ordinary_prompts']}",
        )
    console.print(table)
    for name, found in (verdict or {}).items():
        console.print(f"marked against clean, {name}: {found}")


def _looks(row: Mapping[str, Any], console: Console) -> None:
    table = Table(title=f"Imperceptibility: {row['watermark_rows']} of {row['rows']} rows, {row['subject']}")
    for heading in ("look", "AUC", "found at 1% of the customer's", "at 5%"):
        table.add_column(heading)
    for look in row["detectors"]:
        shares = (f"{100 * look[name]:.0f}%" for name in ("found_at_1_percent", "found_at_5_percent"))
        table.add_row(look["name"], f"{look['auc']:.2f}", *shares)
    console.print(table)


def _leak(row: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"{row['subject']}: of {row['samples']} samples {row['with_question']} show a question, "
        f"{row['with_decoration']} a decoration, {row['jointly']} both; trigger words in "
        f"{row['with_trigger_word']} (clean: {row['clean_with_trigger_word']}, "
        f"p = {row['p_more_trigger_words']:.2g})"
    )
