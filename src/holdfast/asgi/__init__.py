"""The edge of a service: pure ASGI middleware around any application, and no framework.

Each class takes the application and its settings, and can be used alone; `stack.Stack` composes them in the one order that
works. What they know of a request stands in its `RequestContext`; what goes wrong is answered with a `Problem`.
"""

from .context import RequestContext, context_of, current_request
from .problems import Problem, RequestRefused, problem_for, send_problem

__all__ = [
    "Problem",
    "RequestContext",
    "RequestRefused",
    "context_of",
    "current_request",
    "problem_for",
    "send_problem",
]
