"""One dispute, judged from its files: what a report says, as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from evidence.dispute.cross import PLACES, CrossTest, cross_test
from evidence.dispute.lineage import Lineage, lineage_of
from evidence.dispute.order import Order, order_of
from evidence.log.note import PublicKey
from evidence.log.receipt import Receipt
from watermark.numerals import decimal_text

FORMAT = "doublei-dispute/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """All that four audits and two commitments say of a dispute."""

    test: CrossTest
    order: Order
    lineage: Lineage

    @property
    def false_claim_bound(self) -> str:
        """The chance that either key is shown in either model without being in it is at most this."""
        return decimal_text(
            sum((party.false_claim_bound for party in self.test.parties.values()), Fraction(0))
        )

    def to_record(self) -> dict[str, object]:
        """For machines, and for the page."""
        return {
            "format": FORMAT,
            "parties": {letter: party.to_record() for letter, party in self.test.parties.items()},
            "audits": [self.test.cells[place].to_record() for place in PLACES],
            "plans_sha256": self.test.declaration,
            "plans_fixed_before_first_question": self.test.declared_first,
            "false_claim_bound": self.false_claim_bound,
            "pattern": self.lineage.pattern.value,
            "earlier_in_lineage": self.lineage.earlier,
            "headline": self.lineage.headline,
            "order": self.order.to_record(),
            "supports": list(self.lineage.supports),
            "cannot_decide": list(self.lineage.cannot_decide),
        }


def judge(files: Sequence[bytes], receipts: Mapping[str, Receipt], logs: Sequence[PublicKey]) -> Judgment:
    """Judge a dispute. The same files, receipts and keys give the same record.

    Args:
        files: four evidence files, as `cross_test` takes them.
        receipts: of the parties' commitments, where there are any.
        logs: the keys of logs whose signature counts.

    Raises:
        DisputeInvalid: the files make up no cross test.
    """
    test = cross_test(files)
    order = order_of(test.parties, receipts, logs)
    return Judgment(test=test, order=order, lineage=lineage_of(test, order))
