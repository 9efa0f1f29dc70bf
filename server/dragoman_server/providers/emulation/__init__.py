"""Stands in for features that a model lacks, where that is honest."""
