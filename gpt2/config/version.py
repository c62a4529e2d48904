"""The version of this program. CHANGES.md says what is in each."""

VERSION = "2.0.0"
