"""Asking a suspect: transport, adapters, raw transcript. No database, no torch, no verdict.

What is collected here is never scored here, so that collecting can't be tuned by the verdict.
"""
