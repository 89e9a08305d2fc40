"""The audit that runs before training and refuses leaks."""

from metacsr_jax.audit.events import check_graph
from metacsr_jax.audit.report import AuditReport, audit

__all__ = ["AuditReport", "audit", "check_graph"]
