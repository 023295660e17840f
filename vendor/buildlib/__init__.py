"""How the native library is made: the rooms behind build.py.

errors, progress, processes  what the others speak with
environment                  .venv in the checkout (runs before anything is installed)
pin, patches, sources        what is compiled
toolchain                    what it is compiled with, and for which machine
cache                        where finished and unfinished builds are kept
series, git, checkout, bump,
necessity, patch_commands    the patch series as commits, for those who keep it
compile_commands             what clangd reads
recipe, modules              all that decides what a build makes; its two Python modules
native                       the build itself, from a recipe to finished artifacts
staging                      finished artifacts, and into the package folder with them
"""
