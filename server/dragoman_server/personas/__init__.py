"""Personas: who answers, and how."""
