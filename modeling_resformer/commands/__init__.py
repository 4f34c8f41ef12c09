"""What `resformer NAME` and `scripts/NAME.py` do, a file each: its docstring is the help, `parse` its flags, `main` the rest.

`import modeling_resformer` brings torch along, which takes seconds. So a command imports the standard library and
`flags.py` at its top, and the rooms that do the work only in `main`, once the flags are understood; `launch.py` answers
`--help` and refuses mistakes before the package is imported. The rooms import nothing from here.
"""
