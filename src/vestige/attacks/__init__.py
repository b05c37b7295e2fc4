"""Attacks: one a file, one final class each, named like the file; nothing else belongs here."""
