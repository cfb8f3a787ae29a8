"""The decorators of steps, where LlamaIndex has them."""

from ironflow.workflows.steps import catch_error, step

__all__ = ["catch_error", "step"]
