"""Plugins for other programs: ``llm``, and lm-evaluation-harness. See docs/integrations.md."""
