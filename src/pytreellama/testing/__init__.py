"""Instruments for tests and benches; a user's package does not have them.

They show what the product keeps to itself: the masks that attention used (``probe``), the cells of
a KV cache (``cells``), one attention op or one product by itself (``attention``, ``products``),
texts split by ``std::regex`` (``std_regex``), the seconds of passes (``pass_times``), and samplers
of llama.cpp's chain (``chains``). Their C++ is ``vendor/testing``, built as a module of its own:
``python3 build.py build --extra test``.
"""
