"""A command in this process, as `resformer NAME ...` runs it in one of its own."""

from importlib import import_module


def run_command(name, *arguments):
    """Its exit status."""
    return import_module(f"modeling_resformer.commands.{name}").main([str(argument) for argument in arguments])
