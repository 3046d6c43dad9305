"""Lessons that ask before they tell, and the glossary."""
