"""Speaks the Gemini API outward."""
