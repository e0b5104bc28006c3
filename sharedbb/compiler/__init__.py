"""From a pipeline to a program: the one place where a spec meets a component."""

from sharedbb.compiler.assemble import build_network, compile_pipeline

__all__ = ["build_network", "compile_pipeline"]
