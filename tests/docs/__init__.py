"""Tests of the documentation: links, examples that run, and pages generated from the code."""
