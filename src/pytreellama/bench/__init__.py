"""Measurement for ``pytreellama bench`` and ``doctor``: runs, results, reports."""
