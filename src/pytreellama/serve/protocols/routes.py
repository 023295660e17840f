"""The routes of all protocols, for an app."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from pytreellama.serve.protocols.anthropic_routes import anthropic_router
from pytreellama.serve.protocols.llama_routes import llama_router, rerank_router
from pytreellama.serve.protocols.ollama_routes import ollama_router
from pytreellama.serve.protocols.responses_routes import responses_router
from pytreellama.serve.service import Service

ROUTERS: tuple[Callable[[Service], APIRouter], ...] = (ollama_router, llama_router)
"""Make the other routes."""
V1_ROUTERS: tuple[Callable[[Service], APIRouter], ...] = (
    anthropic_router,
    responses_router,
    rerank_router,
)
"""Make the routes whose paths begin with the version, which clients may leave out."""
