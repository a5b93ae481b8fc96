"""Make a network smaller: one method a file in ``methods/``, one criterion a file in ``scores/``.

``base`` says what a method is and what it works on; ``statistics/`` observes a network on data; ``repair/`` mends what
a method has done, without training; ``order`` says which methods go together, and in which order.
"""
