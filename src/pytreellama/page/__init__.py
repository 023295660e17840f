"""The page: every step's tree in a browser, beside the text, live or as one file.

``steps`` says what a page is told of a step, ``document`` holds the files it is made of. All of it
is served or written from here: a page asks no other address for anything.
"""
