"""The paper's tables, figures and claims, made anew: what to run, what to measure of it, and the page that shows it.

Imports everything else of the library; nothing of the library imports it.
"""
