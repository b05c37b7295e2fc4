"""The harness: what audits and sequences are both made of, each piece a run."""
