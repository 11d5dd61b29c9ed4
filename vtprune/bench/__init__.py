"""What things cost and what they are worth, measured: the pipeline, the selectors, the methods.

Nothing is imported here, so that the selectors can be measured where only torch is installed.
"""
