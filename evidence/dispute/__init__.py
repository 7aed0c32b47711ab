"""Two owners, two models: what four audits and the order of the commitments support, and what not."""
