"""How the native library is made: the rooms behind build.py.

errors, progress, processes  what the others speak with
environment                  .venv in the checkout (runs before anything is installed)
pin, patches, sources        what is compiled
toolchain                    what it is compiled with, and for which machine
cache                        where finished and unfinished builds are kept
native                       the build itself, from a recipe to staged files
"""
